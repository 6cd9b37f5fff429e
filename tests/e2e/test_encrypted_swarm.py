"""A swarm that encrypts: the same commands, the same report, an authority beside it."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.tf]
PLAN = """
model = "cnn_small"
rounds = 2
[round]
goal = 8
minimum = 5
[training]
learning_rate = 0.1
batch_size = 20
[evaluation]
every = 2
goal = 6
minimum = 5
[he]
max_examples = 50
minimum = 5
"""
CLEAR = PLAN.replace("[he]", "[he]\nclip_norm = 8.0")
NOISY = (
    PLAN.replace("max_examples = 50\n", "")
    + "[privacy]\npopulation = 20\ndelta = 1e-3\nepsilon = 100\nclip_norm = 4.0\n"
)


def run(
    folder: pathlib.Path, plan: str, *options: str
) -> subprocess.CompletedProcess[str]:
    path = folder / "plan.toml"
    path.write_text(plan)
    command = [sys.executable, "-m", "device_sim", "--plan", str(path), "--n", "8"]
    return subprocess.run(
        [*command, "--out", str(folder / "run"), *options],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("plan", [CLEAR, NOISY], ids=["without noise", "with noise"])
def test_a_swarm_trains_and_scores(tmp_path: pathlib.Path, plan: str) -> None:
    done = run(tmp_path, plan)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 times one gave up" in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for row in report["rounds"]:
        assert row["accepted"] == 8
        if plan == CLEAR:
            assert 0.1 < row["train_loss"] < 2.5
        else:
            assert row["train_loss"] is None
    second = report["rounds"][1]
    assert second["federated_devices"] >= 5
    assert 0.05 < second["federated_accuracy"] <= 1


def test_what_cannot_run_says_why(
    tmp_path: pathlib.Path,
) -> None:
    done = run(tmp_path, CLEAR, "--trace", "heavy_tail")
    assert done.returncode == 2
    told = " ".join((done.stdout + done.stderr).split())
    assert "--trace takes no plan with he" in told
