"""Dockerfiles as instructions, and the compose file."""

import dataclasses
import json
import pathlib
import re
import shlex
import tomllib
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction; ``arguments`` without line continuations."""

    keyword: str
    arguments: str

    @property
    def words(self) -> list[str]:
        """The arguments, split as a shell does."""
        return shlex.split(self.arguments)

    @property
    def command(self) -> list[str]:
        """The words of an instruction in exec form."""
        words: list[str] = json.loads(self.arguments[self.arguments.index("[") :])
        return words


def instructions(dockerfile: pathlib.Path) -> list[Instruction]:
    """Every instruction of a Dockerfile, in order."""
    lines = [
        line for line in dockerfile.read_text().splitlines() if not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in filter(None, joined.splitlines()):
        keyword, _, arguments = line.partition(" ")
        found.append(Instruction(keyword=keyword, arguments=arguments))
    return found


def final_stage(dockerfile: pathlib.Path) -> list[Instruction]:
    """The instructions behind the last FROM."""
    every = instructions(dockerfile)
    last = max(n for n, each in enumerate(every) if each.keyword == "FROM")
    return every[last + 1 :]


def environment(dockerfile: pathlib.Path) -> dict[str, str]:
    """The variables that the final stage sets."""
    pairs = [
        word.partition("=")
        for each in final_stage(dockerfile)
        if each.keyword == "ENV"
        for word in each.words
    ]
    return {name: value for name, _, value in pairs}


def compose() -> dict[str, Any]:
    """The compose file, its variables as they stand there."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return content


def extras() -> set[str]:
    """The extras of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])
