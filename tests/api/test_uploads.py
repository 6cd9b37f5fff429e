"""An update in parts: what counts, what is refused, and what a device is told."""

import asyncio
import gzip
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import httpx
import pytest

from coordinator.domain.uploads import MAX_PARTS
from coordinator.protocol import digests, encodings, messages, paths, problems
from coordinator.protocol import uploads as fields
from coordinator.usecases import uploads
from tests.support.federation import Federation, plan
from tests.support.http import PATIENCE_S, Api, Caller, assert_problem, serve
from tests.support.models import tiny_manifest, update_body

BODY = update_body([0.5] * 10, examples=3)
OTHER = update_body([0.25] * 10, examples=3)
MAX_BYTES = encodings.max_update_bytes(tiny_manifest())


def digest(body: bytes) -> str:
    return digests.content_digest(digests.sha256_hex(body))


class Upload:
    """One update of one device, sent as a test wants it."""

    def __init__(
        self, api: Api, caller: Caller, assignment: Mapping[str, Any], body: bytes
    ) -> None:
        self.api = api
        self.caller = caller
        self.update = assignment["report_to"]
        self.body = body
        self.path = paths.upload(self.update, digests.sha256_hex(body))
        self._hangs = asyncio.Event()

    async def send(
        self, method: str, path: str, content: bytes, **headers: str | None
    ) -> httpx.Response:
        known = {"content-digest": digest(content), **self.caller.headers}
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.api.client.request(
            method,
            path,
            content=content,
            headers={
                name: value
                for name, value in (known | changed).items()
                if value is not None
            },
        )

    async def create(
        self, part: bytes, *, complete: str = "?0", **headers: str | None
    ) -> httpx.Response:
        known = {"upload_complete": complete, "repr_digest": digest(self.body)}
        return await self.send("POST", self.update, part, **(known | headers))

    async def append(
        self, start: int, end: int | None = None, **headers: str | None
    ) -> httpx.Response:
        part = self.body[start:end]
        known: dict[str, str | None] = {
            "content_type": fields.MEDIA_TYPE,
            "upload_offset": str(start),
            "upload_complete": "?1" if end is None else "?0",
        }
        return await self.send("PATCH", self.path, part, **(known | headers))

    async def head(self) -> httpx.Response:
        return await self.api.client.head(self.path, headers=self.caller.headers)

    async def delete(self) -> httpx.Response:
        return await self.api.client.delete(self.path, headers=self.caller.headers)

    async def offset(self) -> int:
        answer = await self.head()
        assert answer.status_code == 204
        assert answer.headers[fields.COMPLETE] == "?0"
        return int(answer.headers[fields.OFFSET])

    async def breaks(
        self,
        method: str,
        path: str,
        chunks: Iterable[bytes],
        hangs: asyncio.Event | None = None,
        **headers: str,
    ) -> None:
        """Send a body whose connection breaks after some chunks, or hangs first."""
        sent = iter(
            [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
        )

        async def receive() -> MutableMapping[str, Any]:
            for message in sent:
                return message
            if hangs is not None:
                self._hangs.set()
                await hangs.wait()
            return {"type": "http.disconnect"}

        async def send(_: Mapping[str, Any]) -> None:
            return None

        lines = {
            "transfer-encoding": "chunked",
            **self.caller.headers,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.encode(), v.encode()) for k, v in lines.items()],
            "server": ("test", 80),
            "client": ("test", 1),
        }
        await asyncio.gather(self.api.app(scope, receive, send), return_exceptions=True)

    async def hangs(self) -> None:
        """Wait until a body that hangs has been received as far as it goes."""
        async with asyncio.timeout(PATIENCE_S):
            await self._hangs.wait()
        self._hangs.clear()

    async def post_breaks(
        self, *chunks: bytes, hangs: asyncio.Event | None = None
    ) -> None:
        await self.breaks(
            "POST",
            self.update,
            chunks,
            hangs,
            upload_complete="?1",
            upload_length=str(len(self.body)),
            content_digest=digest(self.body),
        )

    async def append_breaks(
        self, start: int, *sizes: int, hangs: asyncio.Event | None = None
    ) -> None:
        chunks, at = [], start
        for size in sizes:
            chunks.append(self.body[at : at + size])
            at += size
        await self.breaks(
            "PATCH",
            self.path,
            chunks,
            hangs,
            content_type=fields.MEDIA_TYPE,
            upload_offset=str(start),
            upload_complete="?1",
            content_digest=digest(self.body[start:]),
        )


