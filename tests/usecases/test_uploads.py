"""Whatever breaks off and whenever it is asked for: the bytes are those that were sent.

A device sends random parts over a network that breaks and hangs; each offset that it is
told must be one that it can use, and nothing that was acknowledged is ever sent again.
"""

import dataclasses
import datetime as dt
import pathlib
from typing import Final

import hypothesis
import pytest
from hypothesis import strategies as st

from coordinator.domain.errors import MismatchingOffset, UploadUnknown
from coordinator.domain.uploads import NOTHING, PartialUpload, Whole
from coordinator.protocol import digests
from coordinator.store import uploads as stored
from coordinator.usecases import diagnosis, participation, uploads
from tests.support.federation import Federation, plan
from tests.support.models import update_body
from tests.support.worker import worker

BODY: Final = update_body([0.5] * 10, examples=3)
ROOM: Final = uploads.Room(all_bytes=1 << 30, upload_bytes=1 << 20)
SIZES = st.integers(0, 80)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["append", "break", "hang", "begin"]), SIZES),
    st.tuples(st.sampled_from(["ask", "cancel", "wake"]), st.just(0)),
)


@dataclasses.dataclass
class Hanging:
    """A request whose device is gone, which the coordinator has not noticed."""

    path: pathlib.Path
    tag: str
    at: int  #: in the body, of the next byte to come


