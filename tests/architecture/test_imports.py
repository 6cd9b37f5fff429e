"""What a process may load: checked in processes of their own."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SERVICE = [
    "alembic",
    "fastapi",
    "pydantic_settings",
    "sqlalchemy",
    "starlette",
    "uvicorn",
]
NUMERICS = ["tensorflow", "keras", "jax", "dp_accounting"]

LOADED = """
import importlib, json, sys
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
BLOCKED = """
import importlib, json, sys

modules, blocked = map(json.loads, sys.argv[1:])


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in blocked):
            raise ModuleNotFoundError(f"{name} is not installed on this machine")


sys.meta_path.insert(0, Blocker())
for module in modules:
    importlib.import_module(module)
"""


def run(code: str, *arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(json.dumps, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def packages_loaded_by(*modules: str) -> set[str]:
    done = run(LOADED, list(modules))
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_import_contracts_hold() -> None:
    script = "from importlinter.cli import lint_imports_command as command; command()"
    done = run(script)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


def test_the_api_process_loads_no_tensorflow() -> None:
    loaded = packages_loaded_by("coordinator.app", "coordinator.api.application")
    assert {"fastapi", "sqlalchemy"} <= loaded
    assert not loaded & {*NUMERICS, "device_sim", "tflite_models"}


def test_the_command_line_loads_nothing_heavy_before_it_knows_its_role() -> None:
    assert not packages_loaded_by("coordinator.__main__") & set(NUMERICS)


def test_the_wire_and_the_decisions_load_no_framework() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("protocol", "domain")
        for path in sorted((ROOT / "coordinator" / package).rglob("[a-z]*.py"))
    ]
    assert len(names) > 15
    assert not packages_loaded_by(*names) & {*NUMERICS, *SERVICE, "httpx"}


@pytest.mark.parametrize("module", ["client", "participant", "trainer", "cache"])
def test_a_device_needs_nothing_of_the_service(module: str) -> None:
    service = ["domain", "usecases", "store", "api", "compute", "app", "config"]
    blocked = [*NUMERICS, *SERVICE, *(f"coordinator.{part}" for part in service)]
    done = run(BLOCKED, [f"device_sim.{module}"], blocked)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = run(BLOCKED, ["coordinator.api.application"], SERVICE)
    assert done.returncode == 1
    assert "fastapi is not installed on this machine" in done.stderr
