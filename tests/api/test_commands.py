"""``python -m coordinator``: what a person sees, and the exit code a script sees."""

import json
import os
import pathlib
import stat
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from coordinator import __main__ as commands
from coordinator import app as composition
from coordinator.config import Settings
from coordinator.domain.aggregation import Score
from coordinator.domain.audit import Refusals
from coordinator.domain.devices import Role
from coordinator.domain.evaluation import Evaluation, Sums, summarize
from coordinator.store import models as stored_models
from coordinator.store.engine import Store, Transaction
from coordinator.usecases import access, devices, tasks
from tests.support.clock import ManualClock
from tests.support.disks import SmallDisk
from tests.support.federation import dump
from tests.support.models import tiny_manifest, write_tiny_model

PLAN = 'model = "tiny"\nrounds = 3\n[round]\ngoal = 2\nminimum = 1\n'


@pytest.fixture(autouse=True)
def _settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Iterator[None]:
    """Point every command at a folder of the test's own."""
    for name in (*Settings.model_fields, "config"):
        monkeypatch.delenv(f"SHOAL_{name.upper()}", raising=False)
    write_tiny_model(tmp_path / "models")
    monkeypatch.setenv("SHOAL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SHOAL_MODELS_DIR", str(tmp_path / "models"))
    # What a process does once, or leaves to its end, would outlive the test.
    monkeypatch.setattr(composition, "configure_logging", lambda _: None)
    opened: list[Store] = []

    def open_store(settings: Settings) -> Store:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        opened.append(Store(settings.url, durable=False))
        return opened[-1]

    monkeypatch.setattr(composition, "open_store", open_store)
    yield
    for store in opened:
        store.close()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    """The database that the commands work on."""
    store = Store(f"sqlite:///{tmp_path / 'data' / 'coordinator.db'}", durable=False)
    yield store
    store.close()


def call(*arguments: str) -> Result:
    return CliRunner().invoke(commands.cli, arguments)


