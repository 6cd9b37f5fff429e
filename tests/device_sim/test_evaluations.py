"""What a report and a run's last lines say of federated evaluations."""

import datetime as dt
import json

import pytest

from coordinator.protocol.operations import (
    Distribution,
    Personalized,
    Score,
    VersionMetrics,
)
from device_sim import evaluations
from device_sim.report import RoundRow

BEFORE = Distribution(
    p10=0.85, p25=0.9, p50=0.95, p75=0.98, p90=1.0, worst_tenth=0.8125
)
AFTER = Distribution(p10=0.92, p25=0.95, p50=0.97, p75=1.0, p90=1.0, worst_tenth=0.9)
CHANGE = Distribution(
    p10=-0.01, p25=0.0, p50=0.02, p75=0.05, p90=0.08, worst_tenth=-0.03
)


def version(
    number: int,
    *,
    is_evaluated: bool = True,
    before: Distribution | None = None,
    personalized: Personalized | None = None,
) -> VersionMetrics:
    return VersionMetrics(
        version=number,
        round=number or None,
        published_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        train=None,
        federated=(
            Score(examples=1000 + number, loss=0.25, accuracy=0.95)
            if is_evaluated
            else None
        ),
        federated_devices=50 if is_evaluated else None,
        federated_distribution=before,
        personalized=personalized,
        held_out=None,
    )


def tuned(devices: int, *, is_enough: bool = True) -> Personalized:
    return Personalized(
        devices=devices,
        score=Score(examples=1002, loss=0.125, accuracy=0.97),
        distribution=AFTER if is_enough else None,
        change=CHANGE if is_enough else None,
    )


def row(number: int) -> RoundRow:
    return RoundRow(
        round=number,
        attempt=1,
        seconds=1.0,
        accepted=50,
        train_loss=None,
        train_accuracy=None,
        held_out_accuracy=None,
        bytes_up=0,
        bytes_down=0,
    )


def test_a_row_has_what_devices_found_of_its_version() -> None:
    versions = [
        version(0, is_evaluated=False),
        version(1, is_evaluated=False),
        version(2, before=BEFORE, personalized=tuned(50)),
        version(3),
    ]

    rows = evaluations.into_rows([row(n) for n in (1, 2, 3, 4)], versions)

    assert [r.federated_accuracy for r in rows] == [None, 0.95, 0.95, None]
    assert (rows[0], rows[3]) == (row(1), row(4))
    assert (rows[1].federated_loss, rows[1].federated_devices) == (0.25, 50)
    assert rows[1].federated_distribution == BEFORE.model_dump()
    assert rows[1].personalized is not None
    assert rows[1].personalized["score"]["accuracy"] == 0.97
    assert rows[1].personalized["change"]["worst_tenth"] == -0.03
    assert (rows[2].federated_distribution, rows[2].personalized) == (None, None)
    json.dumps([rows[1].federated_distribution, rows[1].personalized])


FEDERATED = (
    "federated evaluation after round 2: accuracy 0.9500, loss 0.2500 on 1002 examples "
    "that never left their devices"
)
OVER_DEVICES = (
    "accuracy over 50 devices: worst tenth 0.8125, 10 % 0.8500, 25 % 0.9000, "
    "median 0.9500, 75 % 0.9800, 90 % 1.0000"
)
PERSONALIZED = "personalized: accuracy 0.9500 -> 0.9700"
CHANGES = (
    "change of a device's accuracy: worst tenth -0.0300, 10 % -0.0100, 25 % +0.0000, "
    "median +0.0200, 75 % +0.0500, 90 % +0.0800"
)


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (version(2), [FEDERATED]),
        (version(2, before=BEFORE), [FEDERATED, OVER_DEVICES]),
        (
            version(2, before=BEFORE, personalized=tuned(50)),
            [
                FEDERATED,
                OVER_DEVICES,
                f"{PERSONALIZED}, worst tenth of devices 0.8125 -> 0.9000",
                CHANGES,
            ],
        ),
        (
            version(2, before=BEFORE, personalized=tuned(9, is_enough=False)),
            [
                FEDERATED,
                OVER_DEVICES,
                f"{PERSONALIZED}, 9 of 50 devices fine-tuned",
            ],
        ),
    ],
)
def test_the_newest_evaluation_is_told(
    newest: VersionMetrics, expected: list[str]
) -> None:
    older = version(1, before=AFTER)
    later = version(3, is_evaluated=False)

    assert evaluations.lines([older, newest, later]) == expected


def test_nothing_is_told_without_an_evaluation() -> None:
    assert evaluations.lines([version(0, is_evaluated=False)]) == []
