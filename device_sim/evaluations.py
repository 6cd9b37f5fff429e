"""What federated evaluations found: in a report's rows, and in a run's last lines."""

import dataclasses
from collections.abc import Sequence

from coordinator.protocol.operations import (
    Distribution,
    Personalized,
    Score,
    VersionMetrics,
)
from device_sim.report import RoundRow


def into_rows(
    rows: Sequence[RoundRow], versions: Sequence[VersionMetrics]
) -> list[RoundRow]:
    """Return the rows, each with what devices found of the version it published."""
    by_round = {version.round: version for version in versions}
    return [
        _filled(row, by_round[row.round]) if row.round in by_round else row
        for row in rows
    ]


def lines(versions: Sequence[VersionMetrics]) -> list[str]:
    """Return what the newest evaluation found, for a person; no line without one."""
    evaluated = [
        (version, version.federated)
        for version in versions
        if version.federated is not None
    ]
    if not evaluated:
        return []
    version, score = max(evaluated, key=lambda found: found[0].version)
    line = (
        f"federated evaluation after round {version.round}: accuracy "
        f"{score.accuracy:.4f}, loss {score.loss:.4f} on {score.examples} examples "
        "that never left their devices"
    )
    told = [line]
    over_devices = version.federated_distribution
    if over_devices is not None:
        told.append(
            f"accuracy over {version.federated_devices} devices: worst tenth "
            f"{over_devices.worst_tenth:.4f}, {_quantiles(over_devices)}"
        )
    if version.personalized is not None:
        told += _personalized(version, score, version.personalized)
    return told


def _personalized(
    version: VersionMetrics, before: Score, found: Personalized
) -> list[str]:
    parts = [f"accuracy {before.accuracy:.4f} -> {found.score.accuracy:.4f}"]
    worst, after = version.federated_distribution, found.distribution
    if worst is not None and after is not None:
        parts.append(
            f"worst tenth of devices {worst.worst_tenth:.4f} -> {after.worst_tenth:.4f}"
        )
    if found.devices != version.federated_devices:
        parts.append(
            f"{found.devices} of {version.federated_devices} devices fine-tuned"
        )
    told = [f"personalized: {', '.join(parts)}"]
    if found.change is not None:
        told.append(
            "change of a device's accuracy: worst tenth "
            f"{found.change.worst_tenth:+.4f}, {_quantiles(found.change, '+.4f')}"
        )
    return told


def _quantiles(found: Distribution, form: str = ".4f") -> str:
    named = {
        "10 %": found.p10,
        "25 %": found.p25,
        "median": found.p50,
        "75 %": found.p75,
        "90 %": found.p90,
    }
    return ", ".join(f"{name} {value:{form}}" for name, value in named.items())


def _filled(row: RoundRow, version: VersionMetrics) -> RoundRow:
    score = version.federated
    if score is None:
        return row
    over_devices, personalized = version.federated_distribution, version.personalized
    return dataclasses.replace(
        row,
        federated_loss=score.loss,
        federated_accuracy=score.accuracy,
        federated_devices=version.federated_devices,
        federated_distribution=(
            None if over_devices is None else over_devices.model_dump()
        ),
        personalized=None if personalized is None else personalized.model_dump(),
    )
