"""Devices, a network, an API and two workers, one step at a time under a manual clock.

The use cases, the database and the blob store are the real ones. What a step does is
said by an ``Operation``; a list of them is a history. The network holds messages until
they are delivered, in any order, once, often or never; answers may get lost; processes
die at any moment that ``faults`` knows. After every step the world checks what must
hold, and ``settle`` lets everything come to its end and checks the sums.
"""

import collections
import dataclasses
import hashlib
from typing import Final, Literal, TypeAlias

import numpy as np

from coordinator.domain.aggregation import fold_weight, in_fold_order
from coordinator.domain.errors import BetweenRounds, DomainError
from coordinator.domain.rounds import Phase
from coordinator.domain.tasks import Status
from coordinator.protocol import digests
from coordinator.protocol.manifest import Vector
from coordinator.protocol.vocabulary import FailureReason, WaitReason
from coordinator.store import assignments
from coordinator.store.blobs import BlobLost
from coordinator.store.engine import StaleWrite
from coordinator.usecases import check_in as check_ins
from coordinator.usecases import participation, release, rounds
from coordinator.usecases.check_in import Work
from tests.simulation.faults import Crash, Fuse
from tests.support.federation import Federation
from tests.support.models import update_body

DEVICES: Final = 5
WORKERS: Final = 2
Name: TypeAlias = Literal[
    "ask",  # a device puts a check-in on the network, the same again if unanswered
    "send",  # or its update
    "give_up",  # or that it gives up
    "check_in",  # a device asks, and is answered at once
    "report",  # a device sends its update, and is answered at once
    "deliver",  # a message comes in and is answered
    "lose_answer",  # a message comes in; the answer is lost
    "open",  # an upload begins: it is looked at before its body is read
    "copy",  # the network doubles a message
    "drop",  # or loses it
    "corrupt",  # or changes a byte of a copy of it
    "steal",  # another device sends a copy of it
    "wait",  # time passes
    "advance",  # a worker looks at leases and deadlines
    "claim",  # a worker takes a round
    "fold",  # a worker releases the round that it took, perhaps long ago
    "commit",  # a worker takes a round and releases it
    "clean",  # a worker deletes updates of rounds that have ended
    "notice",  # a worker that starts frees what dead ones held
]


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One step. Numbers are taken modulo what there is."""

    name: Name
    which: int = 0  #: device, message, worker or length of time
    dies: int = 0  #: at which moment of the step the process dies; 0: it lives


@dataclasses.dataclass(slots=True)
class Device:
    """What a device remembers."""

    id: str
    key: str | None = None  #: of a check-in that was not answered
    work: Work | None = None
    body: bytes = b""

    def holds(self, assignment: str) -> bool:
        """Whether it still works on this."""
        return self.work is not None and self.work.assignment.id == assignment


@dataclasses.dataclass(slots=True)
class Message:
    """What is on its way to the coordinator."""

    kind: Literal["check_in", "update", "failure"]
    device: str  #: that it says it is from
    assignment: str = ""
    key: str = ""
    body: bytes = b""
    digest: str = ""
    sender: str = ""  #: who sends it, where that is another device
    expected: participation.Expected | None = None  #: once its upload has begun

    @property
    def is_honest(self) -> bool:
        """Whether it is its device's own, and whole."""
        if self.sender not in {"", self.device}:
            return False
        return self.kind != "update" or digests.sha256_hex(self.body) == self.digest


def trained(assignment: str) -> tuple[Vector, int]:
    """What training gives: a delta and a number of examples, alike for no two."""
    seed = hashlib.sha256(assignment.encode()).digest()
    rng = np.random.default_rng(list(seed))
    return rng.integers(-99, 100, 10).astype(np.float32), int(rng.integers(1, 1000))


_DEVICE: Final = frozenset({"ask", "send", "give_up", "check_in", "report"})
_WORKER: Final = frozenset({"advance", "claim", "fold", "commit", "clean", "notice"})
_WAITS_S: Final = (0.1, 5.0, 21.0, 61.0, 130.0)


