"""docker/compose.yaml: its services fit each other and the programs they run."""

import pathlib
import re
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.config import Settings
from tests.docker import files
from tests.docs.commands import parse

SERVICES: dict[str, Any] = files.compose()["services"]
DATA_DIR = files.environment(files.FOLDER / "coordinator.Dockerfile")["SHOAL_DATA_DIR"]


def dockerfile(service: str) -> pathlib.Path:
    build = SERVICES[service]["build"]
    path: pathlib.Path = (files.FOLDER / build["context"]) / build["dockerfile"]
    return path.resolve()


def image_plan_folder(path: str) -> pathlib.Path:
    """Where the plans that the images hold lie in the tree."""
    copies = {
        each.words[1]: each.words[0]
        for one in files.DOCKERFILES
        for each in files.final_stage(one)
        if each.keyword == "COPY" and not each.arguments.startswith("--from")
    }
    folder, name = path.rsplit("/", 1)
    return files.ROOT / copies[folder] / name


def test_every_image_is_built_from_a_file_that_is_there() -> None:
    built = [name for name in SERVICES if "build" in SERVICES[name]]
    assert built == ["coordinator", "worker", "swarm"]
    assert {dockerfile(name) for name in built} == set(files.DOCKERFILES)


def test_who_waits_waits_for_a_service_with_a_health_check() -> None:
    waits = [
        (name, other, how["condition"])
        for name, service in SERVICES.items()
        for other, how in service.get("depends_on", {}).items()
    ]
    assert waits == [
        ("coordinator", "postgres", "service_healthy"),
        ("worker", "coordinator", "service_healthy"),
        ("swarm", "coordinator", "service_healthy"),
    ]
    assert "test" in SERVICES["postgres"]["healthcheck"]
    assert "healthcheck" not in SERVICES["coordinator"]  # the image's own holds
    assert any(
        each.keyword == "HEALTHCHECK" and each.arguments != "NONE"
        for each in files.final_stage(dockerfile("coordinator"))
    )


def test_the_coordinators_commands_are_commands() -> None:
    serving = parse("coordinator", SERVICES["coordinator"]["command"])
    assert serving == {"worker": False}
    assert SERVICES["worker"]["command"] == ["worker"]
    assert parse("coordinator", SERVICES["worker"]["command"]) == {}


def test_the_swarms_options_are_options() -> None:
    entry = next(
        each.command
        for each in files.final_stage(dockerfile("swarm"))
        if each.keyword == "ENTRYPOINT"
    )
    assert entry[:3] == ["python", "-m", "device_sim"]
    words = [*entry[3:], *SERVICES["swarm"]["command"]]
    options = parse("device_sim", words)
    assert (options["coordinator"], options["n"]) == ("http://coordinator:8000", 50)
    assert image_plan_folder(str(options["plan"])).is_file()


def test_the_variables_are_settings_and_the_database_is_the_one_beside() -> None:
    postgres = SERVICES["postgres"]["environment"]
    for name in ("coordinator", "worker"):
        environment = SERVICES[name]["environment"]
        known = {f"SHOAL_{field}".upper() for field in Settings.model_fields}
        assert set(environment) <= known
        url = environment["SHOAL_DATABASE_URL"].replace("${POSTGRES_PASSWORD}", "word")
        parsed = sa.make_url(Settings(database_url=url).url)
        assert parsed.get_backend_name() == "postgresql"
        assert parsed.host in SERVICES
        assert parsed.username == postgres["POSTGRES_USER"]
        assert parsed.database == postgres["POSTGRES_DB"]


def test_no_password_is_written_down() -> None:
    password = SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert password.startswith("${POSTGRES_PASSWORD:?")


def test_api_and_worker_share_the_folder_of_the_blobs() -> None:
    volumes = {name: SERVICES[name]["volumes"] for name in ("coordinator", "worker")}
    assert volumes["coordinator"] == volumes["worker"] == [f"coordinator:{DATA_DIR}"]
    named = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    }
    assert named == set(files.compose()["volumes"])


def test_only_this_machine_reaches_the_published_port() -> None:
    ports = [port for s in SERVICES.values() for port in s.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8000"]


@pytest.mark.parametrize("words", [("tasks", "create"), ("tasks", "show")])
def test_the_commands_in_its_heading_are_commands(words: tuple[str, str]) -> None:
    heading = (files.FOLDER / "compose.yaml").read_text().partition("\nname:")[0]
    text = re.sub(r"\\\n#\s*", "", heading)
    line = next(line for line in text.splitlines() if " ".join(words) in line)
    arguments = line.partition("python -m coordinator ")[2].split()
    plans = [word for word in arguments if word.endswith(".toml")]
    for plan in plans:
        local = str(image_plan_folder(plan))
        arguments[arguments.index(plan)] = local
    assert parse("coordinator", arguments)["task"] == "digits"
