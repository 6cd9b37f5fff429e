"""Command lines that pages and images state, read as the programs read them."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from coordinator import __main__ as coordinator_cli
from device_sim import __main__ as device_cli
from tests.docs import pages
from tflite_models import __main__ as model_cli

PROGRAMS = {
    "coordinator": coordinator_cli.cli,
    "device_sim": device_cli.app,
    "tflite_models": model_cli.app,
}


def parse(program: str, words: list[str]) -> dict[str, Any]:
    """What ``words`` mean to ``python -m program``; a usage error if nothing."""
    command: TyperCommand | TyperGroup = typer.main.get_command(PROGRAMS[program])
    while isinstance(command, TyperGroup):
        name, *words = words
        command = command.commands[name]
    params: dict[str, Any] = command.make_context(program, words).params
    return params


def typed(page: pathlib.Path) -> Iterator[str]:
    """The lines that a page's console blocks have one type, continuations joined."""
    for block in pages.blocks(page, "console"):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")
