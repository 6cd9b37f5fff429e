"""A database, and named transactions in it."""

import contextlib
import dataclasses
import pathlib
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from coordinator.store.batches import Batches, Busy, execute_plainly
from coordinator.store.files import StorageUnavailable, storage, sync

T = TypeVar("T")
MAX_TRIES: Final = 6
_BUSY_TIMEOUT_S: Final = 15.0
#: Postgres: what makes a transaction one snapshot.
_SNAPSHOT: Final = {
    "isolation_level": "REPEATABLE READ",
    "postgresql_readonly": True,
}
#: Postgres: serialization failure, deadlock detected, unique violation. The last is a
#: race for a place that a second look finds taken; a real bug fails every try.
_LOST_RACES: Final = frozenset({"40001", "40P01", "23505"})


class StaleWrite(Exception):
    """A row changed between its read and its write. The transaction is run again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction. Only ``coordinator.store`` executes statements on it."""

    connection: sa.Connection
    name: str

    def change_one(
        self,
        statement: sa.Update | sa.Delete,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Execute an update or a delete that must hit exactly one row.

        Raises:
            StaleWrite: It hit none: somebody was faster.
        """
        if self.connection.execute(statement, parameters).rowcount != 1:
            raise StaleWrite(self.name)


class Store:
    """Runs transactions on SQLite or Postgres, from any thread."""

    def __init__(self, url: str, *, durable: bool) -> None:
        """Open a database. Connects at first use.

        Args:
            url: Where it is, as SQLAlchemy names it.
            durable: Whether what was committed must outlive a power cut.
        """
        self._engine = _create_engine(url, durable=durable)
        snapshot = {} if self._engine.dialect.name == "sqlite" else _SNAPSHOT
        self._reader = self._engine.execution_options(reads=True, **snapshot)
        # SQLite has one writer. Queueing here beats its sleeping busy handler.
        self._batches = (
            Batches(self._engine, timeout_s=_BUSY_TIMEOUT_S)
            if self._engine.dialect.name == "sqlite"
            else None
        )

    #: What a database raises that is busy, broken or gone for now.
    errors: Final[tuple[type[Exception], ...]] = (
        Busy,
        StaleWrite,
        exc.OperationalError,
        exc.InterfaceError,
        exc.TimeoutError,
    )

    @property
    def engine(self) -> sa.Engine:
        """The engine, for migrations."""
        return self._engine

    def read(self, body: Callable[[Transaction], T]) -> T:
        """Run ``body`` on one snapshot. It must not write; no writer delays it."""
        with self._reader.begin() as connection:
            return body(Transaction(connection, "read"))

    def run(self, name: str, body: Callable[[Transaction], T]) -> T:
        """Run ``body`` in one transaction named ``name``.

        Commits when ``body`` returns, rolls back when it raises. Lost races are
        retried, and another thread may run it, so ``body`` must do nothing but use the
        transaction.

        Raises:
            StaleWrite: Every try lost its race.
        """
        for _ in range(MAX_TRIES - 1):
            try:
                return self._once(name, body)
            except StaleWrite:
                continue
            except exc.DBAPIError as error:
                if not _lost_race(error):
                    raise
        return self._once(name, body)

    def copy_to(self, path: pathlib.Path) -> None:
        """Copy the database as it is at one moment to a file. On SQLite alone.

        Raises:
            StorageUnavailable: The copy cannot be written.
        """
        with storage("copy the database"):
            path.unlink(missing_ok=True)
            connection = self._engine.raw_connection()
            try:
                source = connection.driver_connection
                if not isinstance(source, sqlite3.Connection):
                    raise TypeError(f"only SQLite is copied so, got {type(source)}")
                with contextlib.closing(sqlite3.connect(path)) as copy:
                    source.backup(copy)
            except sqlite3.Error as error:
                raise StorageUnavailable(
                    f"cannot copy the database: {error}"
                ) from error
            finally:
                connection.close()
            sync(path)
            sync(path.parent)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _once(self, name: str, body: Callable[[Transaction], T]) -> T:
        def write(connection: sa.Connection) -> T:
            return body(Transaction(connection, name))

        if self._batches is not None:
            return self._batches.run(name, write)
        with self._engine.begin() as connection:
            return write(connection)


def _lost_race(error: exc.DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _LOST_RACES


def _create_engine(url: str, *, durable: bool) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        # As durable as the server is set to be, or less.
        less = {} if durable else {"options": "-c synchronous_commit=off"}
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=20,
            max_overflow=20,
            pool_pre_ping=True,
            connect_args=less,
        )
    engine = sa.create_engine(parsed, pool_size=20, max_overflow=20)

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver must not open transactions
        for pragma in (
            "journal_mode=WAL",
            # FULL lets every commit wait for the disk, NORMAL every checkpoint.
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            "foreign_keys=ON",
            f"busy_timeout={_BUSY_TIMEOUT_S * 1000:.0f}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("reads", False)
        # A writer takes its lock at once: two readers that both become writers
        # would make one of them fail late.
        execute_plainly(connection, "BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
