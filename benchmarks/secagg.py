"""What secure aggregation costs: ``python -m benchmarks.secagg``.

Vectors of the CNN's 693,962 weights. The device's floor is what no protocol with masks
can do without: as many AES-256-CTR expansions and additions as it has masks, one for
each neighbour and its own. The coordinator's is the same for the masks that it takes
out of the sum. Both are measured in the same run as what is compared with them; sums
are checked. A device's time is that of its four steps, reading and writing the JSON of
each included; its update is encoded before, which is shown beside it.
"""

import dataclasses
import os
import secrets
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Final

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.protocol.allocator import keep_freed_memory
from coordinator.protocol.encodings import Report
from coordinator.protocol.secagg import (
    cohort,
    device,
    masks,
    parameters,
    scrutiny,
    stages,
    summands,
    unmasking,
)
from coordinator.protocol.secagg.masks import Words
from coordinator.protocol.secagg.messages import (
    Dealing,
    Inbox,
    Reveal,
    Roster,
    Session,
    Survivors,
)
from coordinator.protocol.secagg.parameters import Parameters
from coordinator.protocol.secagg.summands import Encoding

SIZE: Final = 693_962
_DEVICES: Final = 100
_REPEATS: Final = 5
_SEEN: Final = 12  # devices whose steps are timed; the others only take part
_POLICY: Final = scrutiny.Policy()
_SESSION: Final = Session(
    id="0" * 32,
    task="benchmark",
    round=1,
    attempt=1,
    model_sha256="0" * 64,
    plan_sha256="0" * 64,
)


@dataclasses.dataclass
class _Measured:
    """What one cohort took; seconds and bytes are a device's."""

    device_s: list[float] = dataclasses.field(default_factory=list)
    floor_s: list[float] = dataclasses.field(default_factory=list)
    up_bytes: int = 0
    down_bytes: int = 0
    adding_s: list[float] = dataclasses.field(default_factory=list)
    masks: int = 0
    unmask_s: list[float] = dataclasses.field(default_factory=list)
    unmask_floor_s: list[float] = dataclasses.field(default_factory=list)


def main(
    *,
    threads: Annotated[
        int, typer.Option(min=1, help="Over which the coordinator unmasks.")
    ] = os.cpu_count() or 1,
) -> None:
    """Measure cohorts of 100 that lose 10 % and 30 %, and print a line for each."""
    keep_freed_memory()
    encoding = Encoding(
        size=SIZE,
        clip_norm=1.0,
        bits=summands.most_bits(_DEVICES),
        max_devices=_DEVICES,
        weighting="examples",
        max_examples=600,
    )
    plain_bytes = 4 * SIZE
    update = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
    report = Report(examples=100, train_loss=1.0, train_accuracy=0.5)
    encode_s = _median_s(
        lambda: summands.encode(update, report, encoding, key=os.urandom(32))
    )
    vector = summands.encode(update, report, encoding, key=os.urandom(32))
    print(f"{_DEVICES} devices, vectors of {encoding.size_bytes} bytes, medians")
    print(f"encoding an update         {encode_s * 1e3:8.1f} ms")
    for dropout, chosen in (
        (0.1, parameters.choose(_DEVICES, dropout=0.1, collusion=0.1)),
        (0.3, parameters.choose(_DEVICES, dropout=0.3, collusion=0.1)),
    ):
        measured = _measure(encoding, vector, chosen, dropout, threads)
        upload = encoding.size_bytes + measured.up_bytes
        print(
            f"\nk = {chosen.degree}, t = {chosen.threshold}, {dropout:.0%} vanish\n"
            + _beside("device, four steps", measured.device_s, measured.floor_s)
            + f"device sends               {upload:8} bytes, "
            f"{upload / plain_bytes:.4f} of plain float32\n"
            f"  beyond 4 a parameter     {upload - plain_bytes:8} bytes\n"
            f"device receives            {measured.down_bytes:8} bytes\n"
            f"adding a vector            "
            f"{statistics.median(measured.adding_s) * 1e3:8.2f} ms\n"
            + _beside(
                f"unmasking, {threads} threads",
                measured.unmask_s,
                measured.unmask_floor_s,
            )
            + f"  masks                    {measured.masks:8}"
        )


def _beside(what: str, seconds: list[float], floor: list[float]) -> str:
    """Return lines on times beside their floor's: medians, and the best of each."""
    median_s, floor_s = statistics.median(seconds), statistics.median(floor)
    return (
        f"{what:26} {median_s * 1e3:8.1f} ms, at best {min(seconds) * 1e3:.1f}\n"
        f"  floor                    {floor_s * 1e3:8.1f} ms, at best "
        f"{min(floor) * 1e3:.1f}\n"
        f"  ratio to floor           {median_s / floor_s:8.2f}, at best "
        f"{min(seconds) / min(floor):.2f}\n"
    )


