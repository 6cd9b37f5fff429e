"""What is kept of a device can be seen, and erased as far as a sum allows."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.domain.audit import Decision
from coordinator.domain.errors import (
    DeviceRevoked,
    DeviceUnknown,
    LeaseLapsed,
    Unauthenticated,
)
from coordinator.domain.rounds import Phase
from coordinator.domain.uploads import NOTHING, Whole
from coordinator.protocol import device_keys, digests
from coordinator.protocol.data_rights import rows_as_json
from coordinator.protocol.plan_rounds import EvaluationPlan
from coordinator.store import subjects, tables
from coordinator.store.subjects import Contributions
from coordinator.usecases import access, data_rights, devices, rounds, tasks, uploads
from coordinator.usecases.check_in import Work
from coordinator.usecases.data_rights import Erased
from coordinator.usecases.devices import Applicant
from tests.support.federation import Federation, plan
from tests.support.models import update_body
from tests.support.races import at_once
from tests.support.secure_rounds import gather, secure

OWN_WORDS = "grandmother's phone"


def erase(federation: Federation, device_id: str, by: str = "admin") -> Erased:
    return data_rights.erase(
        federation.store,
        federation.blobs,
        device_id,
        by=by,
        now=federation.clock.now(),
    )


def new_key() -> device_keys.DeviceKey:
    return device_keys.of(ec.generate_private_key(ec.SECP256R1()).public_key())


def rows(federation: Federation, table: sa.Table) -> list[dict[str, Any]]:
    with federation.store.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def export(
    federation: Federation, device_id: str, *, with_secret: bool = True
) -> dict[str, list[dict[str, Any]]]:
    found = data_rights.export(federation.store, device_id, with_secret=with_secret)
    shown: dict[str, list[dict[str, Any]]] = json.loads(json.dumps(rows_as_json(found)))
    return shown


def talkative(federation: Federation) -> tuple[str, str]:
    """Enrol a device that says a lot about itself. Returns its id and token."""
    device, token = devices.enrol(
        federation.store,
        Applicant(
            name=OWN_WORDS,
            capabilities={"model": OWN_WORDS},
            key=new_key(),
        ),
        now=federation.clock.now(),
    )
    return device.id, token


def keep_part(federation: Federation, work: Work, body: bytes) -> None:
    """Let the first half of an update come in."""
    whole = Whole(
        assignment_id=work.assignment.id,
        sha256=digests.sha256_hex(body),
        coding="identity",
        length=len(body),
    )
    path = federation.blobs.partials.new(whole, tag=NOTHING)
    path.write_bytes(body[: len(body) // 2])
    uploads.keep_broken(
        federation.store,
        federation.blobs,
        whole,
        path,
        tag=NOTHING,
        room=uploads.Room(all_bytes=1 << 20, upload_bytes=1 << 20),
    )


def test_every_table_that_names_a_device_is_shown_and_erased() -> None:
    owners = {tables.devices, tables.assignments}
    naming = {
        table
        for table in tables.metadata.tables.values()
        if table in owners or owners & {key.column.table for key in table.foreign_keys}
    }
    assert naming | {tables.audit, tables.events} == set(subjects.KEPT)


def test_what_a_device_said_of_itself_is_gone(federation: Federation) -> None:
    federation.start(settings=plan(goal=3))
    device_id, token = talkative(federation)
    work = federation.lease(device_id)
    federation.give_up(work)
    federation.clock.advance(1)
    work = federation.lease(device_id)
    keep_part(federation, work, update_body([1.0] * 10))
    with federation.store.engine.begin() as connection:
        connection.execute(tables.assignments.update().values(failure_detail=OWN_WORDS))
        connection.execute(
            tables.chosen.insert().values(round_id=work.round.id, device_id=device_id)
        )
        connection.execute(
            tables.nonces.insert().values(
                device_id=device_id, nonce="n", forget_at=federation.clock.now()
            )
        )
    assert OWN_WORDS in repr(federation.rows())
    assert any(name.startswith("partial/") for name in federation.files())

    erased = erase(federation, device_id)

    assert erased.contributions == Contributions(in_versions=0, under_way=0)
    (kept,) = rows(federation, tables.devices)
    left = {name for name, value in kept.items() if value not in (None, {})}
    assert left == {
        "id",
        "token_hash",
        "enrolled_at",
        "key_id",
        "revoked_at",
        "erased_at",
    }
    assert OWN_WORDS not in repr(federation.rows())
    for table in (tables.nonces, tables.chosen, tables.partial_uploads):
        assert rows(federation, table) == []
    for row in rows(federation, tables.assignments):
        assert row["idempotency_key"] == row["id"]
    assert not any(name.startswith("partial/") for name in federation.files())
    with pytest.raises(Unauthenticated):
        access.authenticate_device(federation.store, token)
    with pytest.raises(LeaseLapsed):
        federation.submit(work, update_body([1.0] * 10))


def test_a_result_that_is_in_no_sum_yet_is_withdrawn(federation: Federation) -> None:
    federation.start(settings=plan(goal=3, minimum=2))
    gone = federation.take_part([100.0] * 10)
    (round_,) = federation.attempts()
    federation.take_part([1.0] * 10)
    assert federation.counts(round_.id) == (0, 2, 0, 0)

    erased = erase(federation, gone.assignment.device_id)

    assert erased.contributions == Contributions(in_versions=0, under_way=0)
    assert federation.counts(round_.id) == (0, 1, 0, 1)
    files = [name for name in federation.files() if name.startswith("updates/")]
    assert len(files) == 1
    assert federation.happenings()[-1] == "result_withdrawn"
    federation.take_part([1.0] * 10)
    federation.take_part([1.0] * 10)
    before = federation.weights(0)
    federation.release(federation.must_claim())
    assert federation.weights(1) - before == pytest.approx([1.0] * 10)


def test_a_result_in_a_sum_goes_with_its_round(federation: Federation) -> None:
    federation.start(settings=plan(goal=2))
    stays = federation.take_part([3.0] * 10, examples=7)
    federation.take_part([1.0] * 10, examples=7)
    claim = federation.must_claim()

    erased = erase(federation, stays.assignment.device_id)

    assert erased.contributions == Contributions(in_versions=0, under_way=1)
    assert {row["examples"] for row in rows(federation, tables.updates)} == {7}
    before = federation.weights(0)
    federation.release(claim)
    assert federation.weights(1) - before == pytest.approx([2.0] * 10)
    rounds.clean_up(federation.store, federation.blobs)
    said = {
        row["assignment_id"]: row["examples"]
        for row in rows(federation, tables.updates)
    }
    assert said.pop(stays.assignment.id) == 1
    assert list(said.values()) == [7]
    again = erase(federation, stays.assignment.device_id)
    assert again.erased_at == erased.erased_at
    assert again.contributions == Contributions(in_versions=1, under_way=0)


def test_what_was_said_in_rounds_that_ended_is_blanked(federation: Federation) -> None:
    federation.start(settings=plan(goal=1))
    work = federation.take_part([1.0] * 10, examples=7)
    federation.release(federation.must_claim())
    rounds.clean_up(federation.store, federation.blobs)

    erase(federation, work.assignment.device_id)

    (update,) = rows(federation, tables.updates)
    assert (update["examples"], update["train_loss"]) == (1, 0.0)


def test_an_evaluation_is_withdrawn(federation: Federation) -> None:
    settings = plan(goal=1, rounds=2, evaluation=EvaluationPlan(goal=2, every=1))
    federation.start(settings=settings)
    federation.take_part()
    federation.release(federation.must_claim())
    work = federation.lease()
    while work.round.kind != "evaluate":
        work = federation.lease()
    federation.evaluate(work)
    assert len(rows(federation, tables.evaluations)) == 1

    erase(federation, work.assignment.device_id)

    assert rows(federation, tables.evaluations) == []
    assert federation.counts(work.round.id)[1] == 0


def test_an_evaluation_went_into_no_version(federation: Federation) -> None:
    settings = plan(goal=1, rounds=1, evaluation=EvaluationPlan(goal=1, every=1))
    federation.start(settings=settings)
    federation.take_part()
    federation.release(federation.must_claim())
    work = federation.lease()
    federation.evaluate(work)
    federation.release(federation.must_claim())
    assert federation.round(work.round.id).phase is Phase.COMMITTED

    erased = erase(federation, work.assignment.device_id)

    assert erased.contributions == Contributions(in_versions=0, under_way=0)


def test_who_joined_a_round_of_secure_aggregation_joins_no_cohort(
    federation: Federation,
) -> None:
    federation.start(settings=secure(goal=6, minimum=5))
    *_, last = gather(federation, 5)
    assert len(rows(federation, tables.secagg_members)) == 5

    erase(federation, last.work.assignment.device_id)

    assert len(rows(federation, tables.secagg_members)) == 4
    (round_,) = federation.attempts()
    assert federation.counts(round_.id)[1] == 4


def test_an_erased_key_does_not_come_back(federation: Federation) -> None:
    key = new_key()
    store, now = federation.store, federation.clock.now()
    device, _ = devices.enrol(store, Applicant(key=key), now=now)

    erase(federation, device.id)

    with pytest.raises(DeviceRevoked):
        devices.enrol(store, Applicant(key=key), now=now)


def test_erasing_is_audited_once_and_by_whom(federation: Federation) -> None:
    device_id = federation.enrol()
    for by in ("ann", "bob"):
        erase(federation, device_id, by)

    found = [
        (row["decision"], row["by"])
        for row in rows(federation, tables.audit)
        if row["subject"] == device_id
    ]
    assert found[1:] == [
        (Decision.DEVICE_REVOKED, "ann"),
        (Decision.DEVICE_ERASED, "ann"),
    ]
    with pytest.raises(DeviceUnknown):
        erase(federation, "none")
    with pytest.raises(DeviceUnknown):
        export(federation, "none")


def test_an_export_has_all_that_is_kept_but_the_hash_of_the_token(
    federation: Federation,
) -> None:
    settings = plan(goal=2, rounds=1)
    federation.start(settings=settings)
    device_id, _ = talkative(federation)
    other = federation.enrol()
    work = federation.lease(device_id)
    keep_part(federation, work, update_body([1.0] * 10))
    federation.submit(work, update_body([1.0] * 10, examples=5))

    shown = export(federation, device_id)

    (device,) = shown["devices"]
    assert device["name"] == OWN_WORDS
    assert "token_hash" not in device
    for table in (tables.assignments, tables.updates, tables.partial_uploads):
        assert len(shown[table.name]) == len(rows(federation, table)) > 0
    assert shown["updates"][0]["examples"] == 5
    assert {row["type"] for row in shown["events"]} == {
        "device_enrolled",
        "place_leased",
        "result_accepted",
    }
    assert [row["decision"] for row in shown["audit"]] == ["device_enrolled"]
    assert work.assignment.id not in json.dumps(export(federation, other))


def test_who_takes_part_in_secret_is_shown_to_the_device_alone(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=2))
    work = federation.take_part()
    device_id = work.assignment.device_id
    with federation.store.engine.begin() as connection:
        connection.execute(tables.rounds.update().values(sampling_rate=0.5))
        connection.execute(
            tables.chosen.insert().values(round_id=work.round.id, device_id=device_id)
        )

    with federation.store.engine.begin() as connection:
        connection.execute(
            tables.partial_uploads.insert().values(
                assignment_id=work.assignment.id,
                sha256="0" * 64,
                coding="identity",
                reserved_bytes=1,
                parts=[],
                is_complete=True,
                revision=0,
            )
        )

    own = export(federation, device_id)
    others = export(federation, device_id, with_secret=False)

    for table in ("assignments", "updates", "chosen", "partial_uploads"):
        assert (len(own[table]), len(others[table])) == (1, 0), table
    federation.clock.advance(3600)
    federation.advance()
    federation.must_claim()
    nothing = Contributions(in_versions=0, under_way=0)
    assert erase(federation, device_id).contributions == nothing


def test_a_result_is_withdrawn_or_summed_as_its_round_closes(
    federation: Federation,
) -> None:
    for number in range(6):
        task = f"task-{number}"
        federation.start(task, settings=plan(goal=2, minimum=1))
        first = federation.take_part()
        last = federation.lease()

        def report(work: Work = last) -> object:
            return federation.submit(work, update_body([1.0] * 10))

        def vanish(work: Work = first) -> object:
            return erase(federation, work.assignment.device_id)

        at_once([report, vanish])

        (round_,) = federation.attempts(task)
        accepted = federation.counts(round_.id, task)[1]
        assert accepted == (2 if round_.phase is Phase.AGGREGATING else 1)
        prefix = f"updates/{round_.id}/"
        kept = [name for name in federation.files() if name.startswith(prefix)]
        named = [row["round_id"] for row in rows(federation, tables.updates)]
        assert len(kept) == named.count(round_.id) == accepted
        tasks.stop(federation.store, task_id=task, now=federation.clock.now())


def test_a_device_that_is_erased_while_it_reports_leaves_nothing_half(
    federation: Federation,
) -> None:
    federation.start(settings=plan(goal=20, minimum=1))
    (round_,) = federation.attempts()
    for _ in range(6):
        work = federation.lease()

        def report(work: Work = work) -> object:
            return federation.submit(work, update_body([1.0] * 10))

        def vanish(work: Work = work) -> object:
            return erase(federation, work.assignment.device_id)

        at_once([report, vanish])

    assert federation.counts(round_.id)[:2] == (0, 0)
    assert rows(federation, tables.updates) == []
    assert not any(name.startswith("updates/") for name in federation.files())
    assert all(row["erased_at"] for row in rows(federation, tables.devices))
