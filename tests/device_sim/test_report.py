import dataclasses
import json
import math
import pathlib
import struct
import subprocess
import sys

import pytest

from coordinator.protocol import operations
from device_sim import report


def row(number: int, **values: object):
    return report.RoundRow(
        **{
            "round": number,
            "attempt": 1,
            "seconds": 1.5,
            "accepted": 8,
            "train_loss": 1 / number,
            "train_accuracy": 1 - 0.5 / number,
            "held_out_accuracy": 1 - 0.6 / number,
            "bytes_up": 1_000_000,
            "bytes_down": 2_000_000,
        }
        | values
    )


def run(*rounds: report.RoundRow, **values: object):
    return report.RunReport(
        **{
            "plan": "default",
            "data": "npz:/a/folder/writers.npz",
            "seed": 7,
            "devices": 20,
            "seconds": 12.25,
            "held_out_accuracy": 0.91,
            "rounds": rounds,
        }
        | values
    )


def test_the_json_has_every_field_by_name():
    content = json.loads(run(row(1), note=("one machine",)).to_json())
    assert content == {
        "plan": "default",
        "data": "npz:/a/folder/writers.npz",
        "seed": 7,
        "devices": 20,
        "population": None,
        "attackers": {},
        "backdoor_success": None,
        "stopped": None,
        "delta": None,
        "bytes_up_a_device": None,
        "bytes_down_a_device": None,
        "simulated_s": None,
        "seconds": 12.25,
        "held_out_accuracy": 0.91,
        "note": ["one machine"],
        "rounds": [
            {
                "round": 1,
                "attempt": 1,
                "seconds": 1.5,
                "accepted": 8,
                "train_loss": 1.0,
                "train_accuracy": 0.5,
                "held_out_accuracy": 0.4,
                "bytes_up": 1_000_000,
                "bytes_down": 2_000_000,
                "federated_loss": None,
                "federated_accuracy": None,
                "federated_devices": None,
                "federated_distribution": None,
                "personalized": None,
                "simulated_s": None,
                "epsilon": None,
            }
        ],
    }


def test_a_diverged_run_is_still_json():
    diverged = run(row(1, train_loss=math.nan, federated_loss=math.inf))
    (round_,) = json.loads(diverged.to_json())["rounds"]
    assert round_["train_loss"] is None
    assert round_["federated_loss"] is None
    assert round_["train_accuracy"] == 0.5


def test_both_files_are_written_and_written_again(tmp_path: pathlib.Path):
    folder = tmp_path / "runs" / "first"
    paths = report.write(run(row(1)), folder)
    assert paths == (folder / "report.json", folder / "curves.png")
    before = paths[1].read_bytes()
    longer = run(row(1), row(2), row(3))
    report.write(longer, folder)
    assert paths[0].read_bytes() == longer.to_json()
    assert paths[1].read_bytes() != before
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png",
        "report.json",
    ]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    report.write(run(row(1)), tmp_path)
    old = (tmp_path / "report.json").read_bytes()

    def fail(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(report.os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        report.write(run(row(1), row(2)), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "rounds",
    [
        (),
        (row(1),),
        tuple(row(n) for n in range(1, 11)),
        tuple(row(n, federated_accuracy=0.5 if n % 5 else None) for n in range(1, 301)),
        (row(1, attempt=1, accepted=0, train_loss=None), row(1, attempt=2)),
        (row(1, train_loss=math.nan, held_out_accuracy=None, train_accuracy=None),),
        (row(1, bytes_up=0, bytes_down=0),),
    ],
    ids=["none", "one", "ten", "many", "retried", "diverged", "no traffic"],
)
def test_the_picture_is_a_png_of_its_size_whatever_was_measured(
    rounds: tuple[report.RoundRow, ...],
):
    image = report.draw(run(*rounds, held_out_accuracy=None))
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", image[16:24]) == (1040, 1170)


def test_every_curve_changes_the_picture():
    rounds = [row(n, federated_loss=2.0, federated_accuracy=0.3) for n in range(1, 6)]
    whole = report.draw(run(*rounds))
    assert whole == report.draw(run(*rounds))
    for name in (
        "train_loss",
        "train_accuracy",
        "held_out_accuracy",
        "federated_loss",
        "federated_accuracy",
    ):
        without = [dataclasses.replace(row_, **{name: None}) for row_ in rounds]
        assert report.draw(run(*without)) != whole, name
    quieter = [dataclasses.replace(row_, bytes_up=0) for row_ in rounds]
    assert report.draw(run(*quieter)) != whole


def test_the_headline_says_what_ran_and_how_it_went():
    assert report._headline(run(row(1))) == (
        "default: 91.0 % held out after 1 round\n"
        "20 devices on npz:writers.npz, seed 7, 12 s"
    )
    unmeasured = report._headline(run(held_out_accuracy=None, data="sample"))
    assert unmeasured.startswith(
        "default: not measured after 0 rounds\n20 devices on s"
    )


def test_the_headline_says_how_many_of_how_many_devices_come():
    assert "20 of 70 devices a round on" in report._headline(run(population=70))


def test_matplotlib_is_imported_for_the_picture_alone():
    code = (
        "import sys; from device_sim import report; "
        "assert 'matplotlib' not in sys.modules; "
        "report.draw(report.RunReport(plan='p', data='sample', seed=0, devices=1, "
        "seconds=1.0, held_out_accuracy=None, rounds=())); "
        "assert 'matplotlib' in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_have_the_epsilon_of_all_releases_up_to_them():
    moment = "2026-01-01T00:00:00Z"
    releases = [
        {"number": number, "round": number, "clip_norm": 1, "noise_multiplier": 1}
        | {"epsilon": epsilon, "released_at": moment}
        for number, epsilon in ((1, 0.5), (2, 0.75))
    ]
    privacy = operations.PrivacyReport.model_validate(
        {"task": "t", "mechanism": "central_gaussian", "epsilon": 0.75, "delta": 1e-5}
        | {"budget": 1, "unit": "u", "adjacency": "a", "trusted": "t"}
        | {"observer": "o", "accountant": "a", "assumptions": [], "withheld": []}
        | {"not_covered": [], "releases": releases}
    )

    rows = report.with_epsilon([row(1), row(2), row(3)], privacy)

    assert [each.epsilon for each in rows] == [0.5, 0.75, None]
    assert [each.round for each in rows] == [1, 2, 3]
