"""Schemathesis against a real coordinator process: does it do what /openapi.json says?

As an operator and a device, each where their token is asked for, and as nobody. What
is checked, and what is not and why, is in ``schemathesis.toml``.
"""

import os
import pathlib
import subprocess
import sys
from typing import Final

import httpx

from coordinator.protocol import paths
from tests.support.models import write_tiny_model
from tests.support.processes import ROOT, Coordinator

CONFIG: Final = pathlib.Path(__file__).parent / "schemathesis.toml"
_HOOKS: Final = "tests.hostile.hooks"
CALLERS: Final = ("known", "nobody")


def start(folder: pathlib.Path) -> Coordinator:
    """Start a coordinator with a model and a task."""
    write_tiny_model(folder / "models")
    coordinator = Coordinator(
        folder,
        database_url=None,
        models_dir=folder / "models",
        settings={"SHOAL_DURABLE": "false"},
    )
    coordinator.start("api")
    response = httpx.post(
        coordinator.url + paths.TASKS,
        headers=coordinator.operator,
        json={"id": "task", "plan": {"model": "tiny"}},
    )
    response.raise_for_status()
    return coordinator


def run(
    coordinator: Coordinator, caller: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run schemathesis to its end.

    Args:
        coordinator: Whom it calls.
        caller: One of ``CALLERS``.
        arguments: More of its command line's.
    """
    endless = []
    tokens = dict.fromkeys(("OPERATOR_TOKEN", "DEVICE_TOKEN"), "of-nobody")
    if caller == "known":
        enrolment = httpx.post(coordinator.url + paths.DEVICES, json={})
        operator = coordinator.operator["Authorization"].removeprefix("Bearer ")
        tokens = {
            "OPERATOR_TOKEN": operator,
            "DEVICE_TOKEN": enrolment.json()["token"],
        }
        endless = ["--exclude-path", paths.EVENTS]  # its answer has no end to judge
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(CONFIG), "run", coordinator.url + "/openapi.json"),
            *endless,
            *arguments,
        ],
        env=os.environ | tokens | {"SCHEMATHESIS_HOOKS": _HOOKS},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
