"""Native code parses strangers' ciphertexts: in a child process, under limits.

A child that dies of a file is started again without it, so that one device costs its
own result and no more.
"""

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np

from coordinator.protocol.he.parameters import Residues

_BEAT_S: Final = 1.0
_LONGEST_BEATS: Final = 600


class CiphertextLost(Exception):
    """The child did not do it: the ciphertexts, or the key, are unusable."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """Ciphertexts of a blinded sum."""

    ciphertext: bytes
    summed: tuple[str, ...]  #: names of the files in it
    left_out: Mapping[str, str]  #: names of the others, and why


def add_up(
    files: Mapping[str, pathlib.Path],
    *,
    skip: int,
    public_key: bytes,
    blinding_key: bytes,
    length: int,
    on_progress: Callable[[int], None],
) -> Added:
    """Add the ciphertexts in files, and the encryption of a blinding vector.

    Args:
        files: By name.
        skip: Bytes before the ciphertexts of each.
        public_key: Of the round.
        blinding_key: 32 secret bytes.
        length: Numbers in each.
        on_progress: Called about every second, with the number of files done.

    Raises:
        CiphertextLost: No file could be added.
    """
    left_out: dict[str, str] = {}
    while True:
        chosen = {name: path for name, path in files.items() if name not in left_out}
        if not chosen:
            raise CiphertextLost("no ciphertext could be added")
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder) / "sum"
            order = {
                "do": "add",
                "files": {name: str(path) for name, path in chosen.items()},
                "skip": skip,
                "public_key": base64.b64encode(public_key).decode(),
                "blinding_key": base64.b64encode(blinding_key).decode(),
                "length": length,
                "target": str(target),
            }
            ended = _run(order, on_progress)
            left_out |= ended.refused
            if ended.is_whole:
                summed = tuple(name for name in chosen if name not in ended.refused)
                if not summed:
                    raise CiphertextLost("no ciphertext could be added")
                return Added(
                    ciphertext=target.read_bytes(), summed=summed, left_out=left_out
                )
        if ended.at is None:
            raise CiphertextLost(f"the child ended with code {ended.code}")
        left_out[ended.at] = f"the child ended with code {ended.code} of it"


def decrypt(ciphertext: bytes, *, secret_key: bytes, length: int) -> Residues:
    """Return the numbers in ciphertexts, shape (length,).

    Raises:
        CiphertextLost: They are none under this key.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "in", pathlib.Path(folder) / "out"
        source.write_bytes(ciphertext)
        order = {
            "do": "decrypt",
            "files": {"sum": str(source)},
            "secret_key": base64.b64encode(secret_key).decode(),
            "length": length,
            "target": str(target),
        }
        ended = _run(order, lambda _: None)
        if ended.refused:
            raise CiphertextLost(ended.refused["sum"])
        if not ended.is_whole:
            raise CiphertextLost(f"the child ended with code {ended.code}")
        return np.frombuffer(target.read_bytes(), np.dtype("<u8")).astype(np.uint64)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Ended:
    """What a child has said, and how it ended."""

    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    at: str | None = None  #: the file that was being read
    is_whole: bool = False
    done: int = 0
    code: int = 0

    def follow(self, lines: Iterable[bytes]) -> None:
        """Note what it says, until it ends."""
        for line in lines:
            try:
                what, *rest = json.loads(line)
            except ValueError:  # the libraries' own words
                continue
            self.at = rest[0] if what == "begin" else None
            if what == "refused":
                self.refused[rest[0]] = rest[1]
            self.is_whole = what == "whole"
            self.done += what == "done"


def _run(order: Mapping[str, Any], on_progress: Callable[[int], None]) -> _Ended:
    """Let a child do what ``order`` says, for ten minutes at most."""
    ended = _Ended()
    with subprocess.Popen(
        [sys.executable, "-m", "coordinator.ciphertexts"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise AssertionError("the child has pipes")
        following = threading.Thread(target=ended.follow, args=(child.stdout,))
        following.start()
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(order).encode())
            for _ in range(_LONGEST_BEATS):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_BEAT_S)
                    break
                on_progress(ended.done)
        finally:
            child.kill()
            ended.code = child.wait()
            following.join()
    ended.is_whole = ended.is_whole and ended.code == 0
    return ended


def _environment() -> dict[str, str]:
    """Return what the child may know: where modules are, and no settings."""
    kept = {"PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TMPDIR"}
    return {name: value for name, value in os.environ.items() if name in kept}
