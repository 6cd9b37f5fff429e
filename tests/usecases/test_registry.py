"""Versions over all tasks of a model, and the names they are given."""

import pytest

from coordinator.domain.aggregation import Score
from coordinator.domain.errors import ModelUnknown, TagUnknown, VersionUnknown
from coordinator.protocol.plan_server import ServerPlan
from coordinator.usecases import models, registry, tasks
from tests.support.federation import Federation, plan


def publish(federation: Federation, *deltas: float) -> None:
    """Start a task of one device a round, and commit a round for each delta."""
    federation.start(settings=plan(goal=1, server=ServerPlan(momentum=0.5)))
    for delta in deltas:
        federation.take_part([delta] * 10)
        federation.release(federation.must_claim())


def tag(federation: Federation, name: str, number: int) -> registry.Tagged:
    return registry.set_tag(
        federation.store,
        model="tiny",
        name=name,
        number=number,
        now=federation.clock.now(),
    )


def test_versions_are_listed_with_origin_scores_and_tags(
    federation: Federation,
) -> None:
    publish(federation, 1.0, -2.0)
    score = Score(examples=10, loss=0.5, accuracy=0.9)
    tasks.record_held_out(
        federation.store,
        task_id="task",
        number=1,
        score=score,
        now=federation.clock.now(),
    )
    tag(federation, "best", 1)
    tag(federation, "also", 1)

    entries = registry.list_versions(federation.store, model="tiny", limit=10)

    assert [entry.version.number for entry in entries] == [2, 1, 0]
    origins = [
        (entry.origin.round_number, entry.origin.base_version) for entry in entries
    ]
    assert origins == [(2, 1), (1, 0), (None, None)]
    assert [entry.origin.is_current for entry in entries] == [True, False, False]
    assert [entry.tags for entry in entries] == [(), ("also", "best"), ()]
    assert [entry.held_out for entry in entries] == [None, score, None]
    assert entries[2].train is None
    assert entries[0].train is not None


def test_a_version_says_how_long_its_aggregate_was(federation: Federation) -> None:
    publish(federation, 1.0, -2.0)

    entries = registry.list_versions(federation.store, model="tiny", limit=10)

    norms = [entry.version.aggregate_norm for entry in entries]
    assert norms[2] is None
    assert norms[1] == pytest.approx(10**0.5)
    assert norms[0] == pytest.approx(2 * 10**0.5)


def test_versions_are_listed_in_parts(federation: Federation) -> None:
    publish(federation, 1.0, 1.0)

    entries = registry.list_versions(federation.store, model="tiny", before=2, limit=1)

    assert [entry.version.number for entry in entries] == [1]
    assert (
        registry.list_versions(federation.store, model="tiny", before=0, limit=1) == []
    )
    with pytest.raises(ModelUnknown):
        registry.list_versions(federation.store, model="none", limit=1)


def test_a_tag_points_to_one_version_until_it_is_set_anew(
    federation: Federation,
) -> None:
    publish(federation, 1.0)
    tag(federation, "production", 0)
    federation.clock.advance(5)

    moved = tag(federation, "production", 1)

    found = registry.find_tag(federation.store, model="tiny", name="production")
    assert found == moved
    assert (found.version.number, found.tag.set_at) == (1, federation.clock.now())
    (view,) = models.list_models(federation.store)
    assert view.tags == {"production": 1}
    last = tasks.list_events(federation.store, after=0, limit=1000)[-1]
    assert last.happening == "tag_set"
    assert last.data == {
        "model": "tiny",
        "tag": "production",
        "version": 1,
        "before": 0,
    }


def test_a_tag_that_points_there_already_changes_nothing(
    federation: Federation,
) -> None:
    publish(federation)
    first = tag(federation, "production", 0)
    before = federation.state()
    federation.clock.advance(5)

    assert tag(federation, "production", 0) == first

    assert federation.state() == before


def test_a_tag_is_taken_away_and_its_version_stays(federation: Federation) -> None:
    publish(federation)
    tag(federation, "old", 0)
    now = federation.clock.now()

    registry.remove_tag(federation.store, model="tiny", name="old", now=now)

    with pytest.raises(TagUnknown, match="'tiny' has no tag 'old'"):
        registry.find_tag(federation.store, model="tiny", name="old")
    assert models.find_version(federation.store, "tiny", 0)[1].number == 0
    assert federation.happenings()[-1] == "tag_removed"


def test_tags_of_what_is_not_there_are_refused(federation: Federation) -> None:
    publish(federation)
    before = federation.state()
    now = federation.clock.now()

    with pytest.raises(VersionUnknown):
        tag(federation, "production", 7)
    with pytest.raises(TagUnknown):
        registry.remove_tag(federation.store, model="tiny", name="none", now=now)
    with pytest.raises(ModelUnknown):
        registry.find_tag(federation.store, model="none", name="production")

    assert federation.state() == before
