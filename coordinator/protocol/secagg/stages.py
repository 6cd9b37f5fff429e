"""What the coordinator decides and hands on between a cohort's steps.

``sharers`` are the devices whose dealings were handed on, ``survivors`` those of them
whose masked vectors are in the sum. Each set is decided once, when its step's time is
over, and must be kept before anybody is told of it.
"""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from coordinator.protocol.secagg.cohort import Cohort
from coordinator.protocol.secagg.messages import (
    SEALED_BYTES,
    Dealing,
    Inbox,
    Reveal,
    SealedShares,
)
from coordinator.protocol.secagg.refusals import (
    AbortReason,
    CohortAborted,
    WrongShares,
)

Indices: TypeAlias = frozenset[int]


def check_dealing(cohort: Cohort, index: int, dealing: Dealing) -> None:
    """Check that a device deals to all its neighbours.

    Raises:
        WrongShares: Shares are missing, doubled, for strangers or out of order.
    """
    peers = tuple(each.peer for each in dealing.shares)
    if peers != cohort.neighbours[index]:
        raise WrongShares(
            f"index {index} must deal to its {len(cohort.neighbours[index])} "
            f"neighbours in rising order, and deals to {len(peers)}"
        )


def choose_sharers(cohort: Cohort, dealt: Collection[int]) -> Indices:
    """Return the devices that go on, of those that dealt.

    That is every device with enough neighbours that go on. One with fewer would have
    to stop, and its mask would stay in the sum; it is told that it is left out.

    Raises:
        CohortAborted: Fewer than the minimum are left.
    """
    left = {*dealt}
    manifest = cohort.manifest
    while lonely := {
        index
        for index in left
        if len(left.intersection(cohort.neighbours[index])) < manifest.threshold
    }:
        left -= lonely
    if len(left) < manifest.minimum:
        raise CohortAborted(
            AbortReason.TOO_FEW_SHARED,
            f"{len(dealt)} of {manifest.devices} devices dealt shares and {len(left)} "
            f"have {manifest.threshold} neighbours that did; {manifest.minimum} must",
        )
    return frozenset(left)


def inbox(
    cohort: Cohort,
    sharers: Collection[int],
    dealings: Mapping[int, bytes],
    index: int,
) -> Inbox:
    """Return what its neighbours dealt to one device.

    Args:
        cohort: The cohort.
        sharers: As chosen.
        dealings: Packed, and checked when they came; at least those of the device's
            neighbours among the sharers.
        index: The device, one of the sharers.
    """
    shares = []
    for peer in cohort.neighbours[index]:
        if peer not in sharers:
            continue
        start = cohort.neighbours[peer].index(index) * SEALED_BYTES
        sealed = dealings[peer][start : start + SEALED_BYTES]
        shares.append(SealedShares(peer=peer, sealed=sealed))
    return Inbox(shares=tuple(shares))


def insist_survivors(
    cohort: Cohort, sharers: Collection[int], survivors: Collection[int]
) -> None:
    """Check, before anybody is told, that the survivors can unmask their sum.

    Raises:
        CohortAborted: They are fewer than the minimum, or someone's secret cannot be
            rebuilt by those that are left.
    """
    manifest = cohort.manifest
    if len(survivors) < manifest.minimum:
        raise CohortAborted(
            AbortReason.TOO_FEW_SURVIVED,
            f"{len(survivors)} masked vectors came in, {manifest.minimum} must",
        )
    if short := waiting_for(cohort, sharers, survivors):
        raise CohortAborted(
            AbortReason.TOO_FEW_SURVIVED,
            f"of {len(short)} devices fewer than {manifest.threshold} neighbours "
            "survived",
        )


def waiting_for(
    cohort: Cohort, sharers: Collection[int], revealed: Collection[int]
) -> Indices:
    """Return the devices whose secret those that revealed cannot rebuild yet.

    Once there are none, the sum can be unmasked and nobody need be waited for.
    """
    given = {*revealed}
    return frozenset(
        index
        for index in sharers
        if len(given.intersection(cohort.neighbours[index])) < cohort.manifest.threshold
    )


def insist_revealed(
    cohort: Cohort, sharers: Collection[int], revealed: Collection[int]
) -> None:
    """Check, when no more shares are to come, that those there are unmask the sum.

    Raises:
        CohortAborted: Someone's secret cannot be rebuilt.
    """
    if short := waiting_for(cohort, sharers, revealed):
        raise CohortAborted(
            AbortReason.TOO_FEW_REVEALED,
            f"of {len(short)} devices fewer than {cohort.manifest.threshold} shares "
            "were revealed",
        )


def check_reveal(
    cohort: Cohort,
    sharers: Collection[int],
    survivors: Collection[int],
    index: int,
    reveal: Reveal,
) -> None:
    """Check that a survivor gives the one right share of each neighbour.

    Raises:
        WrongShares: Shares are missing, doubled, of strangers, or of the other secret.
    """
    expected = tuple(
        (peer, "own_mask" if peer in survivors else "masking_key")
        for peer in cohort.neighbours[index]
        if peer in sharers
    )
    given = tuple((each.peer, each.of) for each in reveal.shares)
    if given != expected:
        raise WrongShares(
            f"index {index} must give a share of {len(expected)} neighbours, of each "
            "by whether it survived, in rising order"
        )
