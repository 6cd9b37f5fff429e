"""Versions of the schema, by Alembic.

An empty database gets the newest schema. Any other schema than the newest is refused,
because the code would misread it: ``python -m coordinator migrate`` upgrades an older
one, and a newer one needs newer code.
"""

import pathlib

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from coordinator.store.engine import Store
from coordinator.store.tables import metadata


class SchemaMismatch(Exception):
    """The database has a schema that this code does not know."""


def upgrade(store: Store) -> str:
    """Bring the database to the newest schema. Returns its revision."""
    config = _config()
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return _newest(config)


def ensure(store: Store) -> None:
    """Create the schema in an empty database; otherwise insist on the newest.

    Raises:
        SchemaMismatch: Its message names the command that mends it.
    """
    with store.engine.connect() as connection:
        names = set(sa.inspect(connection).get_table_names())
        is_empty = _revision(connection) is None and not names & set(metadata.tables)
    if is_empty:
        upgrade(store)
    insist_newest(store)


def insist_newest(store: Store) -> None:
    """Insist on the newest schema, and change nothing.

    Raises:
        SchemaMismatch: Its message names the command that mends it.
    """
    newest = _newest(_config())
    with store.engine.connect() as connection:
        current = _revision(connection)
    if current == newest:
        return
    known = {script.revision for script in _scripts().walk_revisions()}
    if current in known or current is None:
        raise SchemaMismatch(
            f"the database has schema {current}, this coordinator needs {newest}: "
            "run `python -m coordinator migrate` with the same settings"
        )
    raise SchemaMismatch(
        f"the database has schema {current}, which this coordinator does not know "
        f"(it knows up to {newest}): install a newer coordinator, or restore a backup"
    )


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(pathlib.Path(__file__).parent / "migrations")
    )
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _newest(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise AssertionError("the package holds no migration")
    return head