@pytest.fixture
async def upload(api: Api) -> Upload:
    api.federation.start()
    caller = api.enrol()
    return Upload(api, caller, await api.lease(caller), BODY)


def kept(upload: Upload) -> Sequence[bytes]:
    """The files of parts and of what comes in."""
    return [
        content
        for name, content in upload.api.federation.files().items()
        if name.startswith(("partial/", "incoming/"))
    ]


def accepted(upload: Upload) -> list[bytes]:
    """The bodies that count."""
    federation = upload.api.federation
    rows = federation.rows()["updates"]
    files = federation.files()
    return [files[name] for row in rows for name in row if name in files]


async def test_an_update_in_three_parts_is_the_update(upload: Upload) -> None:
    created = await upload.create(BODY[:100], upload_length=str(len(BODY)))
    assert created.status_code == 201
    assert created.headers["Location"] == upload.path
    assert created.headers[fields.OFFSET] == "100"
    limit = created.headers[fields.LIMIT]
    assert limit == f"max-size={MAX_BYTES}, max-age=60"

    appended = await upload.append(100, 150)
    assert (appended.status_code, appended.content) == (204, b"")
    assert appended.headers[fields.OFFSET] == "150"
    assert appended.headers[fields.COMPLETE] == "?0"

    state = await upload.head()
    assert state.status_code == 204
    assert state.headers[fields.OFFSET] == "150"
    assert state.headers[fields.COMPLETE] == "?0"
    assert state.headers[fields.LENGTH] == str(len(BODY))
    assert state.headers[fields.LIMIT] == limit
    assert state.headers["Cache-Control"] == "no-store"

    done = await upload.append(150)
    assert done.status_code == 200
    assert done.headers[fields.COMPLETE] == "?1"
    receipt = messages.Receipt.model_validate(done.json())
    assert receipt.sha256 == digests.sha256_hex(BODY)
    assert (receipt.size_bytes, receipt.examples) == (len(BODY), 3)
    assert accepted(upload) == [BODY]
    assert kept(upload) == []


async def test_the_receipt_is_the_same_whoever_asks_for_it_again(
    upload: Upload,
) -> None:
    await upload.create(BODY[:100])
    done = await upload.append(100)

    again = await upload.append(100)
    state = await upload.head()
    empty = await upload.append(len(BODY))
    whole = await upload.create(BODY, complete="?1")
    begun = await upload.create(b"")

    assert [r.status_code for r in (done, again, empty, whole)] == [200] * 4
    assert done.json() == again.json() == empty.json() == whole.json()
    assert state.headers[fields.COMPLETE] == "?1"
    assert state.headers[fields.OFFSET] == str(len(BODY))
    assert (begun.status_code, begun.headers[fields.COMPLETE]) == (201, "?1")
    assert len(upload.api.federation.rows()["updates"]) == 1
    assert kept(upload) == []


async def test_what_was_posted_whole_is_complete_too(upload: Upload) -> None:
    posted = await upload.create(BODY, complete="?1", repr_digest=None)
    state = await upload.head()
    again = await upload.append(len(BODY))

    assert posted.status_code == 200
    assert state.headers[fields.COMPLETE] == "?1"
    assert again.json() == posted.json()


async def test_a_broken_post_goes_on_where_it_broke(upload: Upload) -> None:
    await upload.post_breaks(BODY[:70], BODY[70:90])

    state = await upload.head()
    assert state.headers[fields.OFFSET] == "90"
    assert state.headers[fields.LENGTH] == str(len(BODY))
    assert (await upload.append(90)).status_code == 200
    assert accepted(upload) == [BODY]
    assert kept(upload) == []


async def test_a_part_that_breaks_is_kept_as_far_as_it_came(upload: Upload) -> None:
    await upload.create(BODY[:50])
    await upload.append_breaks(50, 20, 5)

    assert await upload.offset() == 75
    assert (await upload.append(75)).status_code == 200
    assert accepted(upload) == [BODY]


