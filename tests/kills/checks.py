"""What must hold when the dust has settled. All of it is worked out anew here."""

import collections
import itertools
import os
import pathlib
import re
import time

import numpy as np

from coordinator.domain.assignments import State
from coordinator.domain.rounds import Phase, Round
from coordinator.protocol import digests, encodings
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.store import assignments, models, rounds
from coordinator.store.blobs import BlobStore, name_of
from coordinator.store.engine import Store, Transaction
from coordinator.usecases.diagnosis import Trouble
from tests.kills.load import Load
from tests.support.processes import Coordinator, fixed_update

TASK = "kills"
#: Half: its products are exact, whatever a compiler makes of them.
MOMENTUM = 0.5
_AGE_S = 7200.0  # the doctor leaves alone what is younger than an hour


def expect_exactly_once(
    store: Store, blobs: BlobStore, load: Load, manifest: Manifest, *, committed: int
) -> None:
    """Check receipts, rows and weights of a run of ``committed`` rounds."""
    assert load.refusals == []
    store.read(lambda tx: _expect_every_receipt_counted(tx, load, committed))
    store.read(lambda tx: _expect_weights(tx, blobs, load, manifest, committed))


def expect_nothing_lost_or_left(
    coordinator: Coordinator, store: Store, manifest: Manifest, *, committed: int
) -> int:
    """Let the doctor look. Returns how many uploads' leftovers it deleted."""
    blobs = coordinator.data_dir / "blobs"
    _make_old(blobs)
    found = coordinator.run("doctor")
    assert re.search(r"^\d+ findings, ", found.stdout, re.MULTILINE), found.stderr
    troubles = collections.Counter(
        trouble
        for line in found.stdout.splitlines()
        if (trouble := line.partition(": ")[0]) in set(Trouble)
    )
    assert troubles.keys() <= {Trouble.LEFTOVER}, found.stdout
    mended = coordinator.run("doctor", "--repair")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    healthy = coordinator.run("doctor")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert "0 findings, 0 mended" in healthy.stdout, healthy.stdout

    needed = store.read(lambda tx: _needed(tx, manifest, committed))
    files = {
        path.relative_to(blobs).as_posix()
        for path in blobs.rglob("*")
        if path.is_file()
    }
    assert files == needed, files ^ needed
    return troubles[Trouble.LEFTOVER]


def _expect_every_receipt_counted(tx: Transaction, load: Load, committed: int) -> None:
    attempts = {
        round_.id: round_
        for round_ in rounds.of_task(tx, TASK)
        if round_.number <= committed
    }
    assert sorted(round_.number for round_ in attempts.values()) == [
        *range(1, committed + 1)
    ], "a round was lost or tried again"
    uncommitted = [r for r in attempts.values() if r.phase is not Phase.COMMITTED]
    assert uncommitted == [], uncommitted
    held = collections.Counter(
        (proof.round_number, proof.device) for proof in load.proofs
    )
    due = itertools.product(range(1, committed + 1), range(load.size))
    assert held == collections.Counter(due), "a device has not one receipt a round"
    counted = {
        (update.assignment_id, update.sha256): round_
        for round_ in attempts.values()
        for update in assignments.updates_of_round(tx, round_.id)
    }
    for proof in load.proofs:
        receipt = proof.receipt
        round_ = counted.pop((receipt.assignment, receipt.sha256), None)
        assert round_ is not None, f"lost: {receipt}"
        assert round_.number == proof.round_number
        _expect_accepted(tx, receipt.assignment, round_)
        body = load.body(proof.device, proof.round_number)
        assert receipt.sha256 == digests.sha256_hex(body)
    assert counted == {}, "updates counted of which no device has a receipt"


def _expect_accepted(tx: Transaction, assignment_id: str, round_: Round) -> None:
    assignment = assignments.get(tx, assignment_id)
    assert (assignment.state, assignment.round_id) == (State.ACCEPTED, round_.id)


def _expect_weights(
    tx: Transaction, blobs: BlobStore, load: Load, manifest: Manifest, committed: int
) -> None:
    """Every version is, bit for bit, what numpy makes of each update taken once."""

    def published(number: int) -> Vector:
        version = models.get_version(tx, manifest.model, number)
        return encodings.decode_weights(manifest, blobs.get(version.weights_sha256))

    assert models.newest_version(tx, manifest.model) == committed
    weights, velocity = published(0), np.zeros(manifest.size)
    for number in range(1, committed + 1):
        total, examples = np.zeros(manifest.size), 0.0
        for device in sorted(
            range(load.size),
            key=lambda each, n=number: digests.sha256_hex(load.body(each, n)),
        ):
            delta, weight = fixed_update(device, number, manifest.size)
            total += weight * delta.astype(np.float64)
            examples += weight
        velocity = MOMENTUM * velocity + total / examples
        weights = (weights + velocity).astype(np.float32)
        np.testing.assert_array_equal(
            published(number), weights, err_msg=f"version {number}"
        )


def _needed(tx: Transaction, manifest: Manifest, committed: int) -> set[str]:
    model = models.get(tx, manifest.model)
    kept = {model.manifest_sha256, *(each.sha256 for each in manifest.artefacts)}
    for number in range(committed + 1):
        version = models.get_version(tx, manifest.model, number)
        kept |= {version.weights_sha256, version.optimizer_sha256 or ""}
    return {name_of(sha256) for sha256 in kept - {""}}


def _make_old(folder: pathlib.Path) -> None:
    moment = time.time() - _AGE_S  # noqa: TID251 - files have the machine's time
    for path in folder.rglob("*"):
        os.utime(path, (moment, moment))
