"""Refusals on their way to the audit log: counted, bounded, written in batches."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import pytest
import sqlalchemy as sa

from coordinator.api import audit
from coordinator.api.audit import RefusalCounts
from coordinator.domain.audit import Refusals
from coordinator.protocol import paths
from coordinator.store.engine import Store
from coordinator.usecases import access, tokens
from tests.support.federation import Federation
from tests.support.http import PATIENCE_S, Api, serve

Row = tuple[str, str | None, int]


def log(federation: Federation) -> list[Row]:
    entries = tokens.list_audit(federation.store, after=0, limit=1000)
    return [(e.subject, e.reason, e.times) for e in entries if e.decision == "refused"]


@contextlib.contextmanager
def transactions(store: Store) -> Iterator[list[str]]:
    """The first words of what is executed meanwhile, reads left out."""
    seen: list[str] = []

    def note(_c: object, _u: object, statement: str, *_: object) -> None:
        if not statement.startswith(("SELECT", "BEGIN\0")):
            seen.append(statement.split(maxsplit=1)[0])

    sa.event.listen(store.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(store.engine, "before_cursor_execute", note)


async def test_a_flood_without_a_token_writes_nothing_of_its_own(
    federation: Federation,
) -> None:
    async with serve(federation, background=False) as api:
        with transactions(federation.store) as seen:
            for _ in range(50):
                response = await api.client.get(paths.TASKS)
                assert response.status_code == 401
        assert set(seen) <= {"BEGIN"}
        assert log(federation) == []

        refusals: RefusalCounts = api.app.state.services.refusals
        await refusals.write()
        assert log(federation) == [("", "unauthenticated", 50)]
        await refusals.write()
        assert log(federation) == [("", "unauthenticated", 50)]


async def test_refusals_are_written_within_a_moment_without_being_asked_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_EVERY_S", 0.01)
    written = asyncio.Event()
    note_refusals = access.note_refusals
    loop = asyncio.get_running_loop()

    def note(store: Store, refusals: Sequence[Refusals]) -> None:
        note_refusals(store, refusals)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(access, "note_refusals", note)
    for times in (1, 2):
        await api.client.get(paths.TASKS)
        async with asyncio.timeout(PATIENCE_S):
            await written.wait()
        assert log(api.federation) == [("", "unauthenticated", times)]
        written.clear()


async def test_refusals_are_written_when_the_process_stops(
    federation: Federation,
) -> None:
    async with serve(federation) as api:
        await api.client.get(paths.TASKS)

    assert log(federation) == [("", "unauthenticated", 1)]


async def test_subjects_are_told_apart_up_to_a_number(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_SUBJECTS_A_MINUTE", 3)
    counts = RefusalCounts(federation.store)
    for number in (0, 1, 2, 3, 4, 0):
        counts.note("forbidden", f"{number}", now=federation.clock.now())
    counts.note("device-revoked", "9", now=federation.clock.now())
    federation.clock.advance(60)
    counts.note("forbidden", "9", now=federation.clock.now())

    await counts.write()

    assert sorted(log(federation)) == [
        ("", "forbidden", 2),
        ("0", "forbidden", 2),
        ("1", "forbidden", 1),
        ("2", "forbidden", 1),
        ("9", "device-revoked", 1),
        ("9", "forbidden", 1),
    ]


async def test_refusals_wait_for_a_database_that_is_away(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(audit, "_MOST_KEPT", 2)
    counts = RefusalCounts(federation.store)
    with federation.store.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE audit RENAME TO away"))
    for subject in ("ann", "ann", "bob"):
        counts.note("forbidden", subject, now=federation.clock.now())
    await counts.write()
    for subject in ("ann", "eve", "eve"):
        counts.note("forbidden", subject, now=federation.clock.now())
    with federation.store.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO audit"))

    await counts.write()

    assert log(federation) == [("ann", "forbidden", 3), ("bob", "forbidden", 1)]
    assert "2 refusals are missing in the audit log" in caplog.text
