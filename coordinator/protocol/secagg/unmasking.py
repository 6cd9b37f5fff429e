"""The end of a cohort: its vectors' sum, and the masks taken out of it."""

import collections
import itertools
from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np

from coordinator.protocol.digests import Bytes
from coordinator.protocol.secagg import fixed_point, keys, masks, shamir
from coordinator.protocol.secagg.cohort import Cohort
from coordinator.protocol.secagg.fixed_point import CohortSum, Encoding
from coordinator.protocol.secagg.masks import Sign, Words
from coordinator.protocol.secagg.messages import Reveal, Secret
from coordinator.protocol.secagg.refusals import (
    AbortReason,
    CohortAborted,
    WrongVector,
)

_Masks: TypeAlias = list[tuple[bytes, Sign]]
#: By owner and secret, the shares by the index of who holds them.
_Shares: TypeAlias = collections.defaultdict[tuple[int, Secret], dict[int, bytes]]


def empty_sum(encoding: Encoding) -> Words:
    """Return the sum of no vectors."""
    return np.zeros(encoding.length, np.uint32)


def check_vector(body: Bytes, encoding: Encoding) -> None:
    """Check a masked vector as it came. There is nothing else to see in it.

    Raises:
        WrongVector: It has another length.
    """
    if len(body) != encoding.size_bytes:
        raise WrongVector(
            f"a masked vector has {encoding.size_bytes} bytes, got {len(body)}"
        )


def add_vector(total: Words, body: Bytes, encoding: Encoding) -> None:
    """Add a masked vector to a sum, modulo 2**32. Changes ``total``.

    Raises:
        WrongVector: It has another length.
    """
    check_vector(body, encoding)
    total += np.frombuffer(body, "<u4")


def unmask(
    cohort: Cohort,
    sharers: Collection[int],
    survivors: Collection[int],
    reveals: Mapping[int, Reveal],
    total: Words,
    *,
    threads: int = 1,
) -> CohortSum:
    """Take all masks out of the survivors' sum. Changes ``total``.

    Args:
        cohort: The cohort.
        sharers: As ``stages.choose_sharers`` chose.
        survivors: Whose vectors were added.
        reveals: By index, checked by ``stages.check_reveal``; as many as
            ``stages.waiting_for`` waits for, or more.
        total: The sum of the survivors' masked vectors, and the vectors' in the end.
        threads: Over which masks are expanded.

    Raises:
        CohortAborted: A secret cannot be rebuilt, or is not what was announced, or
            what comes out is no sum of so many vectors.
    """
    masks.add_all(
        total, _masks_in(cohort, sharers, survivors, reveals), threads=threads
    )
    added = fixed_point.decode(total, cohort.manifest.encoding, devices=len(survivors))
    if added is None:
        raise CohortAborted(
            AbortReason.WRONG_SUM,
            f"what came out is no sum of {len(survivors)} devices: one of them gave "
            "wrong shares, masked for others than it was told, or lied",
        )
    return added


def _masks_in(
    cohort: Cohort,
    sharers: Collection[int],
    survivors: Collection[int],
    reveals: Mapping[int, Reveal],
) -> _Masks:
    """Return what takes every mask out of the sum of the survivors' vectors."""
    digest = cohort.manifest.digest
    alive = {*survivors}
    shares: _Shares = collections.defaultdict(dict)
    for holder, reveal in reveals.items():
        for each in reveal.shares:
            shares[each.peer, each.of][holder] = each.share
    found: _Masks = []
    for index in sorted(alive):
        secret = _rebuild(cohort, shares, index, "own_mask")
        found.append((keys.own_mask_key(secret, digest), -1))
    for index in sorted({*sharers} - alive):
        partners = alive.intersection(cohort.neighbours[index])
        if not partners:
            continue
        private = keys.load(_rebuild(cohort, shares, index, "masking_key"))
        if keys.public_of(private) != cohort.members[index].announcement.masking_key:
            raise CohortAborted(
                AbortReason.WRONG_SHARES,
                f"shares of index {index} rebuild another key than it announced",
            )
        for peer in sorted(partners):
            public = cohort.members[peer].announcement.masking_key
            key = keys.pair_mask_key(private, public, digest, index, peer)
            # The survivor added it where its index is the lower one.
            found.append((key, -1 if peer < index else 1))
    return found


def _rebuild(cohort: Cohort, shares: _Shares, index: int, of: Secret) -> bytes:
    given, threshold = shares[index, of], cohort.manifest.threshold
    if len(given) < threshold:
        raise CohortAborted(
            AbortReason.TOO_FEW_REVEALED,
            f"{len(given)} shares of index {index} came in, {threshold} must",
        )
    try:
        return shamir.combine(dict(itertools.islice(given.items(), threshold)))
    except shamir.Inconsistent as error:
        raise CohortAborted(
            AbortReason.WRONG_SHARES, f"of index {index}: {error}"
        ) from error