async def test_asking_for_the_offset_ends_what_hangs(upload: Upload) -> None:
    """A phone that changes its network is not seen to leave the old one."""
    gone = asyncio.Event()
    hanging = asyncio.create_task(upload.post_breaks(BODY[:80], hangs=gone))
    await upload.hangs()

    assert await upload.offset() == 80
    again = asyncio.create_task(upload.append_breaks(80, 30, hangs=gone))
    await upload.hangs()
    assert await upload.offset() == 110
    gone.set()
    await asyncio.gather(hanging, again)

    assert await upload.offset() == 110
    assert (await upload.append(110)).status_code == 200
    assert accepted(upload) == [BODY]
    assert kept(upload) == []


async def test_a_broken_part_that_nobody_asked_about_comes_too_late(
    upload: Upload,
) -> None:
    gone = asyncio.Event()
    await upload.create(BODY[:10])
    hanging = asyncio.create_task(upload.append_breaks(10, 30, hangs=gone))
    await upload.hangs()
    assert (await upload.append(10, 20)).status_code == 204
    gone.set()
    await hanging

    assert await upload.offset() == 20
    assert (await upload.append(20)).status_code == 200
    assert accepted(upload) == [BODY]


async def test_of_two_parts_at_one_offset_one_is_refused(upload: Upload) -> None:
    await upload.create(BODY[:10])

    first, second = await asyncio.gather(upload.append(10, 30), upload.append(10, 50))

    (refused,) = [r for r in (first, second) if r.status_code != 204]
    (won,) = [r for r in (first, second) if r.status_code == 204]
    document = assert_problem(refused, problems.MISMATCHING_OFFSET)
    assert document["type"].startswith("https://iana.org/assignments/")
    assert document["provided-offset"] == 10
    assert str(document["expected-offset"]) == won.headers[fields.OFFSET]
    assert refused.headers[fields.OFFSET] == won.headers[fields.OFFSET]
    at = int(won.headers[fields.OFFSET])
    assert (await upload.append(at)).status_code == 200
    assert accepted(upload) == [BODY]


@pytest.mark.parametrize("offset", ["9", "11", "500"])
async def test_a_part_elsewhere_changes_nothing(upload: Upload, offset: str) -> None:
    await upload.create(BODY[:10])
    before = upload.api.federation.state()

    answer = await upload.append(10, 20, upload_offset=offset)

    assert_problem(answer, problems.MISMATCHING_OFFSET)
    assert answer.headers[fields.OFFSET] == "10"
    assert upload.api.federation.state() == before


REFUSED: dict[str, tuple[dict[str, str | None], problems.ProblemType]] = {
    "no digest": ({"content_digest": None}, problems.DIGEST_NEEDED),
    "wrong digest": ({"content_digest": digest(b"x")}, problems.DIGEST_MISMATCH),
    "no offset": ({"upload_offset": None}, problems.PART_FIELDS_NEEDED),
    "offset is text": ({"upload_offset": '"10"'}, problems.PART_FIELDS_NEEDED),
    "offset below 0": ({"upload_offset": "-10"}, problems.PART_FIELDS_NEEDED),
    "complete is a number": ({"upload_complete": "1"}, problems.PART_FIELDS_NEEDED),
    "no complete": ({"upload_complete": None}, problems.PART_FIELDS_NEEDED),
    "other media type": ({"content_type": "text/plain"}, problems.NOT_A_PART),
    "encoded": ({"content_encoding": "gzip"}, problems.NOT_A_PART),
    "other length": ({"upload_length": "99"}, problems.INCONSISTENT_LENGTH),
    "too short a last part": (
        {"upload_complete": "?1"},
        problems.INCONSISTENT_LENGTH,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_part_changes_nothing(upload: Upload, case: str) -> None:
    headers, kind = REFUSED[case]
    await upload.create(BODY[:10], upload_length=str(len(BODY)))
    before = upload.api.federation.state()

    answer = await upload.append(10, 20, **headers)

    assert_problem(answer, kind)
    assert fields.COMPLETE not in answer.headers
    assert upload.api.federation.state() == before


async def test_a_part_beyond_the_length_is_refused_and_what_goes_on_ends_it(
    upload: Upload,
) -> None:
    await upload.create(BODY[:10], upload_length="30")
    before = upload.api.federation.state()
    assert_problem(await upload.append(10, 31), problems.INCONSISTENT_LENGTH)
    assert upload.api.federation.state() == before

    await upload.append_breaks(10, 15, 15)  # says no Content-Length

    assert (await upload.head()).status_code == 404
    assert kept(upload) == []


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"repr_digest": None}, problems.DIGEST_NEEDED),
        ({"content_digest": None}, problems.DIGEST_NEEDED),
        ({"content_digest": digest(b"x")}, problems.DIGEST_MISMATCH),
        ({"upload_length": "5"}, problems.INCONSISTENT_LENGTH),
        (
            {
                "upload_length": "5",
                "complete": "?1",
                "repr_digest": digest(BODY[:10]),
            },
            problems.INCONSISTENT_LENGTH,
        ),
        ({"repr_digest": digest(OTHER), "complete": "?1"}, problems.DIGEST_MISMATCH),
        ({"upload_length": str(MAX_BYTES + 1)}, problems.UPDATE_TOO_LARGE),
        ({"content_encoding": "br"}, problems.UNSUPPORTED_CODING),
    ],
)
async def test_a_refused_beginning_leaves_nothing(
    upload: Upload, headers: dict[str, Any], kind: problems.ProblemType
) -> None:
    before = upload.api.federation.state()

    answer = await upload.create(BODY[:10], **headers)

    assert_problem(answer, kind)
    if kind is problems.UPDATE_TOO_LARGE:
        assert answer.headers[fields.LIMIT].startswith(f"max-size={MAX_BYTES}")
    assert upload.api.federation.state() == before


