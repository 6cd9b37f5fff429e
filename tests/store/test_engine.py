"""Transactions: named, retried when they lose a race, all or nothing."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from coordinator.domain.events import Happening
from coordinator.store import events
from coordinator.store.engine import MAX_TRIES, StaleWrite, Store, Transaction
from coordinator.store.tables import Utc, operators
from coordinator.store.tables import events as events_table

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def note(tx: Transaction) -> None:
    events.append(tx, Happening.DEVICE_ENROLLED, now=NOON)


def noted(store: Store) -> int:
    return len(store.read(lambda tx: events.after(tx, 0, limit=100)))


def test_a_transaction_commits_when_its_body_returns(store: Store) -> None:
    store.run("note", note)

    assert noted(store) == 1


def test_a_transaction_rolls_back_when_its_body_raises(store: Store) -> None:
    def body(tx: Transaction) -> None:
        note(tx)
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        store.run("note", body)

    assert noted(store) == 0
    store.run("note", note)  # the writer's lock was given back
    assert noted(store) == 1


def test_a_stale_write_is_tried_again_from_the_start(store: Store) -> None:
    tries: list[str] = []

    def body(tx: Transaction) -> str:
        note(tx)
        tries.append(tx.name)
        if len(tries) < 3:
            raise StaleWrite(tx.name)
        return "done"

    assert store.run("note", body) == "done"

    assert tries == ["note"] * 3
    assert noted(store) == 1


def test_a_write_that_is_always_stale_is_given_up(store: Store) -> None:
    tries: list[str] = []

    def body(tx: Transaction) -> None:
        note(tx)
        tries.append(tx.name)
        raise StaleWrite(tx.name)

    with pytest.raises(StaleWrite, match="note"):
        store.run("note", body)

    assert len(tries) == MAX_TRIES
    assert noted(store) == 0


def test_an_update_that_hits_no_row_is_stale(store: Store) -> None:
    nobody = operators.c.token_hash.is_(None)
    statement = operators.update().where(nobody)
    tries: list[str] = []

    def body(tx: Transaction) -> None:
        tries.append(tx.name)
        tx.change_one(statement.values(created_at=NOON))

    with pytest.raises(StaleWrite):
        store.run("touch", body)

    assert len(tries) == MAX_TRIES


def test_other_faults_of_the_database_are_not_tried_again(store: Store) -> None:
    tries: list[str] = []

    def body(tx: Transaction) -> None:
        tries.append(tx.name)
        tx.connection.execute(sa.text("SELECT * FROM nowhere"))

    with pytest.raises(sa.exc.DBAPIError, match="nowhere"):
        store.run("look", body)

    assert tries == ["look"]


def test_a_read_sees_one_snapshot(store: Store) -> None:
    def body(tx: Transaction) -> tuple[int, int]:
        before = events.last_id(tx)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(store.run, "note", note).result()
        return before, events.last_id(tx)

    before, after = store.read(body)

    assert (before, after) == (0, 0)
    assert noted(store) == 1


def test_a_writer_does_not_delay_a_reader(store: Store) -> None:
    writing, read = threading.Event(), threading.Event()

    def write(tx: Transaction) -> bool:
        note(tx)
        writing.set()
        return read.wait(10)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(store.run, "note", write)
        assert writing.wait(10)
        assert noted(store) == 0
        read.set()
        assert writer.result()
    assert noted(store) == 1


def test_moments_come_back_in_utc(store: Store) -> None:
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    moment = dt.datetime(2026, 1, 1, 17, 30, 0, 123456, tzinfo=zone)
    store.run(
        "note",
        lambda tx: events.append(tx, Happening.DEVICE_ENROLLED, now=moment),
    )

    (event,) = store.read(lambda tx: events.after(tx, 0, limit=1))

    assert event.at == NOON.replace(microsecond=123456)
    assert event.at.utcoffset() == dt.timedelta(0)


def test_moments_are_compared_as_moments(store: Store) -> None:
    zone = dt.timezone(dt.timedelta(hours=-8))
    store.run("note", note)

    def later_than(moment: dt.datetime) -> int:
        query = (
            sa.select(sa.func.count())
            .select_from(events_table)
            .where(events_table.c.at > moment)
        )
        return store.read(lambda tx: tx.connection.execute(query).scalar_one())

    assert later_than(NOON.astimezone(zone)) == 0
    assert later_than((NOON - dt.timedelta(seconds=1)).astimezone(zone)) == 1


def test_a_moment_without_a_zone_is_refused(store: Store) -> None:
    naive = NOON.replace(tzinfo=None)

    with pytest.raises(sa.exc.StatementError, match="needs a time zone"):
        store.run(
            "note",
            lambda tx: events.append(tx, Happening.DEVICE_ENROLLED, now=naive),
        )

    assert noted(store) == 0


def test_no_moment_stays_none() -> None:
    dialect = sa.create_engine("sqlite://").dialect

    assert Utc().process_bind_param(None, dialect) is None
    assert Utc().process_result_value(None, dialect) is None
