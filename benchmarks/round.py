"""What a round costs beyond its training: ``python -m benchmarks.round``.

50 devices train once over 100 examples each in batches of 20, through HTTP, against a
coordinator with its own processes and SQLite. The floor is the same training on the
same threads without anything around it, measured in turn with the rounds. The last line
is the ratio of the medians.
"""

import asyncio
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import typer

from coordinator.protocol import deltas
from coordinator.protocol.manifest import Vector
from coordinator.protocol.plan_rounds import RoundPlan
from coordinator.protocol.plan_training import TrainingPlan, UpdatePlan
from coordinator.protocol.plans import Plan
from device_sim import behaviour, cache, client, run, trainer
from device_sim.connector import Connector
from device_sim.data import Shard
from device_sim.embedded import EmbeddedCoordinator
from device_sim.operator import Operator
from device_sim.participant import Participant
from device_sim.swarm import Swarm

_DEVICES: Final = 50
_EXAMPLES: Final = 100
_TRAINING: Final = TrainingPlan(learning_rate=0.05, batch_size=20, epochs=1)
_MODEL: Final = "cnn"


def main(
    *,
    rounds: Annotated[
        int, typer.Option(min=1, help="Steady rounds measured in each block.")
    ] = 5,
    blocks: Annotated[
        int, typer.Option(min=1, help="Blocks of rounds, training alone in between.")
    ] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads that train.")] = 2,
    encoding: Annotated[
        str, typer.Option(help=f"How updates are written: {', '.join(deltas.NAMES)}.")
    ] = "f32",
    check: Annotated[
        float | None,
        typer.Option(help="Exit with status 1 if the ratio is above this."),
    ] = None,
) -> None:
    """Measure a round of 50 devices against the training in it."""
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedCoordinator(pathlib.Path(folder))
        embedded.start()
        try:
            with asyncio.Runner(loop_factory=run.new_event_loop) as runner:
                ratio = runner.run(
                    _measure(
                        embedded,
                        rounds=rounds,
                        blocks=blocks,
                        threads=threads,
                        update=UpdatePlan.model_validate({"encoding": encoding}),
                    )
                )
        finally:
            embedded.stop()
    print(f"ratio {ratio:.3f}")
    if check is not None and ratio > check:
        raise typer.Exit(1)


async def _measure(
    embedded: EmbeddedCoordinator,
    *,
    rounds: int,
    blocks: int,
    threads: int,
    update: UpdatePlan,
) -> float:
    trainers = trainer.TrainerPool(threads)
    shards = _shards()
    async with Connector(
        embedded.url, traffic=client.Traffic(), trusts_environment=False
    ) as connector:
        calls = await connector.client()
        await embedded.wait_until_ready(calls)
        library = cache.Library(cache.DownloadCache(calls))
        participants = [
            Participant(
                index=index,
                shard=shard,
                calls=await connector.client(),
                library=library,
                trainers=trainers,
                habits=behaviour.Behaviour(devices=_DEVICES),
            )
            for index, shard in enumerate(shards)
        ]
        through_http: list[float] = []
        alone: list[float] = []
        for block in range(blocks):
            operator = Operator(
                calls, token=embedded.operator_token(), task=f"block-{block}"
            )
            # One round more than is measured: the first also opens and warms up.
            await operator.start(_plan(rounds + 1, update))
            await Swarm(participants, threads=threads).run()
            first, *steady = await _seconds(operator)
            if block == 0:
                print(f"first round, workers starting: {first:.3f} s")
            through_http += steady
            version = (await operator.state()).version
            model, weights = await library.version(_MODEL, version)
            alone += [
                await _train(trainers, model, shards, weights) for _ in range(rounds)
            ]
    trainers.close()
    print(f"a round through HTTP: {_describe(through_http)}")
    print(f"its training alone:   {_describe(alone)}")
    return statistics.median(through_http) / statistics.median(alone)


async def _seconds(operator: Operator) -> list[float]:
    return [
        (round_.closed_at - round_.opened_at).total_seconds()
        for round_ in await operator.rounds()
        if round_.closed_at is not None
    ]


async def _train(
    trainers: trainer.TrainerPool,
    model: trainer.Model,
    shards: list[Shard],
    weights: Vector,
) -> float:
    """Train every device once, without the wire. Returns seconds."""

    def fit(shard: Shard) -> Callable[[trainer.Trainer], object]:
        return lambda own: own.fit(
            shard.train_x,
            shard.train_y,
            weights=weights,
            plan=_TRAINING,
            rng=np.random.default_rng(0),
        )

    started = time.perf_counter()
    await asyncio.gather(*(trainers.run(model, fit(shard)) for shard in shards))
    return time.perf_counter() - started


def _plan(rounds: int, update: UpdatePlan) -> Plan:
    return Plan(
        model=_MODEL,
        rounds=rounds,
        round=RoundPlan(goal=_DEVICES, minimum=_DEVICES),
        training=_TRAINING,
        update=update,
    )


def _shards() -> list[Shard]:
    """Return random images: what is learnt does not matter here."""
    rng = np.random.default_rng(0)

    def images(count: int) -> npt.NDArray[np.uint8]:
        return rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)

    def labels(count: int) -> npt.NDArray[np.uint8]:
        return rng.integers(0, 10, count, dtype=np.uint8)

    return [
        Shard(
            name=f"device-{index}",
            train_images=images(_EXAMPLES),
            train_labels=labels(_EXAMPLES),
            test_images=images(1),
            test_labels=labels(1),
        )
        for index in range(_DEVICES)
    ]


def _describe(seconds: list[float]) -> str:
    return (
        f"median {statistics.median(seconds):.3f} s, "
        f"{min(seconds):.3f} to {max(seconds):.3f} s, {len(seconds)} times"
    )


if __name__ == "__main__":
    typer.run(main)
