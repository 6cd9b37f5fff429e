"""Rounds whose devices encrypt: their keys, and the sum that the authority decrypts."""

import datetime as dt
import functools
import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from coordinator import ciphertexts
from coordinator.domain.aggregation import SumLost
from coordinator.domain.assignments import Assignment
from coordinator.domain.errors import (
    DeviceKeyNeeded,
    EncryptionKeyUnknown,
    NotSecure,
    RoundClosed,
)
from coordinator.domain.events import Happening
from coordinator.domain.privacy import sum_stddev
from coordinator.domain.rounds import Round
from coordinator.domain.tasks import Task
from coordinator.protocol.he import parameters
from coordinator.protocol.he.messages import (
    HEADER_BYTES,
    IssuedKey,
    KeyRequest,
    SignedKey,
    Summand,
    digest,
    max_envelope_bytes,
    open_envelope,
)
from coordinator.protocol.he.parameters import Residues
from coordinator.protocol.keystream import KEY_BYTES
from coordinator.protocol.plan_he import HePlan
from coordinator.protocol.secagg import summands
from coordinator.protocol.secagg.summands import Encoding
from coordinator.protocol.vocabulary import Kind
from coordinator.store import devices, events, he, models, rounds, tasks
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.files import Incoming
from coordinator.store.he import BlindedSum, RoundKey
from coordinator.usecases import cohorts, reporting, secure_fold
from coordinator.usecases.rounds import Claim
from coordinator.usecases.secure_fold import RoundSum

log = logging.getLogger(__name__)


class AuthorityAway(Exception):
    """The key authority does not answer now, or not as one would."""


class AuthorityRefused(Exception):
    """The key authority will not do it."""


class KeyAuthority(Protocol):
    """Who holds the secret keys."""

    def issue(self, request: KeyRequest) -> IssuedKey:
        """Return a new key. Raises AuthorityAway, AuthorityRefused."""
        ...

    def decrypt(
        self,
        key_id: str,
        ciphertext: bytes,
        summands: Sequence[Summand],
        *,
        on_progress: Callable[[int], None],
    ) -> Residues:
        """Return a blinded sum. Raises AuthorityAway, AuthorityRefused."""
        ...


def plan_of(task: Task) -> HePlan:
    """Return how devices of a task encrypt.

    Raises:
        ValueError: They do not.
    """
    if task.plan.he is None:
        raise ValueError(f"task {task.id} takes results in the clear")
    return task.plan.he


def give_keys(store: Store, authority: KeyAuthority | None, *, now: dt.datetime) -> int:
    """Ask the authority for a key for each open round that needs one.

    Returns:
        How many rounds got one.

    Raises:
        AuthorityAway, AuthorityRefused: It gives none; devices wait.
    """
    waiting = store.read(rounds.keyless)
    for round_ in waiting:
        if authority is None:
            raise AuthorityAway(
                f"round {round_.id} needs a key, and no key authority is configured"
            )
        encoding, request = store.read(functools.partial(_request, round_=round_))
        issued = authority.issue(request)
        _keep_key(store, round_.id, encoding, issued, now=now)
    return len(waiting)


def _keep_key(
    store: Store,
    round_id: int,
    encoding: Encoding,
    issued: IssuedKey,
    *,
    now: dt.datetime,
) -> None:
    def body(tx: Transaction) -> None:
        round_ = rounds.get(tx, round_id)
        if round_.is_terminal or he.find(tx, round_id) is not None:
            return  # another worker was faster, or it is too late
        he.insert(
            tx,
            round_id,
            key=issued.key,
            encoding=encoding,
            public=issued.public,
            blinding_key=os.urandom(KEY_BYTES),
        )
        events.append_of(
            tx,
            Happening.ROUND_KEYED,
            round_,
            now=now,
            key=issued.key.statement.key_id,
        )

    store.run("keep_key", body)


def _request(tx: Transaction, round_: Round) -> tuple[Encoding, KeyRequest]:
    """Return how devices of a round lay results out, and what their key is for."""
    task = tasks.get(tx, round_.task)
    plan, privacy = plan_of(task), task.plan.privacy
    clip_norm = plan.clip_norm if privacy is None else privacy.clip_norm
    size = _update_size(tx, round_)
    if round_.kind is Kind.EVALUATE:
        privacy = None
    most = round_.policy.places

    def noise(bits: int) -> float:
        return 0.0 if privacy is None else sum_stddev(privacy, bits, size)

    bits = summands.most_bits(most, noise_of=lambda b: noise(b) / math.sqrt(most))
    encoding = Encoding(
        size=size,
        clip_norm=clip_norm or 1.0,
        bits=bits,
        max_devices=most,
        weighting="examples" if privacy is None else "uniform",
        max_examples=plan.max_examples,
    )
    return encoding, KeyRequest(
        session=digest(cohorts.session_of(tx, round_, task)),
        length=encoding.length,
        minimum=plan.minimum,
        noisy=0 if privacy is None else size,
        noise_stddev=noise(bits),
    )


def _update_size(tx: Transaction, round_: Round) -> int:
    manifest = models.get(tx, round_.model).manifest
    return summands.update_size(
        manifest.trainable_size, is_training=round_.kind is Kind.TRAIN
    )


def max_bytes(tx: Transaction, round_: Round) -> int:
    """Return the most bytes that a result of a round may have."""
    return max_envelope_bytes(_update_size(tx, round_) + summands.FIGURES)


