"""The command line: what is wrong is said in one line, with the exit status."""

import pathlib

import pytest
from typer.testing import CliRunner, Result

from device_sim import client
from device_sim.__main__ import app

REPOSITORY = pathlib.Path(__file__).parents[2]


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where run folders would appear
    monkeypatch.delenv("SHOAL_OPERATOR_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--n", "0"), "--n"),
        (("--dropout", "1.5"), "--dropout"),
        (("--plan", "nowhere.toml"), "nowhere.toml"),
        (("--n", "5", "--population", "4"), "at least the 5 devices"),
        (("--population", "many"), "got many"),
        (("--partition", "odd"), "--partition"),
        (("--trace", "nowhere.toml"), "nowhere.toml"),
        (("--attack", "gossip:0.1"), "gossip:0.1"),
        (("--trace", "x.toml", "--dropout", "0.1"), "in place of --dropout"),
        (("--trace", "x.toml", "--coordinator", "http://c"), "--operator-token"),
        (("--population", "99", "--coordinator", "http://c"), "--operator-token"),
        (("--database-url", "x", "--coordinator", "http://c"), "--database-url"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_started(
    arguments: tuple[str, ...], said: str, tmp_path: pathlib.Path
):
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert not list(tmp_path.iterdir())


def test_a_plan_with_unknown_settings_is_refused_by_name(tmp_path: pathlib.Path):
    plan = tmp_path / "plan.toml"
    plan.write_text("[training]\nspeed = 3\n")
    result = run("--plan", str(plan))
    assert result.exit_code == 2
    assert "training.speed" in result.output


def test_a_coordinator_that_is_not_there_is_an_error_of_one_line(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
):
    impatient = client.RetryPolicy(patience_s=0.0)
    monkeypatch.setattr(client, "RetryPolicy", lambda: impatient)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    result = run("--coordinator", url, "--n", "2")
    assert result.exit_code == 1
    assert result.output.count("failed: ") == 1
    assert "POST /v1/devices: no answer" in result.output


def test_data_that_is_not_there_is_an_error_of_one_line():
    result = run("--coordinator", "http://127.0.0.1:9", "--data", "npz:missing.npz")
    assert result.exit_code == 1
    assert "missing.npz" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("plan", sorted((REPOSITORY / "plans").glob("*.toml")))
def test_every_plan_that_ships_is_read(plan: pathlib.Path):
    result = run("--plan", str(plan), "--data", "nothing", "--coordinator", "http://c")
    assert "unknown data source" in result.output


def test_who_holds_what_is_shown_and_nothing_is_run(tmp_path: pathlib.Path):
    result = run(
        "--show-partition", "--n", "7", "--partition", "shards", "--out", "shown"
    )
    assert result.exit_code == 0
    assert "device-6" in result.output
    assert "7 devices train on" in result.output
    assert [path.name for path in (tmp_path / "shown").iterdir()] == ["partition.png"]


def test_a_partition_that_cannot_be_is_an_error_of_one_line():
    result = run("--show-partition", "--n", "7", "--partition", "writer")
    assert result.exit_code == 1
    assert "failed: sample has no writers" in result.output


def test_help_explains_every_option():
    result = run("--help")
    assert result.exit_code == 0
    for option in (
        "--n",
        "--population",
        "--rounds",
        "--plan",
        "--data",
        "--coordinator",
        "--seed",
        "--dropout",
        "--alpha",
        "--partition",
        "--trace",
        "--attack",
        "--shards-per-device",
        "--max-noise",
        "--show-partition",
        "--out",
        "--task",
        "--no-cache",
    ):
        assert option in result.output
