"""The images are built from what is there, and run what is there."""

import contextlib
import http.server
import os
import pathlib
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator

import pytest

from coordinator.config import Settings
from tests.docker import files

each_dockerfile = pytest.mark.parametrize(
    "dockerfile", files.DOCKERFILES, ids=lambda path: path.name
)


def allowed_by_dockerignore() -> set[str]:
    lines = (files.ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def copied_from_the_tree(dockerfile: pathlib.Path) -> list[str]:
    sources: list[str] = []
    for each in files.instructions(dockerfile):
        if each.keyword == "COPY" and not each.arguments.startswith("--from"):
            sources += each.words[:-1]
    return sources


def test_both_images_are_here() -> None:
    assert [path.name for path in files.DOCKERFILES] == [
        "coordinator.Dockerfile",
        "device_sim.Dockerfile",
    ]


@each_dockerfile
def test_everything_copied_exists_and_reaches_the_build(
    dockerfile: pathlib.Path,
) -> None:
    sources = copied_from_the_tree(dockerfile)
    assert sources
    assert set(sources) <= allowed_by_dockerignore()
    assert [name for name in sources if not (files.ROOT / name).exists()] == []


@each_dockerfile
def test_what_the_build_needs_is_copied(dockerfile: pathlib.Path) -> None:
    project = tomllib.loads((files.ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"]}
    needed |= set(project["license-files"])
    assert needed <= set(copied_from_the_tree(dockerfile))


@each_dockerfile
def test_the_python_is_one_that_the_project_takes(dockerfile: pathlib.Path) -> None:
    bases = [
        each.words[0]
        for each in files.instructions(dockerfile)
        if each.keyword == "FROM"
    ]
    assert bases == ["python:3.11-slim"] * 2


@each_dockerfile
def test_the_extras_exist(dockerfile: pathlib.Path) -> None:
    installed = [
        extra
        for each in files.instructions(dockerfile)
        if each.keyword == "RUN"
        for names in re.findall(r"'\.\[([\w,]+)\]'", each.arguments)
        for extra in names.split(",")
    ]
    expected = {
        "coordinator.Dockerfile": ["coordinator", "postgres", "he", "models"],
        "device_sim.Dockerfile": ["device", "he", "swarm"],
    }
    assert installed == expected[dockerfile.name]
    assert set(installed) <= files.extras()


@each_dockerfile
def test_nothing_runs_as_root(dockerfile: pathlib.Path) -> None:
    users = [
        each.arguments
        for each in files.final_stage(dockerfile)
        if each.keyword == "USER"
    ]
    assert users == ["10001:10001"]


@each_dockerfile
def test_the_variables_are_settings(dockerfile: pathlib.Path) -> None:
    settings = {f"SHOAL_{name}".upper() for name in Settings.model_fields}
    named = {n for n in files.environment(dockerfile) if n.startswith("SHOAL_")}
    assert named <= settings


def test_the_coordinator_keeps_its_data_in_the_volume() -> None:
    dockerfile = files.FOLDER / "coordinator.Dockerfile"
    volumes = [
        each.arguments
        for each in files.final_stage(dockerfile)
        if each.keyword == "VOLUME"
    ]
    assert volumes == [files.environment(dockerfile)["SHOAL_DATA_DIR"]]


@contextlib.contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on loopback that answers every GET of /healthz with ``status``."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_the_health_check_tells_a_coordinator_that_answers(
    status: int,
    is_healthy: bool,  # noqa: FBT001  - a parametrized test
) -> None:
    check = next(
        each
        for each in files.final_stage(files.FOLDER / "coordinator.Dockerfile")
        if each.keyword == "HEALTHCHECK"
    )
    program, *arguments = check.command
    assert program == "python"
    with answering(status) as port:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | {"SHOAL_PORT": str(port)},
            capture_output=True,
            check=False,
        )
    assert (done.returncode == 0) is is_healthy
