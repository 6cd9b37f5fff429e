"""An update that is sent in several requests, because networks of phones break off.

What a request brings is kept in a file of its own and counts from the commit that adds
it to the upload's row. That commit compares the revision which the request saw when it
began: asking for the offset raises it, so that whoever was told an offset can use it,
and what an older request still brings is too late. The update itself is accepted by
``participation``, from all parts together, exactly once.

Source: draft-ietf-httpbis-resumable-upload-12.
"""

import dataclasses
import datetime as dt
import pathlib

from coordinator.domain.aggregation import AcceptedUpdate
from coordinator.domain.errors import (
    AlreadyReported,
    BetweenRounds,
    DomainError,
    MismatchingOffset,
    TooManyUploads,
    UploadUnknown,
)
from coordinator.domain.uploads import (
    MAX_PARTS,
    NOTHING,
    Part,
    PartialUpload,
    Whole,
)
from coordinator.protocol import codings
from coordinator.store import assignments, uploads
from coordinator.store.blobs import STALE_AFTER, BlobStore
from coordinator.store.engine import Store, Transaction
from coordinator.store.partials import PartLost
from coordinator.usecases import participation
from coordinator.usecases.participation import Accepted, Expected, Sent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much may be kept."""

    all_bytes: int  #: of all partial uploads together
    upload_bytes: int  #: of one, whose length is not known


def begin(
    store: Store,
    blobs: BlobStore,
    expected: Expected,
    whole: Whole,
    path: pathlib.Path,
    *,
    room: Room,
) -> PartialUpload:
    """Begin an upload with a first part, in place of any other of its assignment.

    Where it has begun already and has more, it stays as it is.

    Args:
        store: The database.
        blobs: The files.
        expected: What the update must be.
        whole: What is uploaded.
        path: Of the first part, which may be empty.
        room: How much may be kept.

    Raises:
        AlreadyReported: Another update was accepted before.
        TooManyUploads: As much is kept as may be.
        StorageUnavailable: The part cannot be kept now.
    """
    if expected.previous is not None:
        accepted = _as_accepted(expected.previous, whole.sha256)
        if accepted is None:
            raise AlreadyReported(whole.assignment_id)
        return accepted
    part = blobs.partials.keep(path, whole.assignment_id)
    kept = () if part is None else (part,)

    def body(tx: Transaction) -> tuple[PartialUpload, tuple[Part, ...]]:
        known = uploads.get(tx, whole.assignment_id)
        new = PartialUpload(whole=whole, parts=kept, revision=1, is_complete=False)
        if known is not None and known.whole.sha256 == whole.sha256:
            if known.is_complete or known.offset >= new.offset:
                return known, kept
            new = dataclasses.replace(new, revision=known.revision + 1)
        return new, _put(tx, known, new, room)

    try:
        upload, unused = store.run("begin_upload", body)
    except DomainError:
        blobs.partials.drop(kept)
        raise
    blobs.partials.drop(unused)
    return upload


def keep_broken(
    store: Store,
    blobs: BlobStore,
    whole: Whole,
    path: pathlib.Path,
    *,
    tag: str,
    room: Room,
) -> None:
    """Keep what came in of a request that broke off, where it still counts.

    Args:
        store: The database.
        blobs: The files.
        whole: What it is a part of, with the length that this request says.
        path: Of the bytes that came in.
        tag: Of the upload when the request began.
        room: How much may be kept.

    Raises:
        StorageUnavailable: It cannot be kept now.
    """
    part = blobs.partials.keep(path, whole.assignment_id)
    if part is None:
        return

    def body(tx: Transaction) -> bool:
        known = uploads.get(tx, whole.assignment_id)
        if tag == NOTHING and known is None:
            new = PartialUpload(
                whole=whole, parts=(part,), revision=1, is_complete=False
            )
            _insert(tx, new, room)
            return True
        if known is None or not _continues(known, whole.sha256, tag):
            return False
        uploads.replace(tx, known.with_length(whole.length).with_part(part), seen=known)
        return True

    try:
        is_kept = store.run("keep_broken_upload", body)
    except TooManyUploads:
        is_kept = False
    if not is_kept:
        blobs.partials.drop([part])


def look(
    store: Store, expected: Expected, *, assignment_id: str, sha256: str
) -> PartialUpload:
    """Return an upload as it is.

    Raises:
        UploadUnknown: There is none of this body.
    """
    accepted = _as_accepted(expected.previous, sha256)
    if accepted is not None:
        return accepted
    upload = store.read(lambda tx: uploads.get(tx, assignment_id))
    if upload is None or upload.whole.sha256 != sha256:
        raise UploadUnknown(assignment_id)
    return upload


def locate(
    store: Store,
    blobs: BlobStore,
    expected: Expected,
    *,
    assignment_id: str,
    sha256: str,
    room: Room,
) -> PartialUpload:
    """Say how much has come in, with what a request is still writing, or was.

    From now on such a request adds nothing: what is said here stays true.

    Raises:
        UploadUnknown: Nothing has come in of this body, or it is lost.
        TooManyUploads: As much is kept as may be.
        StorageUnavailable: Files cannot be looked at, or not be kept, now.
    """
    accepted = _as_accepted(expected.previous, sha256)
    if accepted is not None:
        return accepted
    tag, adopted = _adopt(store, blobs, assignment_id, sha256)
    kept = () if adopted is None else adopted[:1]

    def body(tx: Transaction) -> tuple[PartialUpload, tuple[Part, ...]]:
        known = uploads.get(tx, assignment_id)
        if known is None or known.whole.sha256 != sha256:
            if adopted is None:
                raise UploadUnknown(assignment_id)
            new = PartialUpload(
                whole=adopted[1], parts=kept, revision=1, is_complete=False
            )
            return new, _put(tx, known, new, room)
        if known.is_complete:
            return known, kept
        following = known.with_part(None)
        if adopted is not None and known.tag == tag:
            part, whole = adopted
            following = known.with_length(whole.length).with_part(part)
        uploads.replace(tx, following, seen=known)
        return following, () if following.parts[-1:] == kept else kept

    try:
        upload, unused = store.run("locate_upload", body)
    except DomainError:
        blobs.partials.drop(kept)
        raise
    blobs.partials.drop(unused)
    if not upload.is_complete and not blobs.partials.are_there(upload.parts):
        _forget(store, blobs, assignment_id, sha256)
        raise UploadUnknown(assignment_id)
    return upload


def _adopt(
    store: Store, blobs: BlobStore, assignment_id: str, sha256: str
) -> tuple[str, tuple[Part, Whole] | None]:
    """Keep what a request is still writing. Returns the upload's tag beside it."""
    seen = store.read(lambda tx: uploads.get(tx, assignment_id))
    tag = NOTHING
    if seen is not None and seen.whole.sha256 == sha256:
        tag = seen.tag
        if len(seen.parts) >= MAX_PARTS:
            return tag, None
    return tag, blobs.partials.adopt(assignment_id, sha256, tag=tag)


