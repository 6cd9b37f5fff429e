"""The task: when it opens its next round, and when it ends."""

import dataclasses
import datetime as dt
import enum
from typing import Final

from coordinator.domain import rounds
from coordinator.domain.errors import UnsuitablePlan
from coordinator.protocol.manifest import Manifest
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.protocol.plan_secagg import SecAggPlan
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind

_PLAIN: Final = "train_epoch"  # every model has it
_IMAGE_DIMENSIONS: Final = 3


class Status(enum.StrEnum):
    """Whether a task goes on. The value is what the database stores."""

    RUNNING = "running"
    FINISHED = "finished"  # every round of the plan is committed
    STOPPED = "stopped"  # it cannot go on; the reason says why


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One model trained under one plan."""

    id: str
    plan: Plan
    status: Status
    reason: str | None
    version: int  #: that its next round starts from; mostly its newest
    rounds_committed: int
    created_at: dt.datetime
    revision: int  #: grows by one with every change

    def after_commit(self, version: int, *, last: str | None = None) -> "Task":
        """Return the task with one more training round committed.

        Args:
            version: What the round published.
            last: Why there can be no further round; none: there can.
        """
        committed = self.rounds_committed + 1
        if committed >= self.plan.rounds:
            status, reason = Status.FINISHED, None
        else:
            status = Status.RUNNING if last is None else Status.STOPPED
            reason = last
        return dataclasses.replace(
            self,
            version=version,
            rounds_committed=committed,
            status=status,
            reason=reason,
            revision=self.revision + 1,
        )

    def continued_from(self, version: int) -> "Task":
        """Return the task with another of its versions as its current one."""
        return dataclasses.replace(self, version=version, revision=self.revision + 1)

    def stopped(self, reason: str) -> "Task":
        """Return the task as it stops."""
        return dataclasses.replace(
            self, status=Status.STOPPED, reason=reason, revision=self.revision + 1
        )


def insist_suitable(plan: Plan, manifest: Manifest) -> None:
    """Check a plan against its model.

    Raises:
        UnsuitablePlan: It asks for what the model cannot do.
    """
    signature = plan.training.signature
    if signature != _PLAIN and signature not in manifest.signatures:
        raise UnsuitablePlan(
            f"optimizer {plan.training.optimizer} with these settings needs signature "
            f"{signature}, which model {manifest.model} lacks: build it anew"
        )
    shape = manifest.input_shape
    if len(shape) != _IMAGE_DIMENSIONS:
        for name, value in plan.training.augmentations().items():
            raise UnsuitablePlan(
                f"{name} {value} needs images of height, width and channels, examples "
                f"of model {manifest.model} have shape {shape}"
            )


def training_policy(plan: Plan) -> rounds.Policy:
    """Return when the plan's training rounds close."""
    privacy = plan.privacy
    by_coin = privacy is not None and privacy.sampling == "poisson"
    return rounds.Policy(
        goal=privacy.most_chosen if privacy and by_coin else plan.round.goal,
        minimum=plan.round.minimum,
        over_select=plan.round.over_select,
        lease_s=plan.round.lease_s,
        deadline_s=plan.round.deadline_s,
        concurrency=(
            None if plan.asynchronous is None else plan.asynchronous.concurrency
        ),
        max_rounds=plan.participation.max_rounds,
        min_separation=plan.participation.min_separation,
        sampling_rate=None if privacy is None else privacy.sampling_rate,
        step_s=None if plan.secagg is None else plan.secagg.step_s,
        is_encrypted=plan.he is not None,
    )


def evaluation_policy(
    plan: EvaluationPlan,
    secagg: SecAggPlan | None = None,
    *,
    is_encrypted: bool = False,
) -> rounds.Policy:
    """Return when the plan's evaluation rounds close."""
    return rounds.Policy(
        goal=plan.goal,
        minimum=plan.minimum,
        over_select=0.0,
        lease_s=plan.lease_s,
        deadline_s=plan.deadline_s,
        step_s=None if secagg is None else secagg.step_s,
        is_encrypted=is_encrypted,
    )


def next_training_round(
    task: Task, *, now: dt.datetime, attempt: int = 1
) -> rounds.NewRound:
    """Return the training round that a running task opens next."""
    return rounds.NewRound(
        task=task.id,
        kind=Kind.TRAIN,
        number=task.rounds_committed + 1,
        attempt=attempt,
        model=task.plan.model,
        base_version=task.version,
        policy=training_policy(task.plan),
        opened_at=now,
    )


def evaluation_round(task: Task, *, now: dt.datetime) -> rounds.NewRound | None:
    """Return the evaluation that the newest commit asks for, or none.

    Args:
        task: The task just after a commit.
        now: The present moment.
    """
    plan = task.plan.evaluation
    if plan is None or task.rounds_committed % plan.every != 0:
        return None
    return rounds.NewRound(
        task=task.id,
        kind=Kind.EVALUATE,
        number=task.rounds_committed,
        attempt=1,
        model=task.plan.model,
        base_version=task.version,
        policy=evaluation_policy(
            plan, task.plan.secagg, is_encrypted=task.plan.he is not None
        ),
        opened_at=now,
    )