async def test_what_is_no_boolean_is_as_good_as_absent(upload: Upload) -> None:
    answer = await upload.create(BODY, complete="true", repr_digest=None)
    assert answer.status_code == 200
    assert accepted(upload) == [BODY]


async def test_a_wrong_whole_ends_its_upload(upload: Upload) -> None:
    await upload.create(BODY[:10])
    upload.body = BODY[:10] + bytes(len(BODY) - 10)

    refused = await upload.append(10)

    assert_problem(refused, problems.DIGEST_MISMATCH)
    assert refused.headers[fields.COMPLETE] == "?1"
    assert (await upload.head()).status_code == 404
    assert kept(upload) == []
    assert upload.api.federation.rows()["updates"] == []


async def test_a_whole_that_is_no_update_ends_its_upload(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    upload = Upload(api, caller, await api.lease(caller), b"no update at all")
    await upload.create(upload.body[:5])

    refused = await upload.append(5)

    assert_problem(refused, problems.MALFORMED_TENSORS)
    assert refused.headers[fields.COMPLETE] == "?1"
    assert (await upload.head()).status_code == 404
    assert kept(upload) == []


async def test_a_coded_update_may_come_in_parts(api: Api) -> None:
    api.federation.start()
    caller = api.enrol()
    coded = gzip.compress(BODY, mtime=0)
    upload = Upload(api, caller, await api.lease(caller), coded)
    await upload.create(coded[:20], content_encoding="gzip")

    done = await upload.append(20)
    again = await upload.append(20)

    assert done.status_code == 200
    assert done.json() == again.json()
    assert done.json()["sha256"] == digests.sha256_hex(BODY)
    assert done.json()["size_bytes"] == len(coded)
    assert accepted(upload) == [BODY]
    assert (await upload.head()).headers[fields.COMPLETE] == "?1"
    refused = await upload.append(20, 30)
    assert_problem(refused, problems.INCONSISTENT_LENGTH)
    refused = await upload.append(len(coded), len(coded))
    assert_problem(refused, problems.COMPLETED_UPLOAD)


async def test_beginning_again_loses_nothing(upload: Upload) -> None:
    await upload.create(BODY[:100])
    again = await upload.create(BODY[:20])
    assert (again.status_code, again.headers[fields.OFFSET]) == (201, "100")
    longer = await upload.create(BODY[:120])
    assert (longer.status_code, longer.headers[fields.OFFSET]) == (201, "120")
    assert (await upload.append(120)).status_code == 200
    assert accepted(upload) == [BODY]
    assert kept(upload) == []


async def test_another_body_takes_the_place_of_the_first(upload: Upload) -> None:
    await upload.create(BODY[:100])
    other = Upload(upload.api, upload.caller, {"report_to": upload.update}, OTHER)

    assert (await other.create(OTHER[:30])).status_code == 201

    assert (await upload.head()).status_code == 404
    assert kept(upload) == [OTHER[:30]]
    assert (await other.append(30)).status_code == 200
    assert accepted(upload) == [OTHER]


async def test_a_cancelled_upload_is_forgotten(upload: Upload) -> None:
    await upload.create(BODY[:100])

    assert (await upload.delete()).status_code == 204

    assert_problem(await upload.delete(), problems.UPLOAD_UNKNOWN)
    assert (await upload.head()).status_code == 404
    assert_problem(await upload.append(100), problems.UPLOAD_UNKNOWN)
    assert kept(upload) == []
    assert (await upload.create(BODY, complete="?1")).status_code == 200


async def test_nobody_else_may_touch_an_upload(upload: Upload) -> None:
    await upload.create(BODY[:100])
    before = upload.api.federation.state()
    upload.caller = upload.api.enrol()
    before[0]["devices"] = upload.api.federation.rows()["devices"]

    assert (await upload.head()).status_code == 403
    for answer in (await upload.append(100), await upload.delete()):
        assert_problem(answer, problems.FOREIGN_ASSIGNMENT)

    assert (
        upload.api.federation.rows()["partial_uploads"]
        == (before[0]["partial_uploads"])
    )
    assert upload.api.federation.files() == before[1]


async def test_an_upload_ends_with_its_lease(upload: Upload) -> None:
    federation = upload.api.federation
    await upload.create(BODY[:100])
    assert (
        uploads.sweep(federation.store, federation.blobs, now=federation.clock.now())
        == 0
    )
    assert kept(upload) == [BODY[:100]]
    federation.clock.advance(61)

    assert (await upload.head()).status_code == 409
    for answer in (await upload.append(100), await upload.delete()):
        assert_problem(answer, problems.LEASE_LAPSED)
    assert (
        uploads.sweep(federation.store, federation.blobs, now=federation.clock.now())
        == 1
    )

    assert kept(upload) == []
    assert federation.rows()["partial_uploads"] == []


async def test_smaller_and_smaller_parts_come_to_an_end(upload: Upload) -> None:
    await upload.create(b"")
    many = [(f"partial/{n}", 0) for n in range(MAX_PARTS)]
    federation = upload.api.federation
    for name, _ in many:
        (federation.folder / "blobs" / name).touch()
    with federation.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE partial_uploads SET parts = ?",
            ("[" + ",".join(f'["{n}",{s}]' for n, s in many) + "]",),
        )

    assert_problem(await upload.append(0, 10), problems.TOO_MANY_PARTS)
    await upload.append_breaks(0, 10)
    assert await upload.offset() == 0
    assert (await upload.append(0)).status_code == 200
    assert accepted(upload) == [BODY]


