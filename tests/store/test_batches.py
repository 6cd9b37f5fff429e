"""Writers that come at a time share a commit on SQLite, and nothing else."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from coordinator.store.batches import Batches, Busy
from coordinator.store.engine import Store

_WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who")
Body = Callable[[sa.Connection], object]


class Writers:
    """Threads that queue behind one that holds on."""

    def __init__(self, engine: sa.Engine, *, timeout_s: float = 10.0) -> None:
        self.batches = Batches(engine, timeout_s=timeout_s)
        self.commits = 0
        self._engine = engine
        self._holds, self._let_go = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(16)

        @event.listens_for(engine, "commit")
        def _count(_: sa.Connection) -> None:
            self.commits += 1

    def hold(self) -> None:
        """Let a writer hang until ``let_go``."""

        def hang(_: sa.Connection) -> None:
            self._holds.set()
            assert self._let_go.wait(10)

        self.holding = self._pool.submit(self.batches.run, "hang", hang)
        assert self._holds.wait(10)

    def queue(self, body: Body) -> "Future[object]":
        """Let another thread want something, and return once it waits."""
        waiting = len(self.batches._waiting)
        future = self._pool.submit(self.batches.run, "write", body)
        while len(self.batches._waiting) == waiting:
            pass
        return future

    def let_go(self) -> None:
        self._let_go.set()
        self.holding.result(10)

    def names(self) -> list[str]:
        """What is committed."""
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT name FROM notes ORDER BY rowid")
            return [str(row[0]) for row in rows]

    def close(self) -> None:
        self._let_go.set()
        self._pool.shutdown()


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[sa.Engine]:
    # The store's own, because the driver must not open transactions by itself.
    store = Store(sqlite_url, durable=False)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (name TEXT UNIQUE)")
    yield store.engine
    store.close()


@pytest.fixture
def writers(engine: sa.Engine) -> Iterator[Writers]:
    with contextlib.closing(Writers(engine)) as writers:
        yield writers


def note(name: str) -> Body:
    def body(connection: sa.Connection) -> str:
        connection.exec_driver_sql("INSERT INTO notes VALUES (?)", (name,))
        return name

    return body


def test_all_who_waited_share_one_commit(writers: Writers) -> None:
    writers.hold()
    queued = [writers.queue(note(str(number))) for number in range(10)]
    assert not any(each.done() for each in queued)
    writers.let_go()

    assert [each.result(10) for each in queued] == [str(n) for n in range(10)]
    assert writers.names() == [str(n) for n in range(10)]
    assert writers.commits == 2  # the one that hung, and theirs


def test_not_too_many_share_one(
    writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.store.batches._MOST", 4)
    writers.hold()
    queued = [writers.queue(note(str(number))) for number in range(10)]
    writers.let_go()

    assert [each.result(10) for each in queued] == [str(n) for n in range(10)]
    assert writers.commits == 1 + 3


def test_who_fails_is_rolled_back_alone(writers: Writers) -> None:
    def fail(connection: sa.Connection) -> None:
        note("never")(connection)
        raise LookupError("on purpose")

    writers.hold()
    first, failing = writers.queue(note("first")), writers.queue(fail)
    twice, last = writers.queue(note("first")), writers.queue(note("last"))
    writers.let_go()

    assert first.result(10) == "first"
    with pytest.raises(LookupError, match="on purpose"):
        failing.result(10)
    with pytest.raises(sa.exc.IntegrityError):
        twice.result(10)
    assert last.result(10) == "last"
    assert writers.names() == ["first", "last"]


def test_nobody_is_told_of_what_could_not_be_committed(
    writers: Writers, engine: sa.Engine
) -> None:
    writers.hold()
    queued = [writers.queue(note("one")), writers.queue(note("two"))]

    @event.listens_for(engine, "commit")
    def _fail(_: sa.Connection) -> None:
        if writers.commits > 1:
            raise OSError("the disk is full")

    writers.let_go()

    for each in queued:
        with pytest.raises(OSError, match="full"):
            each.result(10)
    assert writers.names() == []


def test_a_transaction_that_the_database_gives_up_fails_for_all_in_it(
    writers: Writers,
) -> None:
    def lose(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        raise LookupError("the transaction is gone")

    writers.hold()
    queued = [writers.queue(note("one")), writers.queue(lose)]
    queued.append(writers.queue(note("two")))
    writers.let_go()

    for each in queued:
        with pytest.raises(sa.exc.OperationalError, match="savepoint"):
            each.result(10)
    assert writers.names() == []


def test_who_is_committed_does_not_wait_for_the_next_writer(writers: Writers) -> None:
    hangs, let_go = threading.Event(), threading.Event()

    def hang(_: sa.Connection) -> None:
        hangs.set()
        assert let_go.wait(10)

    def call_another(connection: sa.Connection) -> None:
        note("two")(connection)
        next_one.append(writers.queue(hang))  # comes too late for this commit

    next_one: list[Future[object]] = []
    writers.hold()
    queued = [writers.queue(note("one")), writers.queue(call_another)]
    queued.append(writers.queue(note("three")))
    writers.let_go()

    assert hangs.wait(10)
    for each in queued:
        each.result(10)
    assert not next_one[0].done()
    let_go.set()
    next_one[0].result(10)
    assert writers.names() == ["one", "two", "three"]


def test_a_body_runs_in_the_context_of_its_caller(writers: Writers) -> None:
    def caller(name: str) -> object:
        _WHO.set(name)
        return writers.batches.run("who", lambda _: _WHO.get())

    writers.hold()
    with ThreadPoolExecutor(4) as pool:
        names = ["ann", "bob", "cleo", "dan"]
        answers = [pool.submit(caller, name) for name in names]
        while len(writers.batches._waiting) < len(names):
            pass
        writers.let_go()
        assert [each.result(10) for each in answers] == names


def test_who_waited_too_long_is_not_written_later(engine: sa.Engine) -> None:
    with contextlib.closing(Writers(engine, timeout_s=0.05)) as writers:
        writers.hold()
        late = writers.queue(note("late"))
        with pytest.raises(Busy, match="write waited"):
            late.result(10)
        writers.let_go()

        assert writers.batches.run("next", note("next")) == "next"
        assert writers.names() == ["next"]


def test_a_turn_that_comes_as_its_writer_gives_up_is_not_lost(
    engine: sa.Engine,
) -> None:
    with contextlib.closing(Writers(engine, timeout_s=0.05)) as writers:
        writers.hold()
        late = writers.queue(note("late"))
        with writers.batches._lock:  # the turn is handed over by whoever holds it
            writers._let_go.set()
            while not late.running() or writers.commits == 0:
                pass
            time.sleep(0.2)  # by now it has waited too long, and is not forgotten yet
        with contextlib.suppress(Busy):
            late.result(10)

        assert writers.batches.run("next", note("next")) == "next"