def key_of(store: Store, *, device_id: str, assignment_id: str) -> RoundKey | None:
    """Return what a device encrypts with; none: there is no key yet.

    Raises:
        NotSecure, RoundClosed: There is none, or none any more.
        DeviceKeyNeeded: The device has no key to sign with.
        AssignmentUnknown, ForeignAssignment: As their names say.
    """

    def body(tx: Transaction) -> RoundKey | None:
        assignment, round_ = reporting.own(tx, device_id, assignment_id, None)
        if not round_.policy.is_encrypted:
            raise NotSecure(round_.id)
        if round_.is_terminal:
            raise RoundClosed(round_.id, round_.phase, "question of its key")
        _device_key(tx, assignment)
        return he.find(tx, round_.id)

    return store.read(body)


def public_key(store: Store, *, key_id: str) -> bytes:
    """Return the public half of a key.

    Raises:
        EncryptionKeyUnknown: There is none, or none any more.
    """
    found = store.read(lambda tx: he.public_key(tx, key_id))
    if found is None:
        raise EncryptionKeyUnknown(key_id)
    return found


def expect(
    tx: Transaction, assignment: Assignment, round_: Round
) -> tuple[SignedKey, str]:
    """Return the key that a result is encrypted with, and the key that signs it.

    Raises:
        RoundClosed: The round has no key yet, or none any more.
        DeviceKeyNeeded: The device has no key to sign with.
    """
    found = he.find(tx, round_.id)
    if found is None:
        raise RoundClosed(round_.id, round_.phase, "encrypted result")
    return found.key, _device_key(tx, assignment)


def _device_key(tx: Transaction, assignment: Assignment) -> str:
    found = devices.public_key_of(tx, assignment.device_id)
    if found is None:
        raise DeviceKeyNeeded(
            "encrypted results are signed: the device must have enrolled with a "
            "public_key"
        )
    return found


def add_up(
    store: Store,
    blobs: BlobStore,
    authority: KeyAuthority | None,
    claim: Claim,
    *,
    on_progress: Callable[[int], None],
) -> RoundSum:
    """Add a claimed round's ciphertexts up, and have the sum decrypted.

    The same bits each time: the sum that is asked for is kept before it is asked for.

    Raises:
        SumLost: Too few ciphertexts can be added, or the authority refuses.
        AuthorityAway: It does not answer now.
        BlobLost: A ciphertext is gone or spoilt.
    """
    found = store.read(lambda tx: he.find(tx, claim.round.id))
    if found is None:
        raise SumLost("the round has no key")
    if authority is None:
        raise AuthorityAway("no key authority is configured")
    blinded = found.blinded or _blind(
        store, blobs, claim, found, on_progress=on_progress
    )
    signed = _signed(store, blobs, claim, found, blinded)
    statement = found.key.statement
    try:
        residues = authority.decrypt(
            statement.key_id,
            bytes(blobs.map_update(blinded.blob, sha256=blinded.sha256)),
            signed,
            on_progress=on_progress,
        )
    except AuthorityRefused as error:
        raise SumLost(str(error)) from error
    if residues.size != statement.length:
        raise AuthorityAway(f"the authority's sum has {residues.size} numbers")
    blinding = parameters.blinding(found.blinding_key, statement.length)
    total = parameters.centred(parameters.subtract(residues, blinding))
    devices_ = len(blinded.summed)
    decoded = summands.decode_whole(total, found.encoding, devices=devices_)
    if decoded is None:
        raise SumLost("the decrypted sum does not count its devices: one of them lied")
    return secure_fold.together([decoded], found.encoding)


def _blind(
    store: Store,
    blobs: BlobStore,
    claim: Claim,
    key: RoundKey,
    *,
    on_progress: Callable[[int], None],
) -> BlindedSum:
    """Add the ciphertexts and the blinding up, and keep what comes out."""
    files = {}
    for update in claim.updates:
        blobs.map_update(update.blob, sha256=update.sha256).close()
        files[update.assignment_id] = blobs.update_path(update.blob)
    public = public_key(store, key_id=key.key.statement.key_id)
    try:
        added = ciphertexts.add_up(
            files,
            skip=HEADER_BYTES,
            public_key=public,
            blinding_key=key.blinding_key,
            length=key.encoding.length,
            on_progress=on_progress,
        )
    except ciphertexts.CiphertextLost as error:
        raise SumLost(str(error)) from error
    for assignment_id, why in added.left_out.items():
        log.warning("result of assignment %s is left out: %s", assignment_id, why)
    least = max(claim.round.policy.minimum, key.key.statement.minimum)
    if len(added.summed) < least:
        raise SumLost(
            f"the results of {len(added.summed)} devices can be added, the minimum is "
            f"{least}"
        )
    path = blobs.new_incoming()
    sha256 = hashlib.sha256(added.ciphertext).hexdigest()
    with Incoming(path) as incoming:
        incoming.write(added.ciphertext)
    blob = blobs.keep_update(
        path, round_id=claim.round.id, assignment_id="sum", sha256=sha256
    )
    blinded = BlindedSum(blob=blob, sha256=sha256, summed=added.summed)
    store.run("keep_sum", lambda tx: he.keep_sum(tx, claim.round.id, blinded))
    return blinded


def _signed(
    store: Store, blobs: BlobStore, claim: Claim, key: RoundKey, blinded: BlindedSum
) -> list[Summand]:
    """Return the devices' signatures of what is in a sum."""
    by_assignment = {update.assignment_id: update for update in claim.updates}
    keys = store.read(lambda tx: devices.public_keys_of_assignments(tx, blinded.summed))
    signed = []
    for assignment_id in blinded.summed:
        device_key = keys.get(assignment_id)
        if device_key is None:  # its device was erased meanwhile
            continue
        update = by_assignment[assignment_id]
        with (
            blobs.map_update(update.blob, sha256=None) as content,
            memoryview(content) as body,
        ):
            signed.append(open_envelope(body, device_key, key.key.statement))
    return signed
