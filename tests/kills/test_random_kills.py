"""A few random kills; ``python -m tests.kills`` makes hundreds of them."""

import pathlib

import pytest

from tests.kills.cluster import Victims
from tests.kills.ordeal import go_through

pytestmark = [pytest.mark.slow, pytest.mark.tf]
SEED = 24  # of its first four kills, no two strike the same


def test_random_kills_lose_nothing_and_double_nothing(
    tmp_path: pathlib.Path, empty_database_url: str
) -> None:
    outcome = go_through(
        tmp_path,
        database_url=empty_database_url,
        kills=4,
        seed=SEED,
        tell=lambda _, __: None,
    )

    assert {kill.victims for kill in outcome.kills} == set(Victims) - {Victims.OWN}
