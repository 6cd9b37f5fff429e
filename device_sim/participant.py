"""One device: a resumable sequence of small steps.

``step`` does one piece of work: enrol, check in, download, train or score, report. All
that a device must remember between two steps is in ``State``, which turns into bytes
and back, so that a killed device goes on where it was: the same check-in (same
Idempotency-Key), the same assignment, the same body. What a step did is its answer.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping
from typing import Final

from coordinator.protocol import digests, problems
from coordinator.protocol.he import framing
from coordinator.protocol.he.messages import ForgedKey
from coordinator.protocol.manifest import Vector
from coordinator.protocol.messages import (
    Assignment,
    Capabilities,
    EnrolRequest,
    FailureReport,
)
from coordinator.protocol.secagg.refusals import SecAggRefused
from coordinator.protocol.vocabulary import FailureReason, Kind, WaitReason
from device_sim import (
    behaviour,
    cache,
    client,
    identity,
    sealing,
    secure,
    trainer,
)
from device_sim.data import Shard
from device_sim.identity import Credential
from device_sim.learner import Learner
from device_sim.residual import Residual
from device_sim.state import State
from device_sim.steps import Action, Done, Progressed, Step, Vanished, Waiting

LONG_POLL_S: Final = 10.0
_DECLINED_PAUSE_S: Final = 1.0  # by then the swarm knows of the newer round
_FAILURE_PATIENCE_S: Final = 5.0  # a lost failure report costs a lease, no more
# The place is gone or the result counted: there is nothing to give up.
_ENDED: Final = (
    problems.LEASE_LAPSED,
    problems.ROUND_CLOSED,
    problems.ASSIGNMENT_ENDED,
    problems.ALREADY_REPORTED,
    problems.ASSIGNMENT_UNKNOWN,
    problems.FOREIGN_ASSIGNMENT,
    problems.COHORT_ENDED,
    problems.LEFT_OUT,
)
_MOMENTS: Final = secure.ASKS  # at which devices vanish from their cohorts
_REASONS: Final[Mapping[type[Exception], FailureReason]] = {
    cache.UnreadableDownload: FailureReason.BAD_DOWNLOAD,
    client.CorruptDownload: FailureReason.BAD_DOWNLOAD,
    client.Refused: FailureReason.REFUSED,
    ForgedKey: FailureReason.REFUSED,
    framing.MalformedCiphertext: FailureReason.BAD_DOWNLOAD,
    trainer.GraphFailed: FailureReason.RUNTIME_ERROR,
    trainer.NoExamples: FailureReason.NO_EXAMPLES,
    trainer.TrainingDiverged: FailureReason.NOT_FINITE,
}
_FAILURES: Final = tuple(_REASONS)


class Participant:
    """One device of a swarm."""

    def __init__(
        self,
        *,
        index: int,
        shard: Shard,
        calls: client.Client,
        library: cache.Library,
        trainers: trainer.TrainerPool,
        habits: behaviour.Behaviour,
        wait_s: float = LONG_POLL_S,
        tamper: trainer.Tamper | None = None,
        enrolment_token: str | None = None,
        authority: bytes | None = None,
        state: State | None = None,
    ) -> None:
        """Take what the device has.

        ``wait_s`` is how long a check-in may be held, ``tamper`` what an attacker makes
        of its deltas, ``enrolment_token`` what lets it enrol, ``authority`` the public
        key of the key authority that it trusts.
        """
        self.index = index
        self.state = state or State.new()
        self._name = f"{shard.name}-{index}"
        self._learner = Learner(
            index=index, shard=shard, trainers=trainers, tamper=tamper
        )
        self._calls = calls
        self._library = library
        self._habits = habits
        self._wait_s = wait_s
        self._enrolment_token = enrolment_token
        self._authority = authority
        key = self.state.key
        self._signer = None if key is None else identity.Signer(key)
        self._materials: tuple[trainer.Model, Vector] | None = None
        self._lease_ends: float | None = None  # on the client's monotonic clock

    async def step(self) -> Step:
        """Do the next piece of work.

        Raises:
            Refused: The coordinator does not let this device enrol or check in.
            Unreachable: It does not answer.
            UnexpectedAnswer: It is no coordinator.
        """
        credential, assignment = self._credential, self.state.assignment
        if credential is None:
            return await self._enrol()
        if assignment is None:
            return await self._check_in(credential)
        try:
            return await self._work(credential, assignment)
        except (SecAggRefused, client.Unreachable) as error:  # till the lease ended
            return self._end(assignment, str(error))
        except _FAILURES as error:
            if isinstance(error, client.Refused) and error.is_of(*_ENDED):
                return self._end_of_part(assignment) or self._end(
                    assignment, str(error)
                )
            return await self._give_up(credential, assignment, error)

    @property
    def waits_for_others(self) -> bool:
        """Whether the next step only asks whether other devices have taken theirs."""
        part = self.state.part
        return part is not None and part.stage in secure.ASKS

    def examples(self, assignment: Assignment) -> int:
        """Return how many examples training goes through, all epochs together."""
        return self._learner.examples(assignment)

    async def interrupt(self) -> None:
        """Give the assignment up, as a phone does that is needed for something else."""
        credential, assignment = self._credential, self.state.assignment
        if credential is not None and assignment is not None:
            await self._say_why(
                credential, assignment, FailureReason.INTERRUPTED, "dropped out"
            )
        self._ask_anew()

    @property
    def _credential(self) -> Credential | None:
        """What proves who the device is; None: it is not enrolled."""
        if not self.state.is_enrolled:
            return None
        if self.state.signs:
            return self._signer
        return None if self.state.token is None else identity.Bearer(self.state.token)

    async def _enrol(self) -> Step:
        request = EnrolRequest(
            name=self._name[:80],
            capabilities=Capabilities(),
            enrolment_token=self._enrolment_token,
            public_key=None if self._signer is None else self._signer.key.spki,
        )
        enrolment = await self._calls.enrol(request, self._signer)
        self.state = dataclasses.replace(
            self.state,
            device_id=enrolment.device_id,
            token=enrolment.token,
            signs=enrolment.auth == "signature",
        )
        return Progressed(action=Action.ENROLLED)

    async def _check_in(self, credential: Credential) -> Step:
        try:
            answer = await self._calls.check_in(
                credential, key=self.state.check_in_key, wait_s=self._wait_s
            )
        except client.Refused as refusal:
            if not refusal.is_of(problems.IDEMPOTENCY_KEY_REUSED):
                raise
            self._ask_anew()
            return Progressed(action=Action.CHECKED_IN)
        assignment = answer.assignment
        if assignment is None:
            self._ask_anew()
            if answer.wait_reason is WaitReason.TASKS_ENDED:
                return Done()
            return Waiting(
                seconds=answer.retry_after_s or 0.0, reason=answer.wait_reason
            )
        self._lease_ends = self._calls.monotonic() + assignment.lease_s
        if assignment.kind is Kind.TRAIN:
            if not self._habits.comes(round_number=assignment.round, device=self.index):
                return await self._decline(credential, assignment)
            if assignment.secagg is None and self._habits.vanishes(
                round_number=assignment.round,
                attempt=assignment.attempt,
                device=self.index,
            ):
                self._ask_anew()
                return Vanished(assignment=assignment)
        self.state = dataclasses.replace(self.state, assignment=assignment)
        return Progressed(action=Action.CHECKED_IN, assignment=assignment)

    async def _work(self, credential: Credential, assignment: Assignment) -> Step:
        body, sha256 = self.state.body, self.state.body_sha256
        if body is not None and assignment.secagg is not None:
            return await self._take_part(credential, assignment, body)
        if (
            body is not None
            and assignment.encryption is not None
            and not self.state.is_sealed
        ):
            return await self._seal(credential, assignment, body)
        if body is not None and sha256 is not None:
            return await self._report(credential, assignment, body, sha256)
        if self._materials is None:
            self._materials = await self._library.materials(assignment)
            return Progressed(action=Action.DOWNLOADED, assignment=assignment)
        if assignment.kind is Kind.TRAIN:
            return await self._train(assignment, *self._materials)
        return await self._score(credential, assignment, *self._materials)

    async def _train(
        self, assignment: Assignment, model: trainer.Model, weights: Vector
    ) -> Step:
        trained = await self._learner.train(
            assignment, model, weights, residual=self.state.residual
        )
        left_out = None
        if trained.residual is not None:
            left_out = Residual(task=assignment.task, values=trained.residual)
        self.state = dataclasses.replace(
            self.state,
            body=trained.body,
            body_sha256=trained.sha256,
            next_residual=left_out,
        )
        return Progressed(action=Action.TRAINED, assignment=assignment)

    async def _score(
        self,
        credential: Credential,
        assignment: Assignment,
        model: trainer.Model,
        weights: Vector,
    ) -> Step:
        """Score, and report in one step: the sums are cheaper than remembering them.

        Where they go into a sum they are remembered, for the steps that follow.
        """
        report = await self._learner.score(assignment, model, weights)
        if assignment.secagg is not None or assignment.encryption is not None:
            body = report.model_dump_json().encode()
            self.state = dataclasses.replace(self.state, body=body)
            return Progressed(action=Action.STEPPED, assignment=assignment)
        await self._calls.send_evaluation(
            credential,
            assignment.report_to,
            report,
            deadline=self._deadline(assignment),
        )
        self._ask_anew()
        return Progressed(action=Action.SCORED, assignment=assignment)

    async def _report(
        self, credential: Credential, assignment: Assignment, body: bytes, sha256: str
    ) -> Step:
        await self._calls.send_update(
            credential,
            assignment.report_to,
            body=body,
            sha256=sha256,
            deadline=self._deadline(assignment),
        )
        left_out = self.state.next_residual
        step = self._counted(assignment)
        if assignment.kind is Kind.TRAIN:
            self.state = dataclasses.replace(self.state, residual=left_out)
        return step

    async def _seal(
        self, credential: Credential, assignment: Assignment, body: bytes
    ) -> Step:
        """Encrypt the result in ``body``; what is sent again is the same."""
        model, _ = self._materials or await self._library.materials(assignment)
        sealed = await sealing.encrypt(
            self._calls,
            credential,
            assignment,
            secure.Result(manifest=model.manifest, body=body),
            downloads=self._library,
            identity=None if self._signer is None else self._signer.private,
            authority=self._authority,
            wait_s=self._wait_s,
        )
        if isinstance(sealed, float):
            return Waiting(seconds=sealed, reason=None)
        self.state = dataclasses.replace(
            self.state,
            body=sealed,
            body_sha256=digests.sha256_hex(sealed),
            is_sealed=True,
        )
        return Progressed(action=Action.STEPPED, assignment=assignment)

    async def _take_part(
        self, credential: Credential, assignment: Assignment, body: bytes
    ) -> Step:
        """Take the next step of secure aggregation with the result in ``body``."""
        part, device_id = self.state.part, self.state.device_id
        if device_id is None:
            raise ValueError("a device that is not enrolled has no assignment")
        if part is None:
            identity = None if self._signer is None else self._signer.private
            part = secure.begin(assignment, device_id, identity)
            self.state = dataclasses.replace(self.state, part=part)
            return Progressed(action=Action.STEPPED, assignment=assignment)
        if self._vanishes_at(part.stage, assignment):
            self._ask_anew()
            return Vanished(assignment=assignment)
        model, _ = self._materials or await self._library.materials(assignment)
        taken = await secure.step(
            part,
            self._calls,
            credential,
            assignment,
            secure.Result(manifest=model.manifest, body=body),
            wait_s=self._wait_s,
        )
        if isinstance(taken, float):
            return Waiting(seconds=taken, reason=None)
        self.state = dataclasses.replace(self.state, part=taken)
        if taken.stage is secure.Stage.DONE:
            return self._counted(assignment)
        return Progressed(action=Action.STEPPED, assignment=assignment)

    def _vanishes_at(self, stage: secure.Stage, assignment: Assignment) -> bool:
        if assignment.kind is not Kind.TRAIN or stage not in _MOMENTS:
            return False
        moment = self._habits.vanishing_moment(
            round_number=assignment.round,
            attempt=assignment.attempt,
            device=self.index,
            moments=len(_MOMENTS),
        )
        return moment == _MOMENTS.index(stage)

    def _end_of_part(self, assignment: Assignment) -> Step | None:
        """Return that the result counts, where the round went on without a last help.

        A round waits for no more shares than it needs.
        """
        part = self.state.part
        if part is None or part.stage not in secure.COUNTED:
            return None
        return self._counted(assignment)

    def _counted(self, assignment: Assignment) -> Step:
        self._ask_anew()
        if assignment.kind is Kind.EVALUATE:
            return Progressed(action=Action.SCORED, assignment=assignment)
        self.state = dataclasses.replace(
            self.state, contributions=self.state.contributions + 1
        )
        return Progressed(action=Action.REPORTED, assignment=assignment)

    async def _decline(self, credential: Credential, assignment: Assignment) -> Step:
        """Free a place in a round that opened meanwhile and is other devices'."""
        await self._say_why(
            credential,
            assignment,
            FailureReason.INTERRUPTED,
            "not in this round's cohort",
        )
        self._ask_anew()
        return Waiting(seconds=_DECLINED_PAUSE_S, reason=None)

    async def _give_up(
        self, credential: Credential, assignment: Assignment, error: Exception
    ) -> Step:
        reason = _REASONS[type(error)]
        await self._say_why(credential, assignment, reason, str(error))
        return self._end(assignment, f"{reason}: {error}")

    async def _say_why(
        self,
        credential: Credential,
        assignment: Assignment,
        reason: FailureReason,
        detail: str,
    ) -> None:
        failure = FailureReport(reason=reason, detail=detail[:500])
        deadline = self._calls.monotonic() + _FAILURE_PATIENCE_S
        # If nobody hears of it, the lease frees the place a little later.
        with contextlib.suppress(client.Refused, client.Unreachable):
            await self._calls.send_failure(
                credential, assignment.failure_to, failure, deadline=deadline
            )

    def _end(self, assignment: Assignment, why: str) -> Step:
        self._ask_anew()
        return Progressed(action=Action.GAVE_UP, assignment=assignment, why=why)

    def _ask_anew(self) -> None:
        self._materials = None
        self.state = dataclasses.replace(
            self.state,
            check_in_key=uuid.uuid4().hex,
            assignment=None,
            body=None,
            body_sha256=None,
            is_sealed=False,
            part=None,
            next_residual=None,
        )

    def _deadline(self, assignment: Assignment) -> float:
        """When to stop trying to report, on the client's monotonic clock.

        A restored device does not know when its lease began on this clock. It tries for
        a whole lease: the coordinator alone judges whether the lease still holds.
        """
        if self._lease_ends is None:
            self._lease_ends = self._calls.monotonic() + assignment.lease_s
        return self._lease_ends
