import contextlib
import hashlib
import http.server
import io
import lzma
import pathlib
import sqlite3
import threading

import numpy as np
import pytest

from device_sim.data import DataError, download, fed_emnist, load

WRITERS = ("f0000_14", "f0001_41", "f0002_32")
SPLITS = ("digits_only_train", "digits_only_test", "all_train", "all_test")


def varint(value: int):
    low = value & 0x7F
    return bytes([low | 0x80]) + varint(value >> 7) if value > low else bytes([low])


def field(number: int, content: bytes):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(ink: int, label: int):
    """One tf.train.Example with an image of a single grey, 0 = paper."""
    pixels = np.full(784, 1 - ink / 255, "<f4").tobytes()
    return field(
        1,
        field(1, field(1, b"label") + field(2, field(3, field(1, varint(label)))))
        + field(1, field(1, b"pixels") + field(2, field(2, field(1, pixels)))),
    )


def grey_of(split: int, writer: int, index: int):
    return 100 * (split % 2) + 30 * writer + index


def make_database(path: pathlib.Path):
    """A database as published: writer w has w + 2 train and w + 1 test examples."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL,"
            " serialized_example_proto BLOB NOT NULL);"
            "CREATE INDEX idx_examples_client_id_split ON examples"
            " (split_name, client_id);"
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL,"
            " split_name TEXT NOT NULL, num_examples INTEGER NOT NULL);"
        )
        for s, split in enumerate(SPLITS):
            for w, writer in enumerate(WRITERS):
                count = w + 2 - s % 2
                connection.execute(
                    "INSERT INTO client_metadata VALUES (?, ?, ?)",
                    (writer, split, count),
                )
                connection.executemany(
                    "INSERT INTO examples VALUES (?, ?, ?)",
                    [
                        (split, writer, example(grey_of(s, w, i), i + 40 * (s > 1)))
                        for i in range(count)
                    ],
                )
    return path


def change(path: pathlib.Path, statement: str):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


class Server(http.server.ThreadingHTTPServer):
    """Serves one body on loopback and counts how often it was asked."""

    def __init__(
        self, body: bytes, *, stated: int | None = None, status: int = 200
    ) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.body, self.status = body, status
        self.stated = len(body) if stated is None else stated
        self.requests = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/emnist_all.sqlite.lzma"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.stated))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object):
        pass


@contextlib.contextmanager
def serving(body: bytes, **options: int):
    with Server(body, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: pathlib.Path):
    """A cache that holds the database already."""
    make_database(tmp_path / fed_emnist.FILE)
    return tmp_path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory):
    path = make_database(tmp_path_factory.mktemp("database") / "made.sqlite")
    return lzma.compress(path.read_bytes(), preset=0)


def fetch(
    server: Server, cache: pathlib.Path, *, sha256: str | None = None, devices: int = 3
):
    return fed_emnist.load(
        "digits",
        devices=devices,
        classes=None,
        cache=cache,
        rng=np.random.default_rng(0),
        url=server.url,
        sha256=sha256,
    )


def test_a_device_is_a_writer_and_paper_becomes_zero(cache: pathlib.Path):
    federation = load("fed-emnist", devices=3, seed=0, cache=cache)
    assert federation.classes == 10
    shards = {shard.name: shard for shard in federation.shards}
    assert set(shards) == set(WRITERS)
    for w, writer in enumerate(WRITERS):
        shard = shards[writer]
        greys = [grey_of(0, w, i) for i in range(w + 2)]
        assert shard.train_images[:, 0, 0].tolist() == greys
        assert shard.train_y.tolist() == list(range(w + 2))
        assert shard.test_y.tolist() == list(range(w + 1))
    held_out = [grey_of(1, w, i) for w in range(3) for i in range(w + 1)]
    assert federation.held_out_images[:, 5, 5].tolist() == held_out


def test_the_held_out_part_is_the_test_part_of_all_writers(cache: pathlib.Path):
    one, three = (
        load("fed-emnist:digits", devices=n, seed=0, cache=cache) for n in (1, 3)
    )
    assert len(one.shards) == 1
    assert np.array_equal(one.held_out_images, three.held_out_images)


def test_all_characters_are_another_part_of_the_database(cache: pathlib.Path):
    federation = load("fed-emnist:all", devices=3, seed=0, cache=cache)
    assert federation.classes == 62
    assert federation.held_out_y.tolist() == [40, 40, 41, 40, 41, 42]


def test_more_devices_than_writers_are_refused(cache: pathlib.Path):
    with pytest.raises(DataError, match="has 3 writers"):
        load("fed-emnist", devices=4, seed=0, cache=cache)


def test_the_database_is_downloaded_once(
    tmp_path: pathlib.Path, packed: bytes, capsys: pytest.CaptureFixture[str]
):
    cache = tmp_path / "new" / "cache"
    with serving(packed) as server:
        digest = hashlib.sha256(packed).hexdigest()
        first = fetch(server, cache, sha256=digest)
        second = fetch(server, cache, sha256=digest)
        assert server.requests == 1
    assert np.array_equal(first.held_out_images, second.held_out_images)
    assert [path.name for path in cache.iterdir()] == [fed_emnist.FILE]
    captured = capsys.readouterr()
    assert "downloading" in captured.err
    assert captured.out == ""


def test_two_streams_in_one_file_are_unpacked(tmp_path: pathlib.Path):
    content = make_database(tmp_path / "made.sqlite").read_bytes()
    halves = content[:5000], content[5000:]
    with serving(b"".join(lzma.compress(half, preset=0) for half in halves)) as server:
        fetch(server, tmp_path / "cache")
    assert (tmp_path / "cache" / fed_emnist.FILE).read_bytes() == content


def test_a_failed_download_leaves_nothing_and_says_why(
    tmp_path: pathlib.Path, packed: bytes
):
    cache = tmp_path / "cache"
    other = hashlib.sha256(b"").hexdigest()
    for body, options, sha256, message in (
        (packed, {}, other, f"has the digest .*, expected {other}"),
        (packed, {"status": 404}, None, "cannot download .*404"),
        (packed[:-500], {"stated": len(packed)}, None, "cannot download .*body"),
        (packed[:-500], {}, None, "not a whole lzma file"),
        (b"<html>not here</html>", {}, None, "not a whole lzma file"),
    ):
        with (
            serving(body, **options) as server,
            pytest.raises(DataError, match=message),
        ):
            fetch(server, cache, sha256=sha256)
        assert list(cache.iterdir()) == []


def test_an_unreachable_server_is_named(tmp_path: pathlib.Path, packed: bytes):
    with serving(packed) as server:
        pass
    with pytest.raises(DataError, match=f"cannot download {server.url}.*network"):
        fetch(server, tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: pathlib.Path, packed: bytes):
    file = tmp_path / "file"
    file.touch()
    with (
        serving(packed) as server,
        pytest.raises(DataError, match=r"cannot store .* point SHOAL_CACHE elsewhere"),
    ):
        fetch(server, file / "cache")
    assert server.requests == 0


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE client_metadata", "no such table"),
        ("ALTER TABLE examples RENAME COLUMN client_id TO x", "no such column"),
        ("DELETE FROM examples WHERE rowid = 1", "1 whole examples in .*, not 2"),
        (
            "UPDATE examples SET serialized_example_proto = 7",
            "0 whole examples in digits_only_test, not 1",
        ),
        (
            "UPDATE examples SET serialized_example_proto = x'0aff01616263'",
            "255 bytes is cut short after 3",
        ),
    ],
)
def test_a_damaged_database_is_refused(
    cache: pathlib.Path, statement: str, message: str
):
    change(cache / fed_emnist.FILE, statement)
    with pytest.raises(DataError, match=f"not the database .*{message}.*delete it"):
        load("fed-emnist", devices=3, seed=0, cache=cache)


def test_labels_and_pixels_out_of_range_are_refused(cache: pathlib.Path):
    path = cache / fed_emnist.FILE
    change(path, "UPDATE examples SET split_name = 'x' WHERE split_name = 'all_train'")
    for content, message in (
        (example(0, 10), "must be under 10, got 10"),
        (example(-1, 3), r"must lie in \[0, 1\], got 1.0"),
    ):
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE examples SET serialized_example_proto = ?"
                " WHERE split_name = 'digits_only_test'",
                (content,),
            )
        with pytest.raises(DataError, match=message):
            load("fed-emnist", devices=3, seed=0, cache=cache)


def test_a_cut_or_foreign_database_is_refused(cache: pathlib.Path):
    path = cache / fed_emnist.FILE
    whole = path.read_bytes()
    for content in (b"", b"SQLite", b"x" * 5000, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not the database"):
            load("fed-emnist", devices=3, seed=0, cache=cache)
        assert path.read_bytes() == content


def test_a_database_whose_schema_is_no_text_is_refused(cache: pathlib.Path):
    path = cache / fed_emnist.FILE
    content = path.read_bytes()
    broken = content.replace(b"TABLE client_metadata (", b"TABLE client_metadata \x81")
    assert broken != content
    path.write_bytes(broken)
    with pytest.raises(DataError, match="not the database"):
        load("fed-emnist", devices=3, seed=0, cache=cache)


def test_a_database_that_inflates_too_far_is_cut_off():
    packed, unpacked = io.BytesIO(lzma.compress(bytes(1 << 24))), io.BytesIO()
    with pytest.raises(DataError, match="more than 1048576 bytes"):
        download.unpack(packed, unpacked, limit=1 << 20)
    assert unpacked.tell() <= 1 << 20


def test_a_stream_that_needs_much_memory_is_refused():
    head = bytes([0x5D]) + (3 << 30).to_bytes(4, "little") + b"\xff" * 8
    with pytest.raises(lzma.LZMAError, match="Memory"):
        download.unpack(io.BytesIO(head + bytes(99)), io.BytesIO(), limit=1 << 20)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHOAL_CACHE", "/big/disk")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert fed_emnist.cache_folder() == pathlib.Path("/big/disk")
    monkeypatch.delenv("SHOAL_CACHE")
    assert fed_emnist.cache_folder() == pathlib.Path("/shared/shoal")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert fed_emnist.cache_folder() == pathlib.Path("/home/me/.cache/shoal")
