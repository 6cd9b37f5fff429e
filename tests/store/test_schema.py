"""Migrations, and what the coordinator says of databases that it cannot use."""

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.store import schema
from coordinator.store.engine import Store
from coordinator.store.tables import metadata
from tests.support.federation import Federation, plan
from tests.support.models import update_body


def revisions(store: Store) -> list[str]:
    with store.engine.connect() as connection:
        return list(
            connection.execute(sa.text("SELECT version_num FROM alembic_version"))
            .scalars()
            .all()
        )


def tables(store: Store) -> set[str]:
    with store.engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names())


def index_definitions(store: Store) -> dict[str, str]:
    """The partial unique indexes as the database itself states them."""
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND name LIKE 'uq%'"
        if store.engine.dialect.name == "sqlite"
        else "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'uq%one%'"
    )
    with store.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(sa.text(query))}


def test_migrations_give_the_schema_of_the_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, metadata) == []


def test_migrations_give_the_partial_indexes_of_the_tables(empty_store: Store) -> None:
    metadata.create_all(empty_store.engine)
    expected = index_definitions(empty_store)
    metadata.drop_all(empty_store.engine)

    schema.upgrade(empty_store)

    assert set(expected) >= {
        "uq_rounds_one_open",
        "uq_assignments_one_leased",
        "uq_assignments_one_accepted",
    }
    assert index_definitions(empty_store) == expected


def test_an_empty_database_gets_the_newest_schema(empty_store: Store) -> None:
    schema.ensure(empty_store)

    assert set(metadata.tables) < tables(empty_store)
    assert revisions(empty_store) == [schema.upgrade(empty_store)]


def test_the_first_schema_is_upgraded_with_its_rows(empty_store: Store) -> None:
    config = schema._config()
    with empty_store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            sa.text("INSERT INTO models VALUES ('m', '{}', 'a', '2026-01-01 00:00:00')")
        )
        connection.execute(
            sa.text(
                "INSERT INTO versions VALUES "
                "('m', 0, 't', NULL, 'a', 9, NULL, '2026-01-01 00:00:00')"
            )
        )

    schema.upgrade(empty_store)

    with empty_store.engine.connect() as connection:
        (row,) = connection.execute(sa.select(metadata.tables["versions"]))
    assert (row.number, row.size_bytes, row.aggregate_norm) == (0, 9, None)


def test_sums_of_devices_kept_from_before_are_deleted_but_of_open_rounds(
    federation: Federation,
) -> None:
    evaluation = EvaluationPlan(every=1, goal=1)
    federation.start(settings=plan(goal=1, rounds=2, evaluation=evaluation))
    federation.take_part()
    federation.release(federation.must_claim())
    waiting = federation.lease()  # takes the place to train
    federation.evaluate(federation.lease())
    federation.release(federation.must_claim())
    federation.submit(waiting, update_body([0.5] * 10))
    federation.release(federation.must_claim())
    open_ = federation.lease()
    federation.evaluate(open_)
    assert len(federation.rows()["evaluations"]) == 2

    config = schema._config()
    with federation.store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    schema.upgrade(federation.store)

    (kept,) = federation.rows()["evaluations"]
    assert kept[0] == open_.assignment.id


def test_those_who_may_call_are_upgraded_with_what_they_have(
    empty_store: Store,
) -> None:
    config = schema._config()
    with empty_store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for statement in (
            "INSERT INTO operators VALUES ('hash', '2026-01-01 00:00:00')",
            "INSERT INTO devices VALUES ('d', 'h', NULL, '{}', '2026-01-01 00:00:00')",
        ):
            connection.execute(sa.text(statement))

    schema.upgrade(empty_store)

    with empty_store.engine.connect() as connection:
        (operator,) = connection.execute(sa.select(metadata.tables["operators"]))
        (device,) = connection.execute(sa.select(metadata.tables["devices"]))
    assert (operator.token_hash, operator.role) == ("hash", "admin")
    assert (len(operator.id), operator.revoked_at) == (32, None)
    assert (device.id, device.key_id, device.revoked_at) == ("d", None, None)


def test_the_schema_goes_down_and_up_again(empty_store: Store) -> None:
    config = schema._config()
    newest = schema.upgrade(empty_store)
    before = tables(empty_store)
    with empty_store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    assert "audit" not in tables(empty_store)

    assert schema.upgrade(empty_store) == newest
    assert tables(empty_store) == before


def test_a_current_database_is_left_alone(store: Store) -> None:
    before = tables(store), revisions(store)

    schema.ensure(store)
    schema.upgrade(store)

    assert (tables(store), revisions(store)) == before


def test_a_newer_schema_is_refused_by_name(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(schema.SchemaMismatch, match=r"schema 9999.*newer coordinator"):
        schema.ensure(store)

    assert revisions(store) == ["9999"]


def test_tables_without_a_revision_are_refused(empty_store: Store) -> None:
    with empty_store.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE tasks (id INTEGER)"))

    with pytest.raises(schema.SchemaMismatch, match="coordinator migrate"):
        schema.ensure(empty_store)

    assert tables(empty_store) == {"tasks"}


def test_tables_of_another_program_do_not_hinder_the_first_start(
    empty_store: Store,
) -> None:
    with empty_store.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE recipes (id INTEGER)"))

    schema.ensure(empty_store)

    assert set(metadata.tables) | {"recipes"} < tables(empty_store)


def test_a_migration_that_fails_leaves_nothing_behind(empty_store: Store) -> None:
    with empty_store.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE updates (id INTEGER)"))

    with pytest.raises(sa.exc.DBAPIError, match="already exists"):
        schema.upgrade(empty_store)

    assert tables(empty_store) == {"updates"}
