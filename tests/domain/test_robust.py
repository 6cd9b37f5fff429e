import numpy as np
import numpy.typing as npt
import pytest

from coordinator.domain import robust

Rows = npt.NDArray[np.float64]


def gram(*rows: list[float]) -> Rows:
    matrix = np.array(rows, np.float64)
    return matrix @ matrix.T


def cohort(honest: int, liars: int, size: int = 40, seed: int = 0) -> Rows:
    """Honest updates around ones; liars send the opposite, ten times as long."""
    rng = np.random.default_rng(seed)
    rows = 1 + 0.3 * rng.standard_normal((honest + liars, size))
    rows[honest:] *= -10
    return rows


@pytest.mark.parametrize(
    ("count", "trim", "cut"),
    [(10, 0.1, 1), (9, 0.1, 0), (50, 0.2, 10), (100, 0.29, 29), (3, 0.49, 1)],
)
def test_a_trimmed_mean_leaves_out_whole_values(
    count: int, trim: float, cut: int
) -> None:
    assert robust.cut_of(count, trim) == cut


@pytest.mark.parametrize(("count", "cut"), [(1, 0), (2, 0), (3, 1), (4, 1), (7, 3)])
def test_a_median_is_the_middle_one_or_two(count: int, cut: int) -> None:
    assert robust.middle_of(count) == cut


def test_krum_by_hand() -> None:
    # On a line, with one liar: each is scored by its two nearest of four others.
    # 0: 1 + 4, 1: 1 + 1, 2: 1 + 4, 4: 4 + 9, 100: far.
    products = gram([0.0], [1.0], [2.0], [4.0], [100.0])
    weights = robust.krum_weights(products, byzantine=1, keep=1)
    assert weights.tolist() == [0, 1, 0, 0, 0]
    weights = robust.krum_weights(products, byzantine=1, keep=3)
    assert weights.tolist() == [1, 1, 1, 0, 0]
    weights = robust.krum_weights(products, byzantine=1, keep=4)
    assert weights.tolist() == [1, 1, 1, 1, 0]


def test_of_equal_scores_the_first_wins() -> None:
    weights = robust.krum_weights(gram(*[[1.0, 2.0]] * 7), byzantine=2, keep=2)
    assert weights.tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_krum_needs_more_than_twice_as_many_as_lie() -> None:
    with pytest.raises(ValueError, match="byzantine 2 needs 7 updates, got 6"):
        robust.krum_weights(np.eye(6), byzantine=2, keep=1)


@pytest.mark.parametrize(("honest", "liars"), [(5, 1), (24, 10), (45, 5)])
def test_multi_krum_keeps_no_liar(honest: int, liars: int) -> None:
    rows = cohort(honest, liars)
    weights = robust.krum_weights(rows @ rows.T, byzantine=liars, keep=honest)
    assert weights[:honest].tolist() == [1.0] * honest
    assert weights[honest:].tolist() == [0.0] * liars


def test_krum_is_what_its_definition_says() -> None:
    rows = cohort(11, 3, seed=4)
    scores = []
    for one in rows:
        distances = sorted(float(((one - other) ** 2).sum()) for other in rows)
        scores.append(sum(distances[1 : 1 + len(rows) - 3 - 2]))  # not to itself
    weights = robust.krum_weights(rows @ rows.T, byzantine=3, keep=4)
    assert set(np.flatnonzero(weights)) == set(np.argsort(scores)[:4])


def test_the_geometric_median_on_a_line_is_the_median() -> None:
    weights = robust.geometric_median_weights(
        gram([0.0], [1.0], [5.0], [6.0], [1000.0]), iterations=1000
    )
    assert weights @ [0, 1, 5, 6, 1000] == pytest.approx(5, abs=1e-3)
    assert weights.sum() == pytest.approx(1)


def test_the_geometric_median_of_a_cross_is_its_middle() -> None:
    # Any two segments of the hull cross there, however long the arms are.
    rows = np.array([[0.0, 5.0], [0.0, -1.0], [3.0, 0.0], [-100.0, 0.0]])
    weights = robust.geometric_median_weights(rows @ rows.T, iterations=2000)
    np.testing.assert_allclose(weights @ rows, [0, 0], atol=1e-3)


def test_the_geometric_median_is_weiszfelds_on_the_vectors_themselves() -> None:
    rows = cohort(12, 3, seed=2)
    point = rows.mean(axis=0)
    for _ in range(7):
        inverse = 1 / np.linalg.norm(rows - point, axis=1)
        point = inverse @ rows / inverse.sum()
    weights = robust.geometric_median_weights(rows @ rows.T, iterations=7)
    np.testing.assert_allclose(weights @ rows, point, rtol=1e-9)


@pytest.mark.parametrize("iterations", [1, 100])
def test_equal_updates_weigh_the_same(iterations: int) -> None:
    for row in ([1.0, 2.0], [0.0, 0.0]):
        weights = robust.geometric_median_weights(
            gram(row, row, row), iterations=iterations
        )
        assert weights.tolist() == pytest.approx([1 / 3] * 3)


def test_updates_of_enormous_length_are_borne() -> None:
    rows = cohort(16, 4)
    rows[16:] *= 1e12
    weights = robust.geometric_median_weights(rows @ rows.T, iterations=100)
    assert np.abs(weights @ rows - 1).max() < 0.6