async def test_only_so_much_is_kept(federation: Federation) -> None:
    federation.start(settings=plan(goal=3))
    async with serve(federation, partial_bytes=2 * len(BODY)) as api:
        sent = []
        for _ in range(3):
            caller = api.enrol()
            sent.append(Upload(api, caller, await api.lease(caller), BODY))
        length = str(len(BODY))
        for upload in sent[:2]:
            answer = await upload.create(BODY[:10], upload_length=length)
            assert answer.status_code == 201
        refused = await sent[2].create(BODY[:10], upload_length=length)
        assert_problem(refused, problems.TOO_MANY_UPLOADS)
        await sent[2].post_breaks(BODY[:10])
        assert (await sent[2].head()).status_code == 404
        assert len(kept(sent[0])) == 2

        await sent[0].delete()
        answer = await sent[2].create(BODY[:10], upload_length=length)
        assert answer.status_code == 201


async def test_a_lost_part_ends_its_upload(upload: Upload) -> None:
    await upload.create(BODY[:100])
    (name,) = [
        name for name in upload.api.federation.files() if name.startswith("partial/")
    ]
    (upload.api.federation.folder / "blobs" / name).unlink()

    assert_problem(await upload.append(100), problems.UPLOAD_UNKNOWN)
    assert (await upload.head()).status_code == 404
    assert upload.api.federation.rows()["partial_uploads"] == []


async def test_a_device_can_ask_what_it_may_send(upload: Upload) -> None:
    answer = await upload.api.client.options(
        upload.update, headers=upload.caller.headers
    )
    assert answer.status_code == 204
    assert answer.headers[fields.ACCEPT_PATCH] == fields.MEDIA_TYPE
    assert answer.headers[fields.LIMIT] == f"max-size={MAX_BYTES}, max-age=60"