def append(
    store: Store,
    blobs: BlobStore,
    seen: PartialUpload,
    path: pathlib.Path,
    *,
    length: int | None,
) -> PartialUpload:
    """Add a part to an upload, if it is still what was ``seen``.

    Raises:
        MismatchingOffset: Something came in meanwhile, or the offset was asked for.
        UploadUnknown: The upload has ended meanwhile.
        StorageUnavailable: The part cannot be kept now.
    """
    assignment_id, offset = seen.whole.assignment_id, seen.offset
    part = blobs.partials.keep(path, assignment_id)

    def body(tx: Transaction) -> PartialUpload:
        known = uploads.get(tx, assignment_id)
        if known is None or known.whole.sha256 != seen.whole.sha256:
            raise UploadUnknown(assignment_id)
        if not _continues(known, seen.whole.sha256, seen.tag):
            raise MismatchingOffset(expected=known.offset, provided=offset)
        following = known.with_length(length).with_part(part)
        uploads.replace(tx, following, seen=known)
        return following

    try:
        return store.run("append_to_upload", body)
    except DomainError:
        blobs.partials.drop(() if part is None else (part,))
        raise


def complete(
    store: Store,
    blobs: BlobStore,
    expected: Expected,
    seen: PartialUpload,
    path: pathlib.Path,
    *,
    device_id: str,
    now: dt.datetime,
) -> Accepted:
    """Accept the update that ends with the bytes at ``path``. Again: the same receipt.

    An update that is refused for good ends its upload.

    Raises:
        UploadUnknown: A part is lost, and the upload has ended with it.
        DigestMismatch: All parts together are not what was to be uploaded.
        Everything that ``participation.submit_update`` raises.
    """
    assignment_id, sha256 = seen.whole.assignment_id, seen.whole.sha256
    if seen.is_complete:
        return store.read(lambda tx: _accepted(tx, assignment_id))
    joined = blobs.new_incoming()
    length = seen.offset + path.stat().st_size
    try:
        blobs.partials.join(seen.parts, path, joined)
        accepted = participation.submit_update(
            store,
            blobs,
            expected,
            Sent(path=joined, content_digest=sha256, coding=seen.whole.coding),
            device_id=device_id,
            assignment_id=assignment_id,
            now=now,
        )
    except PartLost:
        _forget(store, blobs, assignment_id, sha256)
        raise UploadUnknown(assignment_id) from None
    except BetweenRounds:  # the same request may succeed in a moment
        raise
    except (DomainError, ValueError):
        _forget(store, blobs, assignment_id, sha256)
        raise
    finally:
        blobs.drop_incoming(joined)
    _finish(store, blobs, assignment_id, sha256, length=length)
    return accepted


