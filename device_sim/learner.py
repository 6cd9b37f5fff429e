"""A device's own examples, and what it learns from them: an update, or a score."""

import logging
from typing import Final

from coordinator.protocol import encodings
from coordinator.protocol.manifest import Vector
from coordinator.protocol.messages import (
    Assignment,
    EvaluationReport,
    PersonalizedSums,
)
from device_sim import behaviour, client, trainer
from device_sim.data import Shard
from device_sim.residual import Residual

_LOG: Final = logging.getLogger(__name__)
_CANNOT_TUNE: Final = (
    trainer.GraphFailed,
    trainer.NoExamples,
    trainer.TrainingDiverged,
)


class Learner:
    """Works on the examples of one device, which never leave it."""

    def __init__(
        self,
        *,
        index: int,
        shard: Shard,
        trainers: trainer.TrainerPool,
        tamper: trainer.Tamper | None,
    ) -> None:
        """Take the examples of device ``index``; ``tamper`` is an attacker's."""
        self._index = index
        self._shard = shard
        self._trainers = trainers
        self._tamper = tamper

    def examples(self, assignment: Assignment) -> int:
        """Return how many examples training goes through, all epochs together."""
        plan = assignment.training
        if plan is None:
            return 0
        return plan.epochs * min(len(self._shard.train_labels), plan.max_examples)

    async def train(
        self,
        assignment: Assignment,
        model: trainer.Model,
        weights: Vector,
        *,
        residual: Residual | None,
    ) -> trainer.Trained:
        """Train as an assignment says, and write the update.

        ``residual`` is what the encoding left out of the last one, of whatever task.

        Raises:
            UnexpectedAnswer: The assignment does not say how.
            NoExamples, TrainingDiverged, GraphFailed: As their names say.
        """
        plan, shard = assignment.training, self._shard
        if plan is None:
            raise client.UnexpectedAnswer("an assignment to train comes without a plan")
        rng = behaviour.training_generator(
            seed=assignment.seed, round_number=assignment.round, device=self._index
        )
        of_task = residual is not None and residual.task == assignment.task
        writing = trainer.Writing(
            encoding=assignment.encoding,
            topk_share=assignment.topk_share or 1.0,
            error_feedback=assignment.error_feedback,
            noise=assignment.noise,
            residual=residual.values if residual is not None and of_task else None,
        )
        return await self._trainers.run(
            model,
            lambda own: own.train(
                shard.train_x,
                shard.train_y,
                weights=weights,
                plan=plan,
                rng=rng,
                writing=writing,
                tamper=self._tamper,
            ),
        )

    async def score(
        self, assignment: Assignment, model: trainer.Model, weights: Vector
    ) -> EvaluationReport:
        """Score a version, and a fine-tuned copy of it where that is asked for.

        Raises:
            NoExamples, GraphFailed: As their names say.
        """
        shard = self._shard
        scored = await self._trainers.run(
            model, lambda own: own.score(shard.test_x, shard.test_y, weights=weights)
        )
        return EvaluationReport(
            examples=scored.examples,
            loss_sum=scored.loss_sum,
            correct=scored.correct,
            personalized=await self._personalize(assignment, model, weights),
        )

    async def _personalize(
        self, assignment: Assignment, model: trainer.Model, weights: Vector
    ) -> PersonalizedSums | None:
        """Score a fine-tuned copy, and forget it; none: unasked for, or it failed."""
        plan, shard = assignment.personalization, self._shard
        if plan is None:
            return None
        rng = behaviour.personalization_generator(
            seed=assignment.seed, round_number=assignment.round, device=self._index
        )

        def score_tuned(own: trainer.Trainer) -> trainer.Scored:
            tuned = own.fine_tune(
                shard.train_x, shard.train_y, weights=weights, plan=plan, rng=rng
            )
            return own.score(shard.test_x, shard.test_y, weights=tuned)

        try:
            scored = await self._trainers.run(model, score_tuned)
        except _CANNOT_TUNE as error:
            _LOG.warning("a device could not fine-tune: %s", error)
            return None
        if not scored.loss <= encodings.MAX_LOSS:  # finite weights may make NaN of it
            _LOG.warning("a device's fine-tuned copy has loss %s", scored.loss)
            return None
        return PersonalizedSums(loss_sum=scored.loss_sum, correct=scored.correct)
