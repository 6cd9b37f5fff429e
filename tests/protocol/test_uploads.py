"""Fields of resumable uploads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.protocol import uploads


@pytest.mark.parametrize(
    ("value", "flag", "count"),
    [
        (None, None, None),
        ("", None, None),
        ("?1", True, None),
        ("?0", False, None),
        (" ?1 ", True, None),
        ("?1;later=2", True, None),
        ("?2", None, None),
        ("true", None, None),
        ("1", None, 1),
        ("0", None, 0),
        ("-0", None, 0),
        ("-1", None, None),
        ("1.0", None, None),
        ('"1"', None, None),
        ("1, 2", None, None),
        ("999999999999999", None, 999_999_999_999_999),
        ("1000000000000000", None, None),
        ("\N{SNOWMAN}", None, None),
    ],
)
def test_values_of_another_type_are_as_good_as_absent(
    value: str | None,
    flag: bool | None,  # noqa: FBT001 - a column of the table
    count: int | None,
) -> None:
    assert uploads.read_flag(value) is flag
    assert uploads.read_count(value) == count


@given(st.text())
def test_any_text_is_read_or_passed_over(value: str) -> None:
    assert uploads.read_flag(value) in {None, True, False}
    count = uploads.read_count(value)
    assert count is None or count >= 0


def test_what_is_written_is_read() -> None:
    for flag in (True, False):
        assert uploads.read_flag(uploads.write_flag(flag)) is flag
    assert uploads.write_limit(max_size=9, max_age=0) == "max-size=9, max-age=0"
