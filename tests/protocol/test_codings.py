import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol.codings import (
    BadCoding,
    InflatesTooFar,
    UnsupportedCoding,
    inflate,
    is_identity,
)

CONTENT = bytes(range(256)) * 3
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MIB = 1 << 20


def compress_gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def compress_zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


COMPRESSORS = {"gzip": compress_gzip, "zstd": compress_zstd}
CODINGS = list(COMPRESSORS.items())
Compress = Callable[[bytes], bytes]


def zstd_frame(window_log: int, blocks: bytes) -> bytes:
    """A frame without content size or checksum (RFC 8878, section 3.1.1)."""
    return ZSTD_MAGIC + b"\0" + bytes([(window_log - 10) << 3]) + blocks


def run_length_block(size: int, *, last: bool) -> bytes:
    """A block of ``size`` zeros in four bytes (RFC 8878, section 3.1.1.2)."""
    return (size << 3 | 1 << 1 | last).to_bytes(3, "little") + b"\0"


def peak_of_refusal(body: bytes, coding: str, limit: int) -> int:
    """The most bytes that Python held while refusing ``body``."""
    tracemalloc.start()
    try:
        with pytest.raises(InflatesTooFar):
            inflate(body, coding, limit=limit)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "zstd"]))
def test_inflating_undoes_the_coding(content: bytes, coding: str) -> None:
    body = COMPRESSORS[coding](content)
    assert inflate(body, coding, limit=len(content)) == content


@pytest.mark.parametrize("level", [-5, 1, 19])
def test_every_level_of_zstd_is_taken(level: int) -> None:
    streamed = zstandard.ZstdCompressor(level=level).compressobj()
    body = streamed.compress(CONTENT) + streamed.flush()
    assert inflate(body, "zstd", limit=len(CONTENT)) == CONTENT


@pytest.mark.parametrize("coding", ["identity", "", " Identity\t"])
def test_identity_leaves_the_body_as_it_is(coding: str) -> None:
    assert inflate(CONTENT, coding, limit=len(CONTENT)) == CONTENT
    with pytest.raises(InflatesTooFar, match="768 bytes, the limit is 767"):
        inflate(CONTENT, coding, limit=len(CONTENT) - 1)


@pytest.mark.parametrize(
    ("coding", "expected"),
    [("", True), ("IDENTITY ", True), ("gzip", False), ("identity, gzip", False)],
)
def test_identity_is_told_from_the_others(coding: str, *, expected: bool) -> None:
    assert is_identity(coding) is expected


@pytest.mark.parametrize("coding", [" gzip ", "GZIP", "Gzip"])
def test_a_codings_name_has_no_case(coding: str) -> None:
    assert inflate(compress_gzip(b"x"), coding, limit=1) == b"x"


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, zstd", "gzip,gzip", "*"])
def test_another_coding_is_unsupported(coding: str) -> None:
    with pytest.raises(UnsupportedCoding, match="unknown coding"):
        inflate(b"", coding, limit=100)


def test_the_name_of_an_unsupported_coding_is_cut_short() -> None:
    with pytest.raises(UnsupportedCoding) as caught:
        inflate(b"", "x" * 5000, limit=100)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_the_limit_is_the_last_size_taken(coding: str, compress: Compress) -> None:
    body = compress(CONTENT)
    assert inflate(body, coding, limit=len(CONTENT)) == CONTENT
    with pytest.raises(InflatesTooFar, match="beyond 767 bytes"):
        inflate(body, coding, limit=len(CONTENT) - 1)
    assert inflate(compress(b""), coding, limit=0) == b""


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_a_truncated_body_is_refused(coding: str, compress: Compress) -> None:
    body = compress(CONTENT)
    for length in range(len(body)):
        with pytest.raises(BadCoding):
            inflate(body[:length], coding, limit=len(CONTENT))


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 768])
def test_bytes_behind_the_body_are_refused(
    coding: str, compress: Compress, size: int
) -> None:
    body = compress(CONTENT[:size])
    for rest in (b"\0", b"rest", bytes(600), compress(b"")):
        with pytest.raises(BadCoding, match="follow"):
            inflate(body + rest, coding, limit=10_000)


def test_bytes_behind_a_frame_are_refused_wherever_it_ends() -> None:
    # Blocks as they are: the frame has six bytes more than header and content.
    for size in range(230, 290):
        block = (size << 3 | 1).to_bytes(3, "little") + CONTENT[:256].ljust(size)[:size]
        frame = zstd_frame(17, block)
        assert len(inflate(frame, "zstd", limit=size)) == size
        with pytest.raises(BadCoding, match="follow"):
            inflate(frame + b"\0", "zstd", limit=10_000)


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_damage_is_refused(coding: str, compress: Compress) -> None:
    body = bytearray(compress(CONTENT))
    body[0] ^= 0xFF
    with pytest.raises(BadCoding, match=f"not {coding}"):
        inflate(bytes(body), coding, limit=10_000)


def test_a_wrong_checksum_is_refused() -> None:
    body = bytearray(compress_gzip(CONTENT))
    body[-8] ^= 1
    with pytest.raises(BadCoding):
        inflate(bytes(body), "gzip", limit=10_000)
    framed = zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)
    with pytest.raises(BadCoding):
        inflate(framed[:-1] + bytes([framed[-1] ^ 1]), "zstd", limit=10_000)


def test_zlib_without_the_gzip_wrapper_is_no_gzip() -> None:
    with pytest.raises(BadCoding):
        inflate(zlib.compress(CONTENT), "gzip", limit=10_000)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "zstd"]))
def test_any_bytes_are_inflated_or_refused(body: bytes, coding: str) -> None:
    header = b"\x1f\x8b\x08" if coding == "gzip" else ZSTD_MAGIC
    for candidate in (body, header + body):
        try:
            content = inflate(candidate, coding, limit=1000)
        except (BadCoding, InflatesTooFar):
            continue
        assert len(content) <= 1000


def test_a_gzip_bomb_is_refused_in_little_memory() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
    assert len(body) < MIB // 8
    assert peak_of_refusal(body, "gzip", 10_000) < MIB


def test_a_zstd_bomb_is_refused_in_bounded_memory() -> None:
    # The worst there is: 4 bytes for 128 KiB, one GiB in all.
    blocks = run_length_block(128 << 10, last=False) * 8191
    body = zstd_frame(17, blocks + run_length_block(128 << 10, last=True))
    assert len(body) < MIB // 16
    assert peak_of_refusal(body, "zstd", 10_000) < 20 * MIB


def test_a_bomb_below_the_limit_is_inflated() -> None:
    body = zstd_frame(17, run_length_block(128 << 10, last=True))
    assert inflate(body, "zstd", limit=128 << 10) == bytes(128 << 10)


def test_a_frame_that_needs_a_large_window_is_refused() -> None:
    block = run_length_block(1, last=True)
    assert inflate(zstd_frame(27, block), "zstd", limit=1) == b"\0"
    with pytest.raises(BadCoding):
        inflate(zstd_frame(28, block), "zstd", limit=1)