class World:
    """See the module."""

    def __init__(self, federation: Federation, fuse: Fuse) -> None:
        """Use a federation whose task has been started."""
        self._federation = federation
        self._fuse = fuse
        self._store, self._blobs = federation.store, federation.blobs
        self._clock = federation.clock
        self.devices = [Device(federation.enrol()) for _ in range(DEVICES)]
        self.mail: list[Message] = []
        self._claims: list[rounds.Claim | None] = [None] * WORKERS
        self._lives = [0] * WORKERS  # a worker that starts again has another name
        self._count = 0
        #: assignment -> every digest that its device sent
        self._sent: dict[str, set[str]] = collections.defaultdict(set)
        #: assignment -> digest of the update that was answered with a receipt
        self.receipts: dict[str, participation.Accepted] = {}

    def do(self, operation: Operation) -> None:
        """Take a step, and check what must hold after each."""
        self._fuse.set(operation.dies)
        try:
            self._do(operation.name, operation.which)
        except Crash:
            self._die(operation)
        finally:
            self._fuse.set(0)
        self._check()

    def settle(self) -> None:
        """Let all that is under way come to its end, and check every sum."""
        for _ in range(400):
            if self._federation.task().status is not Status.RUNNING:
                break
            self._run_a_while()
        assert self._federation.task().status is Status.FINISHED, "the task stands"
        for message in list(self.mail):  # what was late finds nothing to change
            self._deliver(message, answered=True)
        rounds.clean_up(self._store, self._blobs)
        self._check()
        self._check_sums()

    def _do(self, name: Name, which: int) -> None:
        if name in _DEVICE:
            self._do_at(self.devices[which % DEVICES], name)
        elif name in _WORKER:
            self._do_in(which % WORKERS, name)
        elif name == "wait":
            self._clock.advance(_WAITS_S[which % len(_WAITS_S)])
        elif self.mail:
            self._do_with(self.mail[which % len(self.mail)], name, which)

    def _do_at(self, device: Device, name: Name) -> None:
        match name:
            case "ask":
                self._ask(device)
            case "send":
                self._send(device)
            case "give_up" if device.work is not None:
                assignment = device.work.assignment.id
                self.mail.append(Message("failure", device.id, assignment))
            case "check_in" if device.work is None:
                self._ask(device)
                self._deliver(self.mail[-1], answered=True)
            case "report" if device.work is not None:
                self._send(device)
                self._deliver(self.mail[-1], answered=True)

    def _do_with(self, message: Message, name: Name, which: int) -> None:
        match name:
            case "deliver" | "lose_answer":
                self._deliver(message, answered=name == "deliver")
            case "open" if message.kind == "update":
                self._open(message)
            case "copy":
                self.mail.append(dataclasses.replace(message))
            case "drop":
                self.mail.remove(message)
            case "corrupt" if message.kind == "update":
                changed = bytearray(message.body)
                changed[which % len(changed)] ^= 1 << which % 8
                self.mail.append(dataclasses.replace(message, body=bytes(changed)))
            case "steal" if message.kind != "check_in":
                thief = self.devices[which % DEVICES].id
                self.mail.append(
                    dataclasses.replace(message, sender=thief, expected=None)
                )

    def _do_in(self, worker: int, name: Name) -> None:
        match name:
            case "advance":
                is_due = rounds.look(self._store, now=self._clock.now()).is_due
                changed = rounds.advance(self._store, now=self._clock.now())
                assert is_due or not changed  # a worker that looks misses nothing
            case "claim":
                self._claim(worker)
            case "fold":
                self._fold(worker)
            case "commit":
                self._claim(worker)
                self._fold(worker)
            case "clean":
                is_due = rounds.look(self._store, now=self._clock.now()).is_due
                cleaned = rounds.clean_up(self._store, self._blobs)
                assert is_due or not cleaned
            case "notice":
                alive = {self._name(each) for each in range(WORKERS)}
                rounds.free_claims(
                    self._store,
                    is_gone=lambda name: name not in alive,
                    now=self._clock.now(),
                )

    def _die(self, operation: Operation) -> None:
        if operation.name in _WORKER:
            worker = operation.which % WORKERS
            self._claims[worker] = None
            self._lives[worker] += 1

    def _name(self, worker: int) -> str:
        return f"worker-{worker}-{self._lives[worker]}"

    # Devices

    def _ask(self, device: Device) -> None:
        if device.work is not None:
            return
        if device.key is None:
            self._count += 1
            device.key = f"key-{self._count}"
        self.mail.append(Message("check_in", device.id, key=device.key))

    def _send(self, device: Device) -> None:
        if device.work is None:
            return
        digest = digests.sha256_hex(device.body)
        assignment = device.work.assignment.id
        self._sent[assignment].add(digest)
        self.mail.append(
            Message("update", device.id, assignment, body=device.body, digest=digest)
        )

    def _take(self, device: Device, work: Work) -> None:
        """Train: numbers that depend on the assignment, no two alike."""
        device.work, device.key = work, None
        delta, examples = trained(work.assignment.id)
        device.body = update_body(delta, examples=examples)

    # The network and the API

    def _deliver(self, message: Message, *, answered: bool) -> None:
        self.mail.remove(message)
        device = next(d for d in self.devices if d.id == message.device)
        before = None if message.is_honest else self._federation.state()
        try:
            answer = self._answer(message)
        except DomainError as refusal:
            if answered and message.is_honest:
                self._hear_refusal(device, message, refusal)
        except ValueError:  # a body that is none
            assert not message.is_honest
        else:
            assert message.is_honest, message
            if answered:
                self._hear(device, message, answer)
        if before is not None:
            assert self._federation.state() == before, f"a refusal left {message}"

    def _answer(
        self, message: Message
    ) -> Work | WaitReason | participation.Accepted | None:
        if message.kind == "check_in":
            self._count += 1
            return check_ins.check_in(
                self._store,
                device_id=message.sender or message.device,
                idempotency_key=message.key,
                assignment_id=f"{self._count:032x}",
                now=self._clock.now(),
            )
        if message.kind == "failure":
            participation.report_failure(
                self._store,
                device_id=message.sender or message.device,
                assignment_id=message.assignment,
                reason=FailureReason.INTERRUPTED,
                detail=None,
                now=self._clock.now(),
            )
            return None
        return self._accept(message)

    def _open(self, message: Message) -> None:
        try:
            message.expected = participation.expect_update(
                self._store,
                device_id=message.sender or message.device,
                assignment_id=message.assignment,
                now=self._clock.now(),
            )
        except DomainError:
            message.expected = None

    def _accept(self, message: Message) -> participation.Accepted:
        expected = message.expected or participation.expect_update(
            self._store,
            device_id=message.sender or message.device,
            assignment_id=message.assignment,
            now=self._clock.now(),
        )
        incoming = self._blobs.new_incoming()
        incoming.write_bytes(message.body)
        sent = participation.Sent(
            path=incoming, content_digest=message.digest, coding="identity"
        )
        try:
            accepted = participation.submit_update(
                self._store,
                self._blobs,
                expected,
                sent,
                device_id=message.sender or message.device,
                assignment_id=message.assignment,
                now=self._clock.now(),
            )
        finally:
            incoming.unlink(missing_ok=True)
        assert message.is_honest, "what was changed on its way was accepted"
        known = self.receipts.setdefault(message.assignment, accepted)
        assert known == accepted, "one update got two receipts"
        return accepted

    def _hear(self, device: Device, message: Message, answer: object) -> None:
        if message.kind == "check_in":
            if device.key == message.key:
                device.key = None
                if isinstance(answer, Work):
                    self._take(device, answer)
        elif device.holds(message.assignment):
            device.work = None

    def _hear_refusal(
        self, device: Device, message: Message, refusal: DomainError
    ) -> None:
        if message.kind == "check_in":
            if device.key == message.key:
                device.key = None
        elif device.holds(message.assignment) and not isinstance(
            refusal, BetweenRounds
        ):
            device.work = None

    # Workers

    def _claim(self, worker: int) -> None:
        is_due = rounds.look(self._store, now=self._clock.now()).is_due
        claim = rounds.claim(
            self._store, worker=self._name(worker), now=self._clock.now()
        )
        assert is_due or claim is None
        self._claims[worker] = claim or self._claims[worker]

    def _fold(self, worker: int) -> None:
        claim = self._claims[worker]
        if claim is None:
            return
        try:
            release.release(
                self._store,
                self._blobs,
                self._federation.compute,
                claim,
                on_progress=lambda _: None,
                now=self._clock.now,
            )
        except StaleWrite:
            pass  # another took it over
        except BlobLost as error:  # its updates are gone: then so is the round
            assert self._federation.round(claim.round.id).is_terminal
            rounds.give_up(self._store, claim, str(error), now=self._clock.now())
        self._claims[worker] = None

    def _run_a_while(self) -> None:
        """Everybody does their work, and nothing goes wrong."""
        for device in self.devices:
            self._ask(device)
            self._send(device)
        for message in list(self.mail):
            self._deliver(message, answered=True)
        for worker in range(WORKERS):
            rounds.advance(self._store, now=self._clock.now())
            self._claim(worker)
            self._fold(worker)
        self._clock.advance(7.0)
        self._check()

    # What must hold

    def _check(self) -> None:
        found = self._federation.attempts()
        committed = [r.number for r in found if r.phase is Phase.COMMITTED]
        assert committed == list(range(1, len(committed) + 1)), committed
        versions = [r.result_version for r in found if r.phase is Phase.COMMITTED]
        assert versions == committed, "a version was lost or doubled"
        unfinished = [r for r in found if not r.is_terminal]
        assert len(unfinished) <= 1, unfinished
        for round_ in unfinished:
            live, accepted, _, _ = self._federation.counts(round_.id)
            assert live <= round_.policy.places
            if not round_.policy.is_asynchronous:
                assert live + accepted <= round_.policy.places

    def _check_sums(self) -> None:
        """Every receipt is in its round's sum exactly once, and nothing else is."""
        counted: collections.Counter[str] = collections.Counter()
        plan = self._federation.task().plan
        weights = self._federation.weights(0)
        for round_ in self._federation.attempts():
            updates = self._store.read(
                lambda tx, number=round_.id: assignments.updates_of_round(tx, number)
            )
            for update in updates:
                assert update.sha256 in self._sent[update.assignment_id]
            if round_.phase is not Phase.COMMITTED:
                continue
            counted.update(update.assignment_id for update in updates)
            total, mean = 0.0, np.zeros(10)
            for update in in_fold_order(updates):
                weight = fold_weight(update, plan.asynchronous)
                total += weight
                delta, examples = trained(update.assignment_id)
                assert update.examples == examples
                mean += weight * delta.astype(np.float64)
            weights = (weights + mean / total).astype(np.float32)
            assert round_.result_version is not None
            np.testing.assert_array_equal(
                self._federation.weights(round_.result_version), weights
            )
        assert all(count == 1 for count in counted.values()), counted
        ended = {
            round_.id
            for round_ in self._federation.attempts()
            if round_.phase is Phase.COMMITTED
        }
        for assignment, receipt in self.receipts.items():
            row = self._store.read(
                lambda tx, number=assignment: assignments.get(tx, number)
            )
            kept = self._store.read(
                lambda tx, number=assignment: assignments.update_of(tx, number)
            )
            assert kept == (receipt.update, receipt.accepted_at), (
                "a receipt's update was changed"
            )
            assert (assignment in counted) == (row.round_id in ended)