def must(*arguments: str) -> str:
    """Call a command that succeeds. Returns what it prints."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_error(result: Result, *said: str) -> None:
    """Insist on one clear line and the exit code of unusable settings."""
    assert result.exit_code == composition.EXIT_UNUSABLE, repr(result.exception)
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    for words in said:
        assert words.lower() in result.stderr.lower()


@pytest.fixture
def plan_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return str(path)


def test_migrate_makes_and_keeps_the_schema(tmp_path: pathlib.Path) -> None:
    first = must("migrate")
    again = must("migrate")

    assert first == again
    assert first.startswith("the database has schema ")
    assert (tmp_path / "data" / "coordinator.db").is_file()


def test_a_newer_schema_is_an_error(store: Store) -> None:
    must("migrate")
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    assert_error(call("tasks", "list"), "9999", "newer coordinator")


def test_settings_are_listed_with_their_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOAL_PORT", "9000")

    printed = must("settings")

    assert "SHOAL_PORT = 9000  (default 8000)" in printed
    for name, field in Settings.model_fields.items():
        assert f"SHOAL_{name.upper()} = " in printed
        assert field.description is not None
        assert field.description in printed


def test_settings_are_listed_without_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOAL_DATABASE_URL", "postgresql://ann:hunter2@host/name")

    printed = must("settings")

    assert "host/name" in printed
    assert "hunter2" not in printed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SHOAL_PORT", "0", "port"),
        ("SHOAL_PROT", "1", "SHOAL_PROT"),
        ("SHOAL_DATABASE_URL", "no url", "database"),
        ("SHOAL_DATABASE_URL", "mysql://127.0.0.1:1/name", "mysql"),
        ("SHOAL_DATABASE_URL", "sqlite:////nowhere/at/all.db", "database"),
    ],
)
def test_a_bad_setting_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)

    assert_error(call("tasks", "list"), said)


def test_a_task_is_created_listed_shown_and_stopped(plan_file: str) -> None:
    assert must("tasks", "list") == ""

    assert must("tasks", "create", "first", "--plan", plan_file) == (
        "task first runs from version 0\n"
    )
    assert must("tasks", "list") == (
        "first: running, model tiny, 0/3 rounds, version 0\n"
    )
    shown = must("tasks", "show", "first")
    assert shown.startswith("first: running\n")
    assert '"rounds": 3' in shown
    assert "round 1.1 (train): collecting, 0 accepted, 0 failed, 0 lapsed" in shown
    assert shown.endswith("version 0:\n")

    assert must("tasks", "stop", "first") == "task first is stopped\n"
    assert "stopped" in must("tasks", "list")
    assert "(an operator stopped it)" in must("tasks", "list")
    shown = must("tasks", "show", "first")
    assert "reason: an operator stopped it" in shown
    assert "abandoned, 0 accepted, 0 failed, 0 lapsed, the task was stopped" in shown


def test_what_a_task_gives_away_is_shown(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "private.toml"
    path.write_text(PLAN + "[privacy]\npopulation = 100\ndelta = 1e-5\n")
    must("tasks", "create", "task", "--plan", str(path))

    shown = must("tasks", "privacy", "task")

    assert shown.splitlines()[:2] == [
        "mechanism: central_gaussian",
        "epsilon 0 at delta 1e-05, of a budget of 8",
    ]
    assert "not covered: federated evaluation" in shown


def test_figures_are_shown(store: Store, plan_file: str) -> None:
    must("tasks", "create", "first", "--plan", plan_file)
    tasks.record_held_out(
        store,
        task_id="first",
        number=0,
        score=Score(examples=10, loss=0.5, accuracy=0.875),
        now=ManualClock().now(),
    )

    shown = must("tasks", "show", "first")

    assert "version 0: held out loss 0.5000 accuracy 0.8750\n" in shown


@pytest.mark.parametrize("tuned", [9, 10])
def test_distributions_over_devices_are_shown(
    store: Store, plan_file: str, tuned: int
) -> None:
    must("tasks", "create", "first", "--plan", plan_file)
    metrics = summarize(
        [
            Evaluation(
                examples=10,
                sums=Sums(loss_sum=5.0, correct=right),
                personalized=Sums(loss_sum=2.5, correct=10) if right < tuned else None,
            )
            for right in range(11)
        ]
    )
    assert metrics is not None

    def score(tx: Transaction) -> None:
        version = stored_models.get_version(tx, "tiny", 0)
        stored_models.put_score(tx, version, "federated", metrics)

    store.run("score", score)

    plain = (
        "version 0: federated loss 0.5000 accuracy 0.5000 (worst tenth of devices "
        "0.0500, 10 % below 0.1000, 25 % 0.2500, median 0.5000, 75 % 0.7500, "
        "90 % 0.9000)"
    )
    for shown in (must("tasks", "show", "first"), must("models", "versions", "tiny")):
        assert plain in shown
        if tuned == 10:
            assert (
                " personalized loss 0.2727 accuracy 1.0000 (10 of 11 devices; worst "
                "tenth of devices 1.0000, 10 % below 1.0000, 25 % 1.0000, median "
                "1.0000, 75 % 1.0000, 90 % 1.0000; change: worst tenth of devices "
                "0.0500, 10 % below 0.1000"
            ) in shown
        else:
            assert "personalized loss" not in shown


def test_a_task_that_cannot_be_is_an_error(
    tmp_path: pathlib.Path, plan_file: str
) -> None:
    must("tasks", "create", "first", "--plan", plan_file)
    path = tmp_path / "bad.toml"

    assert_error(call("tasks", "create", "first", "--plan", plan_file), "first")
    for text, said in (
        (b'model = "none"', "none"),
        (b"rounds = 0", "rounds"),
        (b"[round]\ngoal = 1\n", "minimum"),
        (b"unknown = 1", "unknown"),
        (b"= 1", "not TOML"),
    ):
        path.write_bytes(text)
        assert_error(call("tasks", "create", "second", "--plan", str(path)), said)
    assert "second" not in must("tasks", "list")


def test_a_plan_that_is_no_text_is_an_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe")

    assert_error(call("tasks", "create", "first", "--plan", str(path)))


@pytest.mark.parametrize("name", ["a task", "", "-", "a/b", "a" * 65], ids=repr)
def test_a_name_that_no_url_can_hold_is_an_error(plan_file: str, name: str) -> None:
    result = call("tasks", "create", "--plan", plan_file, "--", name)

    assert result.exit_code != 0
    assert must("tasks", "list") == ""


def test_an_unknown_task_is_an_error() -> None:
    assert_error(call("tasks", "show", "none"), "none")
    assert_error(call("tasks", "stop", "none"), "none")


def test_a_task_is_stopped_once(plan_file: str) -> None:
    must("tasks", "create", "first", "--plan", plan_file)
    must("tasks", "stop", "first")

    assert_error(call("tasks", "stop", "first"), "stopped")


@pytest.mark.parametrize(
    "arguments",
    [
        ("tasks", "create", "first"),
        ("tasks", "create", "first", "--plan", "nowhere.toml"),
        ("tasks", "show"),
        ("devices", "list", "--limit", "0"),
        ("unknown",),
    ],
)
def test_wrong_usage_has_a_code_of_its_own(arguments: tuple[str, ...]) -> None:
    assert call(*arguments).exit_code == 2


def test_models_are_registered_and_listed(
    tmp_path: pathlib.Path, plan_file: str
) -> None:
    folder = write_tiny_model(tmp_path / "more", "other")

    assert must("models", "list") == "tiny: 10 parameters, 0 versions\n"
    for _ in range(2):
        assert must("models", "register", str(folder)) == "model other: 10 parameters\n"
    must("tasks", "create", "first", "--plan", plan_file)

    assert must("models", "list") == (
        "other: 10 parameters, 0 versions\ntiny: 10 parameters, 1 versions, newest 0\n"
    )


def test_versions_are_promoted_tagged_and_listed(plan_file: str) -> None:
    must("tasks", "create", "first", "--plan", plan_file)
    must("tasks", "create", "second", "--plan", plan_file)

    promoted = must("models", "promote", "tiny", "1")
    must("models", "tag", "tiny", "a-b", "0")

    assert promoted == "production is version 1 of model tiny\n"
    assert must("models", "list") == (
        "tiny: 10 parameters, 2 versions, newest 1, a-b = 0, production = 1\n"
    )
    assert must("models", "versions", "tiny") == (
        "version 1: (first of task second) [production, current]\n"
        "version 0: (first of task first) [a-b, current]\n"
    )
    must("models", "untag", "tiny", "a-b")
    assert "a-b" not in must("models", "list")
    assert_error(call("models", "promote", "tiny", "7"), "no version 7")
    assert_error(call("models", "untag", "tiny", "a-b"), "no tag 'a-b'")
    assert_error(call("models", "tag", "tiny", "a b", "0"), "should match pattern")


def test_a_task_goes_on_from_a_version(plan_file: str) -> None:
    must("tasks", "create", "first", "--plan", plan_file)

    printed = must("models", "rollback", "tiny", "0")

    assert printed == "task first goes on from version 0\n"
    assert_error(call("models", "rollback", "tiny", "7"), "no version 7")


def test_a_model_that_cannot_be_is_an_error(tmp_path: pathlib.Path) -> None:
    assert_error(call("models", "register", str(tmp_path / "nowhere")), "manifest.json")
    folder = write_tiny_model(tmp_path / "more")
    changed = tiny_manifest().model_copy(update={"description": "another"})
    (folder / "manifest.json").write_bytes(changed.to_json())

    assert_error(call("models", "register", str(folder)), "tiny")


def test_devices_are_listed(store: Store) -> None:
    must("migrate")
    device, token = devices.enrol(
        store, devices.Applicant(name="pixel"), now=ManualClock().now()
    )

    printed = must("devices", "list")

    assert printed == (
        f"{device.id} pixel: enrolled 2026-01-01 12:00:00, 0 results counted\n"
    )
    assert token not in printed


def test_a_device_is_revoked(store: Store) -> None:
    must("migrate")
    device, _ = devices.enrol(store, devices.Applicant(), now=ManualClock().now())

    assert must("devices", "revoke", device.id) == f"device {device.id} is revoked\n"

    assert ", revoked 20" in must("devices", "list")
    assert_error(call("devices", "revoke", "none"), "no device has the id none")


def test_a_device_is_exported_and_erased(store: Store) -> None:
    must("migrate")
    applicant = devices.Applicant(name="ann's phone")
    device, _ = devices.enrol(store, applicant, now=ManualClock().now())

    exported = json.loads(must("devices", "export", device.id))
    assert exported["devices"][0]["name"] == "ann's phone"
    said = must("devices", "erase", device.id)
    assert said.startswith(f"device {device.id} is erased; 0 versions were made")
    assert ", erased 20" in must("devices", "list")
    assert "ann" not in must("devices", "list") + must("devices", "export", device.id)
    assert_error(call("devices", "erase", "none"), "no device has the id none")
    assert_error(call("devices", "export", "none"), "no device has the id none")


def test_enrolment_tokens_are_made_listed_and_revoked(store: Store) -> None:
    made = must("enrolment-tokens", "create", "pilot", "--uses", "3")
    token_id, text = made.split()

    listed = must("enrolment-tokens", "list")
    assert listed.startswith(f"{token_id} pilot: 0/3 devices, until ")
    assert text not in listed + repr(dump(store))
    assert "is revoked" in must("enrolment-tokens", "revoke", token_id)
    assert "0/3 devices, is revoked" in must("enrolment-tokens", "list")
    assert_error(call("enrolment-tokens", "revoke", "none"), "no token has the id")


def test_operators_are_admitted_listed_and_revoked(store: Store) -> None:
    operator_id, token = must("operators", "create", "ann", "--role", "run").split()

    assert access.authorize(store, token, Role.RUN).id == operator_id
    assert f"{operator_id} ann: run\n" in must("operators", "list")
    assert "is revoked" in must("operators", "revoke", operator_id)
    assert f"{operator_id} ann: run, revoked\n" in must("operators", "list")
    assert_error(call("operators", "revoke", "none"), "no token has the id none")


def test_the_audit_log_is_read(store: Store) -> None:
    operator_id, _ = must("operators", "create", "ann", "--role", "read").split()
    now = ManualClock().now()
    refusals = Refusals(
        reason="forbidden", subject="someone", times=2, first_at=now, last_at=now
    )
    access.note_refusals(store, [refusals])

    first, second, third = must("audit").splitlines()

    assert "operator_admitted, reason admin, subject " in first
    assert second.endswith(f"reason read, subject {operator_id}, by command-line")
    assert third == (
        "3 2026-01-01 12:00:00 refused, reason forbidden, subject someone, 2 times"
    )
    assert must("audit", "--after", "2").splitlines() == [third]


def test_commands_make_the_operators_token_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data" / composition.OPERATOR_TOKEN_FILE
    must("tasks", "list")
    token = path.read_text()
    must("tasks", "list")

    assert path.read_text() == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_doctor_says_what_is_wrong_and_mends_what_it_can(
    store: Store, tmp_path: pathlib.Path, plan_file: str
) -> None:
    must("tasks", "create", "task", "--plan", plan_file)
    assert must("doctor") == "0 findings, 0 mended\n"
    blobs = tmp_path / "data" / "blobs"
    orphan = blobs / "updates" / "7" / "nobody"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"")
    os.utime(orphan, (0, 0))

    found = call("doctor")
    assert found.exit_code == 1
    assert found.stdout == (
        "orphan: updates/7/nobody, 0 bytes\n"
        "1 findings, 0 mended\n"
        "--repair mends 1 of them\n"
    )
    assert must("doctor", "--repair").endswith("1 findings, 1 mended\n")
    assert not orphan.exists()

    with store.engine.connect() as connection:
        digest = connection.execute(sa.text("SELECT weights_sha256 FROM versions"))
        sha256 = digest.scalar_one()
    (blobs / "sha256" / sha256[:2] / sha256).unlink()
    lost = call("doctor", "--repair")
    assert lost.exit_code == 1
    assert lost.stdout.startswith("lost: weights of version 0 of model tiny: ")


def test_the_doctor_makes_no_database(tmp_path: pathlib.Path) -> None:
    assert_error(call("doctor"), "there is no database at")
    assert not (tmp_path / "data").exists()


def test_a_backup_is_started_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, plan_file: str
) -> None:
    must("tasks", "create", "task", "--plan", plan_file)
    target = tmp_path / "backup"

    assert must("backup", str(target)).startswith(f"{target} holds 4 files, ")

    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert sorted(path.name for path in target.iterdir()) == [
        "blobs",
        "coordinator.db",
        "operator.token",
    ]
    token = (tmp_path / "data" / "operator.token").read_text()
    assert (target / "operator.token").read_text() == token
    assert stat.S_IMODE((target / "operator.token").stat().st_mode) == 0o600
    assert_error(call("backup", str(target)), "exists already")
    monkeypatch.setenv("SHOAL_DATA_DIR", str(target))
    assert must("doctor") == "0 findings, 0 mended\n"
    assert must("tasks", "list").startswith("task: running, model tiny")


def test_a_backup_that_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, small_disk: SmallDisk
) -> None:
    must("migrate")
    small_disk.fill()

    assert_error(call("backup", str(small_disk.folder / "backup")), "cannot")

    assert [path.name for path in small_disk.folder.iterdir()] == ["filler"]
    monkeypatch.setenv("SHOAL_DATABASE_URL", "postgresql://host/name")
    assert_error(call("backup", str(tmp_path / "backup")), "pg_dump")