def cancel(store: Store, blobs: BlobStore, *, assignment_id: str, sha256: str) -> None:
    """End an upload and forget what has come in.

    Raises:
        UploadUnknown: There is none of this body.
    """
    if not _forget(store, blobs, assignment_id, sha256):
        raise UploadUnknown(assignment_id)


def sweep(store: Store, blobs: BlobStore, *, now: dt.datetime) -> int:
    """End uploads whose lease or round is over, and delete parts that nothing names.

    Returns:
        How many uploads ended.

    Raises:
        StorageUnavailable: Files cannot be deleted now.
    """

    def body(tx: Transaction) -> list[PartialUpload]:
        found = uploads.ended(tx, now)
        for upload in found:
            uploads.delete(tx, upload)
        return found

    ended = store.read(lambda tx: uploads.ended(tx, now))
    if ended:
        ended = store.run("sweep_uploads", body)
    for upload in ended:
        blobs.partials.drop(upload.parts)
    named = store.read(uploads.files)
    blobs.partials.delete_unnamed(named, older_than=(now - STALE_AFTER).timestamp())
    return len(ended)


def _as_accepted(previous: AcceptedUpdate | None, sha256: str) -> PartialUpload | None:
    """Return the upload of an update that was accepted, however it was sent."""
    if previous is None or previous.sha256 != sha256:
        return None
    whole = Whole(
        assignment_id=previous.assignment_id,
        sha256=sha256,
        coding=codings.IDENTITY,
        length=previous.size_bytes,
    )
    return PartialUpload(whole=whole, parts=(), revision=0, is_complete=True)


def _continues(known: PartialUpload, sha256: str, tag: str) -> bool:
    """Whether a request may add to an upload that began when it was so."""
    return (
        known.whole.sha256 == sha256
        and known.tag == tag
        and not known.is_complete
        and len(known.parts) < MAX_PARTS
    )


def _put(
    tx: Transaction, known: PartialUpload | None, new: PartialUpload, room: Room
) -> tuple[Part, ...]:
    """Begin an upload in place of what is known. Returns the parts of that."""
    if known is not None:
        uploads.delete(tx, known)
    _insert(tx, new, room)
    return () if known is None else known.parts


def _insert(tx: Transaction, upload: PartialUpload, room: Room) -> None:
    length = upload.whole.length
    reserved = room.upload_bytes if length is None else length
    kept = uploads.reserved_bytes(tx)
    if kept + reserved > room.all_bytes:
        raise TooManyUploads(f"{kept} bytes are kept for partial uploads")
    uploads.insert(tx, upload, reserved_bytes=reserved)


def _accepted(tx: Transaction, assignment_id: str) -> Accepted:
    known = assignments.update_of(tx, assignment_id)
    if known is None:
        raise AssertionError("an upload is complete when its update is accepted")
    return Accepted(update=known[0], accepted_at=known[1])


def _finish(
    store: Store, blobs: BlobStore, assignment_id: str, sha256: str, *, length: int
) -> None:
    """Note that an upload's update was accepted; its parts are of no use any more."""

    def body(tx: Transaction) -> tuple[Part, ...]:
        known = uploads.get(tx, assignment_id)
        if known is None or known.whole.sha256 != sha256 or known.is_complete:
            return ()
        done = known.completed(length)
        uploads.replace(tx, done, seen=known, reserved_bytes=0)
        return known.parts

    blobs.partials.drop(store.run("finish_upload", body))


def _forget(store: Store, blobs: BlobStore, assignment_id: str, sha256: str) -> bool:
    """End an upload, whatever has come in. Returns whether there was one."""

    def body(tx: Transaction) -> PartialUpload | None:
        known = uploads.get(tx, assignment_id)
        if known is None or known.whole.sha256 != sha256:
            return None
        uploads.delete(tx, known)
        return known

    upload = store.run("end_upload", body)
    if upload is None:
        return False
    blobs.partials.drop(upload.parts)
    return True
