"""Long, coverage-guided runs of the fuzzers: ``python -m tests.fuzz --help``.

Each fuzzer runs in a process of its own under atheris, with a bound on memory and on
the time that one input may take. What it learns stays in a folder, so that the next
run goes on from there; an input that is a find is kept there too.
"""

import pathlib
import re
import resource
import subprocess
import sys
import time
from typing import Annotated, Final

import atheris
import numpy as np
import typer

with atheris.instrument_imports(include=["coordinator", "device_sim"]):
    from tests.fuzz.targets import TARGETS

MEMORY_MB: Final = 1024
ADDRESS_BYTES: Final = 8 << 30  # libraries reserve a lot of it and use little
ONE_INPUT_S: Final = 10
_STATISTIC: Final = re.compile(r"stat::(\w+):\s+(\d+)")


def fuzz(name: str, folder: pathlib.Path, seconds: int) -> None:
    """Run one fuzzer in this process. Ends the process."""
    target = TARGETS[name]
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, max_size))
        changed = target.mutate(data, np.random.default_rng(seed))
        return changed if len(changed) <= max_size else data

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={target.max_bytes}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-timeout={ONE_INPUT_S}",
            f"-artifact_prefix={folder / name}-",
            "-print_final_stats=1",
            "-verbosity=0",
            str(corpus),
        ],
        target.run,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Fuzzers; without any: every one.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="For each fuzzer.")] = 600,
    folder: Annotated[
        pathlib.Path, typer.Option(help="Where inputs and finds are kept.")
    ] = pathlib.Path(".fuzz"),
    *,
    here: Annotated[
        bool, typer.Option("--here", help="One fuzzer, in this process.")
    ] = False,
) -> None:
    """Run fuzzers one after the other; exits with 1 if one has a find."""
    if here:
        (name,) = names or ()
        fuzz(name, folder, seconds)
    finds = 0
    for name in names or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", name, "--here"]
        command += ["--seconds", str(seconds), "--folder", str(folder)]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent_s = time.monotonic() - began
        said = dict(_STATISTIC.findall(done.stderr))
        print(
            f"{name:12} {spent_s:5.0f} s "
            f"{said.get('number_of_executed_units', '?'):>9} inputs "
            f"{said.get('peak_rss_mb', '?'):>5} MB  "
            f"{'nothing found' if done.returncode == 0 else 'FOUND'}",
            flush=True,
        )
        if done.returncode:
            finds += 1
            print(done.stdout[-4000:], done.stderr[-4000:], flush=True)
    raise typer.Exit(1 if finds else 0)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