def _measure(
    encoding: Encoding,
    vector: Words,
    chosen: Parameters,
    dropout: float,
    threads: int,
) -> _Measured:
    """Run one cohort in which so many vanish after dealing, and check its sum."""
    measured = _Measured()
    states, formed, join_s = _gather(encoding, chosen)
    everybody = range(_DEVICES)
    lost = {*secrets.SystemRandom().sample(everybody, round(dropout * _DEVICES))}
    survivors = frozenset(everybody) - lost
    spent = dict.fromkeys(everybody, join_s)
    dealings, told = {}, Survivors(indices=tuple(sorted(survivors)))
    messages: list[tuple[str, str]] = []  # of one device: sent, received
    for index in everybody:
        roster = formed.roster(index).model_dump_json()
        started = time.perf_counter()
        states[index], dealing = device.deal(
            states[index], Roster.model_validate_json(roster), _POLICY
        )
        body = dealing.model_dump_json()
        spent[index] += time.perf_counter() - started
        dealings[index] = Dealing.model_validate_json(body).packed()
        if index == min(survivors):
            joined = states[index].announcement.model_dump_json()
            messages += [(joined, ""), (body, roster)]
    sharers = stages.choose_sharers(formed, everybody)
    total = unmasking.empty_sum(encoding)
    reveals = {}
    for index in sorted(survivors):
        inbox = stages.inbox(formed, sharers, dealings, index).model_dump_json()
        started = time.perf_counter()
        states[index], masked = device.mask(
            states[index], Inbox.model_validate_json(inbox), vector
        )
        spent[index] += time.perf_counter() - started
        if len(measured.floor_s) < _SEEN:
            measured.floor_s.append(_floor_s(encoding, chosen.degree + 1))
        started = time.perf_counter()
        unmasking.add_vector(total, masked, encoding)
        measured.adding_s.append(time.perf_counter() - started)
        alive = told.model_dump_json()
        started = time.perf_counter()
        states[index], reveal = device.reveal(
            states[index], Survivors.model_validate_json(alive), _POLICY
        )
        body = reveal.model_dump_json()
        spent[index] += time.perf_counter() - started
        reveals[index] = Reveal.model_validate_json(body)
        if index == min(survivors):
            messages += [("", inbox), (body, alive)]
    measured.device_s = [spent[index] for index in sorted(survivors)[:_SEEN]]
    measured.up_bytes = sum(len(sent) for sent, _ in messages)
    measured.down_bytes = sum(len(received) for _, received in messages)
    expected = vector * np.uint32(len(survivors))
    measured.masks = len(survivors) + sum(
        len(survivors.intersection(formed.neighbours[index])) for index in lost
    )
    for _ in range(_REPEATS):
        masked_sum = total.copy()
        started = time.perf_counter()
        unmasking.unmask(
            formed, sharers, survivors, reveals, masked_sum, threads=threads
        )
        measured.unmask_s.append(time.perf_counter() - started)
        if not np.array_equal(masked_sum, expected):
            raise AssertionError("the sum is wrong")
        measured.unmask_floor_s.append(
            _floor_s(encoding, measured.masks, threads=threads)
        )
    return measured


def _gather(
    encoding: Encoding, chosen: Parameters
) -> tuple[dict[int, device.State], cohort.Cohort, float]:
    """Let all devices join. Returns also the seconds of one, the median."""
    states, members, seconds = {}, [], []
    for _ in range(_DEVICES):
        name, identity = secrets.token_hex(16), ed25519.Ed25519PrivateKey.generate()
        started = time.perf_counter()
        state = device.join(_SESSION, name, identity)
        state.announcement.model_dump_json()
        seconds.append(time.perf_counter() - started)
        states[name] = state
        members.append(cohort.admit(_SESSION, name, state.identity, state.announcement))
    formed = cohort.form(
        "1" * 32,
        _SESSION,
        members,
        parameters=chosen,
        encoding=encoding,
        minimum=parameters.MIN_DEVICES,
    )
    by_index = {formed.indices[name]: state for name, state in states.items()}
    return by_index, formed, statistics.median(seconds)


def _floor_s(encoding: Encoding, count: int, *, threads: int = 1) -> float:
    total = unmasking.empty_sum(encoding)
    found: list[tuple[bytes, masks.Sign]] = [(os.urandom(32), 1) for _ in range(count)]
    return _once_s(lambda: masks.add_all(total, found, threads=threads))


def _once_s(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _median_s(run: Callable[[], object]) -> float:
    return statistics.median(_once_s(run) for _ in range(9))


if __name__ == "__main__":
    typer.run(main)
