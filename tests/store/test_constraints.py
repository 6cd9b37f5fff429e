"""Invariants that hold whatever the application believes."""

import dataclasses
import functools
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from coordinator.domain.assignments import Assignment, State
from coordinator.domain.rounds import Event, NewRound
from coordinator.domain.tasks import next_training_round
from coordinator.protocol.vocabulary import Kind
from coordinator.store import assignments, devices, rounds
from coordinator.store.engine import StaleWrite, Store, Transaction
from coordinator.store.tables import metadata
from tests.support.federation import Federation, plan


def write(store: Store, body: Callable[[Transaction], object]) -> None:
    """Run ``body`` once: a violation is retried elsewhere, and raised in the end."""
    with store.engine.begin() as connection:
        body(Transaction(connection, "test"))


def new_round(federation: Federation, *, attempt: int = 2) -> NewRound:
    return next_training_round(
        federation.task(), now=federation.clock.now(), attempt=attempt
    )


def abandon_open_round(federation: Federation) -> None:
    (round_,) = federation.attempts()
    closed = round_.after(Event.MINIMUM_MISSED, now=federation.clock.now())
    write(federation.store, lambda tx: rounds.replace(tx, closed))


def test_a_task_has_one_open_round_of_a_kind(federation: Federation) -> None:
    federation.start()
    before = federation.state()

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, lambda tx: rounds.insert(tx, new_round(federation)))

    assert federation.state() == before


def test_an_evaluation_may_be_open_beside_a_training_round(
    federation: Federation,
) -> None:
    federation.start()
    evaluation = dataclasses.replace(new_round(federation), kind=Kind.EVALUATE)

    write(federation.store, lambda tx: rounds.insert(tx, evaluation))

    assert {round_.kind for round_ in federation.attempts()} == set(Kind)


def test_a_closed_round_makes_room_for_the_next(federation: Federation) -> None:
    federation.start()
    abandon_open_round(federation)

    write(federation.store, lambda tx: rounds.insert(tx, new_round(federation)))

    assert [round_.attempt for round_ in federation.attempts()] == [1, 2]


def test_an_attempt_is_made_once(federation: Federation) -> None:
    federation.start()
    abandon_open_round(federation)
    again = new_round(federation, attempt=1)

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, lambda tx: rounds.insert(tx, again))


def test_a_minimum_above_the_goal_is_refused(federation: Federation) -> None:
    federation.start()
    abandon_open_round(federation)
    new = new_round(federation)
    absurd = dataclasses.replace(
        new, policy=dataclasses.replace(new.policy, minimum=3, goal=2)
    )

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, lambda tx: rounds.insert(tx, absurd))


def test_a_round_starts_from_a_version_that_exists(federation: Federation) -> None:
    federation.start()
    abandon_open_round(federation)
    absurd = dataclasses.replace(new_round(federation), base_version=9)

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, lambda tx: rounds.insert(tx, absurd))


def test_a_device_holds_one_lease(federation: Federation) -> None:
    federation.start()
    held = federation.lease().assignment
    second = dataclasses.replace(held, id="f" * 32, idempotency_key="another")
    before = federation.state()

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, lambda tx: assignments.insert(tx, second))

    assert federation.state() == before


def test_a_device_counts_once_in_a_round(federation: Federation) -> None:
    federation.start()
    accepted = federation.take_part().assignment
    second = dataclasses.replace(
        accepted, id="f" * 32, idempotency_key="another", state=State.LEASED
    )

    def count_twice(tx: Transaction) -> None:
        assignments.insert(tx, second)
        assignments.end(tx, second.ended(State.ACCEPTED, now=federation.clock.now()))

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, count_twice)


def test_a_device_uses_an_idempotency_key_once(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    federation.give_up(work)
    again = dataclasses.replace(work.assignment, id="f" * 32)

    with pytest.raises(sa.exc.IntegrityError):
        write(federation.store, lambda tx: assignments.insert(tx, again))


def test_a_token_belongs_to_one_device(federation: Federation) -> None:
    federation.enrol()
    ((device, _),) = federation.store.read(lambda tx: devices.newest(tx, limit=2))
    (row,) = federation.rows()["devices"]
    token_hash = row[metadata.tables["devices"].c.keys().index("token_hash")]
    twin = dataclasses.replace(device, id="f" * 32)

    with pytest.raises(sa.exc.IntegrityError):
        write(
            federation.store,
            lambda tx: devices.insert(tx, twin, token_hash=token_hash),
        )


def test_an_assignment_needs_its_device_and_its_round(federation: Federation) -> None:
    federation.start()
    held = federation.lease().assignment
    federation.give_up(federation.lease(held.device_id))
    for lost in ({"device_id": "nobody"}, {"round_id": 999}):
        orphan = Assignment(
            **{
                field.name: getattr(held, field.name)
                for field in dataclasses.fields(held)
            }
            | {"id": "f" * 32, "idempotency_key": "another", **lost}
        )
        with pytest.raises(sa.exc.IntegrityError):
            write(
                federation.store,
                functools.partial(assignments.insert, assignment=orphan),
            )


def test_a_round_that_was_read_too_early_is_not_written(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=1))
    (early,) = federation.attempts()
    federation.take_part()  # reaches the goal
    before = federation.state()

    stale = early.after(Event.CANCELLED, now=federation.clock.now())
    with pytest.raises(StaleWrite):
        federation.store.run("test", lambda tx: rounds.replace(tx, stale))

    assert federation.state() == before


def test_an_assignment_ends_once(federation: Federation) -> None:
    federation.start()
    work = federation.lease()
    early = work.assignment.ended(State.ACCEPTED, now=federation.clock.now())
    federation.give_up(work)
    before = federation.state()

    with pytest.raises(StaleWrite):
        federation.store.run("test", lambda tx: assignments.end(tx, early))

    assert federation.state() == before