class Phone:
    """A device with one update, and its connections."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.store, self.blobs = federation.store, federation.blobs
        self.work = federation.lease()
        self.whole = Whole(
            assignment_id=self.work.assignment.id,
            sha256=digests.sha256_hex(BODY),
            coding="identity",
            length=len(BODY),
        )
        self.acknowledged = 0
        self._hanging: list[Hanging] = []

    @property
    def expected(self) -> participation.Expected:
        return participation.expect_update(
            self.store,
            device_id=self.work.assignment.device_id,
            assignment_id=self.whole.assignment_id,
            now=self._federation.clock.now(),
        )

    def ask(self, _: int = 0) -> PartialUpload | None:
        try:
            upload = uploads.locate(
                self.store,
                self.blobs,
                self.expected,
                assignment_id=self.whole.assignment_id,
                sha256=self.whole.sha256,
                room=ROOM,
            )
        except UploadUnknown:
            assert self.acknowledged == 0
            return None
        assert upload.offset >= self.acknowledged
        self.acknowledged = upload.offset
        return upload

    def look(self) -> PartialUpload:
        return uploads.look(
            self.store,
            self.expected,
            assignment_id=self.whole.assignment_id,
            sha256=self.whole.sha256,
        )

    def _write(self, tag: str, start: int, size: int) -> pathlib.Path:
        path = self.blobs.partials.new(self.whole, tag=tag)
        path.write_bytes(BODY[start : start + size])
        return path

    def append(self, size: int) -> None:
        upload = self.ask()
        if upload is None:
            return
        path = self._write(upload.tag, upload.offset, size)
        upload = uploads.append(self.store, self.blobs, upload, path, length=None)
        path.unlink(missing_ok=True)
        self.acknowledged = upload.offset

    def begin(self, size: int) -> None:
        path = self._write(NOTHING, 0, size)
        upload = uploads.begin(
            self.store, self.blobs, self.expected, self.whole, path, room=ROOM
        )
        path.unlink(missing_ok=True)
        assert upload.offset >= max(self.acknowledged, min(size, len(BODY)))
        self.acknowledged = upload.offset

    def hang(self, size: int) -> None:
        upload = self.ask()
        tag, start = (NOTHING, 0) if upload is None else (upload.tag, upload.offset)
        path = self._write(tag, start, size)
        self._hanging.append(Hanging(path, tag, start + size))

    def wake(self, _: int = 0) -> None:
        """Bytes that were on their way arrive; then the break is noticed."""
        for hanging in self._hanging:
            with hanging.path.open("ab") as file:
                file.write(BODY[hanging.at : hanging.at + 7])
            uploads.keep_broken(
                self.store,
                self.blobs,
                self.whole,
                hanging.path,
                tag=hanging.tag,
                room=ROOM,
            )
            hanging.path.unlink(missing_ok=True)
        self._hanging.clear()

    def break_(self, size: int) -> None:
        self.hang(size)
        self.wake()

    def cancel(self, _: int = 0) -> None:
        self.acknowledged = 0
        try:
            uploads.cancel(
                self.store,
                self.blobs,
                assignment_id=self.whole.assignment_id,
                sha256=self.whole.sha256,
            )
        except UploadUnknown:
            return

    def finish(self) -> participation.Accepted:
        upload = self.ask()
        if upload is None:
            self.begin(0)
            upload = self.ask()
        assert upload is not None
        path = self._write(upload.tag, upload.offset, len(BODY))
        accepted = uploads.complete(
            self.store,
            self.blobs,
            self.expected,
            upload,
            path,
            device_id=self.work.assignment.device_id,
            now=self._federation.clock.now(),
        )
        path.unlink()
        return accepted


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)
@hypothesis.given(steps=st.lists(STEPS, max_size=14))
def test_the_bytes_that_count_are_those_that_were_sent(
    federation: Federation, steps: list[tuple[str, int]]
) -> None:
    if not federation.rows()["tasks"]:
        federation.start(settings=plan(goal=100_000))
    phone = Phone(federation)
    for name, size in steps:
        getattr(phone, "break_" if name == "break" else name)(size)
    accepted = phone.finish()

    assert (federation.folder / "blobs" / accepted.update.blob).read_bytes() == BODY
    assert phone.finish() == accepted
    phone.wake()
    assert phone.finish() == accepted
    leftovers = [
        name
        for name in federation.files()
        if name.startswith(("partial/", "incoming/"))
    ]
    assert leftovers == []


@pytest.fixture
def phone(federation: Federation) -> Phone:
    federation.start()
    return Phone(federation)


def test_a_writer_that_is_overtaken_changes_nothing(
    phone: Phone, federation: Federation
) -> None:
    phone.begin(10)
    seen = phone.ask()
    assert seen is not None
    late = phone._write(seen.tag, 10, 20)
    phone.append(30)  # asks first, which keeps what the other has written
    before = federation.rows()

    with pytest.raises(MismatchingOffset) as refused:
        uploads.append(phone.store, phone.blobs, seen, late, length=None)

    assert (refused.value.expected, refused.value.provided) == (60, 10)
    assert federation.rows() == before
    assert phone.finish().update.size_bytes == len(BODY)


def test_an_offset_that_was_told_stays_true(phone: Phone) -> None:
    phone.begin(10)
    phone.hang(0)  # nothing has come yet
    told = phone.ask()

    phone.wake()

    assert phone.look() == told


def test_an_upload_that_began_anew_takes_nothing_of_the_old_one(phone: Phone) -> None:
    phone.begin(10)
    phone.hang(20)
    phone.cancel()
    phone.begin(0)
    again = phone.ask()  # at the revision that the old one had

    phone.wake()

    assert again is not None
    assert phone.look() == again
    assert phone.finish().update.sha256 == phone.whole.sha256


def test_the_doctor_knows_parts_and_finds_those_that_nothing_names(
    phone: Phone, federation: Federation
) -> None:
    phone.begin(10)
    (name,) = [name for name in federation.files() if name.startswith("partial/")]
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)  # noqa: TID251 - of files
    orphan = federation.folder / "blobs" / "partial" / "0123.0123456789abcdef"
    orphan.write_bytes(b"of a process that was killed")

    def troubles() -> list[str]:
        found = diagnosis.examine(federation.store, federation.blobs, now=later)
        return [each.what for each in found if each.trouble in diagnosis.MENDED]

    assert troubles() == [
        "partial/0123.0123456789abcdef, 28 bytes",
    ]
    named = federation.store.read(stored.files)
    assert named == {name}
    deleted = federation.blobs.partials.delete_unnamed(
        named, older_than=later.timestamp()
    )
    assert deleted == 1
    assert troubles() == []
    assert name in federation.files()


def test_the_worker_deletes_what_has_ended(
    phone: Phone, federation: Federation
) -> None:
    phone.begin(10)
    other = Phone(federation)
    other.begin(20)
    federation.give_up(phone.work)
    worker(federation).step()
    assert [row[0] for row in federation.rows()["partial_uploads"]] == [
        other.whole.assignment_id
    ]
    assert sum(name.startswith("partial/") for name in federation.files()) == 1

    now = federation.clock.now()
    assert other.finish().update.sha256 == other.whole.sha256
    assert uploads.sweep(federation.store, federation.blobs, now=now) == 0
    federation.clock.advance(121)
    federation.advance()
    federation.release(federation.must_claim())
    assert (
        uploads.sweep(federation.store, federation.blobs, now=federation.clock.now())
        == 1
    )
    assert federation.rows()["partial_uploads"] == []
