"""Secrets in files: drawn at first start, and readable by their owner alone."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Callable


def _token() -> str:
    return secrets.token_urlsafe(32)


def read_or_draw(path: pathlib.Path, draw: Callable[[], str] = _token) -> str:
    """Return the secret in a file, which is written if there is none.

    Args:
        path: Of the file.
        draw: Makes a secret of ASCII; by default a token of 32 bytes.
    """
    with contextlib.suppress(FileNotFoundError):
        if secret := path.read_text(encoding="ascii").strip():
            return secret
        path.unlink()  # what an older kill left of a write
    # Written aside and linked: the name never holds a part of a secret.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(draw() + "\n")
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.link(aside, path)
    aside.unlink()
    return path.read_text(encoding="ascii").strip()
