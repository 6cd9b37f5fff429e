import dataclasses
import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.aggregation import (
    AcceptedUpdate,
    Score,
    fold_weight,
    in_fold_order,
    train_score,
)
from coordinator.protocol.encodings import MAX_EXAMPLES
from coordinator.protocol.plan_rounds import AsynchronousPlan

METRIC = st.floats(0, 1e6)


def accepted(
    name: str, sha256: str, *, examples: int = 1, loss: float = 0.0, hits: float = 0.0
) -> AcceptedUpdate:
    return AcceptedUpdate(
        assignment_id=name,
        blob=f"blob-{name}",
        sha256=sha256,
        size_bytes=100,
        examples=examples,
        train_loss=loss,
        train_accuracy=hits,
    )


def test_updates_are_summed_in_the_order_of_their_digests() -> None:
    first, second, third = (
        accepted("z", "0a"),
        accepted("a", "0b"),
        accepted("b", "ff"),
    )
    for arrival in itertools.permutations([first, second, third]):
        assert in_fold_order(arrival) == [first, second, third]


def test_names_decide_between_equal_bodies_alone() -> None:
    twins = [accepted("b", "0a"), accepted("a", "0a")]
    assert [update.assignment_id for update in in_fold_order(twins)] == ["a", "b"]


def test_the_order_does_not_depend_on_how_devices_are_named() -> None:
    updates = [accepted(name, sha) for name, sha in zip("abc", "312", strict=True)]
    renamed = [
        dataclasses.replace(update, assignment_id=name)
        for update, name in zip(updates, "cab", strict=True)
    ]
    order = [update.sha256 for update in in_fold_order(updates)]
    assert order == [update.sha256 for update in in_fold_order(renamed)] == list("123")


def test_the_score_is_weighted_by_examples() -> None:
    score = train_score(
        [
            accepted("a", "0a", examples=1, loss=2.0, hits=0.0),
            accepted("b", "0b", examples=3, loss=1.0, hits=1.0),
        ]
    )
    # Of four examples: losses 2 and three times 1, none right and three right.
    assert score == Score(examples=4, loss=1.25, accuracy=0.75)


def test_no_update_has_no_score() -> None:
    assert train_score([]) is None
    assert in_fold_order([]) == []


@given(
    st.lists(st.tuples(st.integers(1, 1 << 28), METRIC, st.floats(0, 1)), min_size=2),
    st.data(),
)
def test_who_came_first_changes_no_bit_of_the_score(
    metrics: list[tuple[int, float, float]], data: st.DataObject
) -> None:
    updates = [
        accepted(str(i), f"{i:064x}", examples=examples, loss=loss, hits=hits)
        for i, (examples, loss, hits) in enumerate(metrics)
    ]
    score = train_score(updates)
    assert score is not None
    arrival = data.draw(st.permutations(updates))
    assert train_score(arrival) == score
    assert score.examples == sum(examples for examples, _, _ in metrics)
    assert 0 <= score.accuracy <= 1 + 1e-12


def stale(staleness: int, *, examples: int) -> AcceptedUpdate:
    return dataclasses.replace(
        accepted("a", "0a", examples=examples), staleness=staleness
    )


def test_staleness_divides_the_weight_by_its_root() -> None:
    plan = AsynchronousPlan()
    assert fold_weight(stale(0, examples=12), plan) == 12
    assert fold_weight(stale(3, examples=12), plan) == 6
    assert (
        fold_weight(stale(3, examples=12), AsynchronousPlan(staleness_exponent=1)) == 3
    )
    assert fold_weight(stale(3, examples=12), None) == 12


@given(
    st.integers(1, MAX_EXAMPLES),
    st.integers(0, 1_000_000),
    st.floats(0, 10, allow_nan=False),
)
def test_every_weight_times_a_float32_is_exact_in_float64(
    examples: int, staleness: int, exponent: float
) -> None:
    plan = AsynchronousPlan(staleness_exponent=exponent)
    weight = fold_weight(stale(staleness, examples=examples), plan)
    most = 2**24 - 1  # a float32's significant bits, all of them set
    assert weight > 0
    assert Fraction(weight * most) == Fraction(weight) * most
