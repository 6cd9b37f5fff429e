"""Settings: where they come from, and what is said of bad ones."""

import pathlib
import stat

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator import app as composition
from coordinator.config import InvalidSettings, Settings, read_settings
from coordinator.domain.devices import Role
from coordinator.usecases import access
from tests.support import attestation
from tests.support.federation import dump
from tests.support.models import write_tiny_model


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Start without any setting, in a folder of the test's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SHOAL_{name.upper()}", raising=False)
    for name in ("SHOAL_CONFIG", "SHOAL_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def write_config(tmp_path: pathlib.Path, text: str) -> str:
    path = tmp_path / "shoal.toml"
    path.write_text(text)
    return str(path)


def test_every_setting_has_a_default_and_says_what_it_is() -> None:
    settings = read_settings()

    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.url == f"sqlite:///{pathlib.Path('data').resolve()}/coordinator.db"
    assert all(field.description for field in Settings.model_fields.values())


def test_a_variable_beats_the_file_and_the_file_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    config = write_config(tmp_path, 'port = 9000\nwait_s = 2.5\nlog_level = "error"\n')
    monkeypatch.setenv("SHOAL_CONFIG", config)
    monkeypatch.setenv("SHOAL_PORT", "9001")

    settings = read_settings()

    assert (settings.port, settings.wait_s) == (9001, 2.5)
    assert settings.log_level == "error"
    assert settings.host == "127.0.0.1"


def test_a_database_url_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DATABASE_URL", "postgresql://host/name")

    assert read_settings().url == "postgresql://host/name"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SHOAL_PROT", "9000", "unknown settings: SHOAL_PROT"),
        ("SHOAL_PORT", "0", "port"),
        ("SHOAL_PORT", "65536", "port"),
        ("SHOAL_PORT", "http", "port"),
        ("SHOAL_WAIT_S", "0", "wait_s"),
        ("SHOAL_WAIT_S", "nan", "wait_s"),
        ("SHOAL_WAIT_S", "1801", "longest_wait_s must be twice wait_s"),
        ("SHOAL_CHECK_INS_PER_S", "0", "check_ins_per_s"),
        ("SHOAL_WORKER_INTERVAL_S", "inf", "worker_interval_s"),
        ("SHOAL_COMPUTE", "tpu", "compute"),
        ("SHOAL_LOG_LEVEL", "loud", "log_level"),
        ("SHOAL_ENROLMENT", "closed", "enrolment"),
        ("SHOAL_DEVICE_AUTH", "none", "device_auth"),
        ("SHOAL_CLOCK_SKEW_S", "0", "clock_skew_s"),
        ("SHOAL_TRUSTED_PROXIES", "10.0.0.0/8, proxy", "trusted_proxies"),
        ("SHOAL_ADDRESS_REQUESTS_PER_S", "0", "address_requests_per_s"),
        ("SHOAL_HOST", "10.0.0.7", "set enrolment to token, or to open"),
        ("SHOAL_HOST", "coordinator.example", "set enrolment to token, or to open"),
        ("SHOAL_ATTESTATION", "android-key", "set device_auth signature"),
        ("SHOAL_CONFIG", "nowhere.toml", "names nowhere.toml, which is no file"),
    ],
)
def test_a_bad_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings, match=said):
        read_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [("prot = 9000", "prot"), ("port = 0", "port"), ("port =", "Invalid value")],
)
def test_a_bad_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, text: str, said: str
) -> None:
    monkeypatch.setenv("SHOAL_CONFIG", write_config(tmp_path, text))

    with pytest.raises(InvalidSettings, match=said):
        read_settings()


def test_variables_of_the_other_programs_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SHOAL_CACHE", "SHOAL_ENROLMENT_TOKEN", "SHOAL_OPERATOR_TOKEN"):
        monkeypatch.setenv(name, "something")

    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("host", "enrolment"),
    [
        ("127.0.0.9", None),
        ("::1", None),
        ("localhost", None),
        ("0.0.0.0", "open"),  # noqa: S104 - on purpose
        ("0.0.0.0", "token"),  # noqa: S104 - on purpose
    ],
)
def test_open_enrolment_beyond_this_machine_must_be_said(
    monkeypatch: pytest.MonkeyPatch, host: str, enrolment: str | None
) -> None:
    monkeypatch.setenv("SHOAL_HOST", host)
    if enrolment is not None:
        monkeypatch.setenv("SHOAL_ENROLMENT", enrolment)

    assert read_settings().enrolment == (enrolment or "open")


def test_attestation_needs_roots_that_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("SHOAL_ATTESTATION", "android-key")
    monkeypatch.setenv("SHOAL_DEVICE_AUTH", "signature")
    with pytest.raises(InvalidSettings, match="attestation_roots"):
        read_settings()
    roots = tmp_path / "roots.pem"
    monkeypatch.setenv("SHOAL_ATTESTATION_ROOTS", str(roots))
    settings = read_settings()
    with pytest.raises(OSError, match=r"roots\.pem"):
        composition._attestor(settings)
    roots.write_text("no certificate")
    with pytest.raises(composition.CannotStart, match=r"roots\.pem"):
        composition._attestor(settings)
    pem = attestation.authority("root").certificate.public_bytes(Encoding.PEM)
    roots.write_bytes(pem)
    assert composition._attestor(settings) is not None


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1  # type: ignore[misc]  # on purpose


def prepared(tmp_path: pathlib.Path) -> Settings:
    write_tiny_model(tmp_path / "models")
    return Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")


def test_the_operators_token_is_its_owners_alone_and_not_in_the_database(
    tmp_path: pathlib.Path,
) -> None:
    settings = prepared(tmp_path)

    store, _ = composition.prepare(settings)

    path = settings.data_dir / composition.OPERATOR_TOKEN_FILE
    token = path.read_text().strip()
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert access.authorize(store, token, Role.ADMIN).name == path.name
    assert token not in repr(dump(store))
    store.close()
    for file in settings.data_dir.iterdir():
        if file.is_file() and file != path:
            assert token.encode() not in file.read_bytes()


def test_preparing_again_changes_nothing(tmp_path: pathlib.Path) -> None:
    settings = prepared(tmp_path)
    store, _ = composition.prepare(settings)
    token = composition.operator_token(settings)
    before = dump(store)
    store.close()

    store, _ = composition.prepare(settings)

    assert composition.operator_token(settings) == token
    assert dump(store) == before
    assert len(before["operators"]) == len(before["models"]) == 1
    store.close()


def test_a_token_file_that_was_cut_off_is_not_taken_for_a_token(
    tmp_path: pathlib.Path,
) -> None:
    """The process was killed between making the file and writing it."""
    settings = prepared(tmp_path)
    settings.data_dir.mkdir()
    (settings.data_dir / composition.OPERATOR_TOKEN_FILE).touch(mode=0o600)

    assert len(composition.operator_token(settings)) >= 43


@pytest.mark.parametrize(
    "wrong",
    [
        {"SHOAL_DATABASE_URL": "oracle://u:s3cret@db/x"},
        {"SHOAL_DATABASE_URL": "postgresql://u:s3cret@db/x", "SHOAL_HOST": "::"},
        {"SHOAL_DATABASE_URL": "postgresql://u:s3cret@db/x", "SHOAL_PORT": "no"},
    ],
)
def test_what_is_wrong_is_said_without_the_passwords_beside_it(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refused:
        read_settings()
    assert "s3cret" not in str(refused.value)
    assert "input" not in str(refused.value)
