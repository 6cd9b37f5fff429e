"""Fetches one large compressed file, once.

Nothing appears under its name before it is whole: bytes go to a temporary file beside
it, which is renamed when its length and digest were right and it has been unpacked.
"""

import hashlib
import lzma
import os
import pathlib
import tempfile
from typing import BinaryIO, Final

import httpx
import rich.console
import rich.progress

from device_sim.data.federation import DataError

TIMEOUT_S: Final = 30.0
COPY_BYTES: Final = 1 << 20
MAX_BYTES: Final = 16 << 30  #: unpacked; federated EMNIST has 4.7 GB
_MEMORY_BYTES: Final = 1 << 30  # a dictionary of the highest preset has 64 MiB


def fetch_unpacked(url: str, path: pathlib.Path, *, sha256: str | None) -> None:
    """Download an xz or lzma file and leave what is inside it at ``path``.

    Args:
        url: Where the compressed file is.
        path: Where the unpacked file goes; its folder is made.
        sha256: Digest of the compressed file, 64 hex digits. None: not known, then the
            length that the server states and the format's own end mark must do.

    Raises:
        DataError: The server cannot be reached or refuses, the file is not the expected
            one, or there is no room for it. Nothing is left behind.
    """
    console = rich.console.Console(stderr=True)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder,
            rich.progress.Progress(*columns, console=console) as progress,
        ):
            packed = pathlib.Path(folder) / "packed"
            unpacked = pathlib.Path(folder) / "unpacked"
            with packed.open("wb") as file:
                digest = _download(url, file, progress)
            if sha256 is not None and digest != sha256:
                raise DataError(
                    f"{url} has the digest {digest}, expected {sha256}: the download "
                    f"was changed on its way, or the data set is new; if you trust it, "
                    f"unpack it to {path} yourself"
                )
            with (
                progress.open(packed, "rb", description="unpacking") as source,
                unpacked.open("wb") as target,
            ):
                unpack(source, target, limit=MAX_BYTES)
            # On one file system, so another process sees the old or the whole file.
            os.replace(unpacked, path)  # noqa: PTH105  - os.replace says it is atomic
    except httpx.HTTPError as error:
        raise DataError(
            f"cannot download {url} ({type(error).__name__}: {error}): check the "
            f"network, or put the unpacked file at {path}"
        ) from error
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(
            f"{url} is not a whole lzma file ({error}): try again"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot store {url} in {path.parent} ({error}): make room, or point "
            "SHOAL_CACHE elsewhere"
        ) from error


def _download(url: str, file: BinaryIO, progress: rich.progress.Progress) -> str:
    """Write the body to ``file`` and return its SHA-256 in hex."""
    digest = hashlib.sha256()
    with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        stated = response.headers.get("Content-Length", "")
        total = int(stated) if stated.isdecimal() else None
        bar = progress.add_task("downloading", total=total)
        # Raw: the digest and the length are of the bytes as they lie on the server.
        for chunk in response.iter_raw():
            file.write(chunk)
            digest.update(chunk)
            progress.update(bar, advance=len(chunk))
    return digest.hexdigest()


def unpack(source: BinaryIO, target: BinaryIO, *, limit: int) -> None:
    """Undo xz or lzma.

    Args:
        source: The compressed bytes, one stream or several.
        target: Where what is inside goes.
        limit: Most bytes that may be inside.

    Raises:
        DataError: More bytes come out.
        LZMAError: It is no such stream, or needs more memory than may be.
        EOFError: It is cut short.
    """
    size = 0
    packed = source.read(COPY_BYTES)
    while True:
        decoder = lzma.LZMADecompressor(memlimit=_MEMORY_BYTES)
        while not decoder.eof:
            content = decoder.decompress(packed, COPY_BYTES)
            size += len(content)
            if size > limit:
                raise DataError(f"more than {limit} bytes are inside: it cannot be it")
            target.write(content)
            packed = b""
            if decoder.needs_input and not (packed := source.read(COPY_BYTES)):
                raise EOFError("it ends before its end mark")
        # Zeros may stand between streams.
        packed = (decoder.unused_data or source.read(COPY_BYTES)).lstrip(b"\0")
        if not packed:
            return
