from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.windows import Window, difference, union
from marketdata_assets_tests.unit.frames import at, window

START = datetime(2024, 3, 10, tzinfo=UTC)
SPAN = 40


def of_minutes(start: int, end: int) -> Window:
    return Window(START + timedelta(minutes=start), START + timedelta(minutes=end))


def minutes_of(windows: list[Window]) -> set[int]:
    """The model: a set of minutes."""
    return {
        minute
        for part in windows
        for minute in range(
            int((part.start - START) / timedelta(minutes=1)), int((part.end - START) / timedelta(minutes=1))
        )
    }


some_windows = st.lists(
    st.tuples(st.integers(0, SPAN), st.integers(1, 12)).map(lambda pair: of_minutes(pair[0], sum(pair))),
    max_size=10,
)


def assert_in_order_and_apart(windows: list[Window]) -> None:
    assert all(earlier.end < later.start for earlier, later in pairwise(windows))


@given(some_windows)
def test_union_holds_the_same_minutes_in_windows_that_do_not_touch(windows: list[Window]) -> None:
    merged = union(windows)
    assert minutes_of(merged) == minutes_of(windows)
    assert_in_order_and_apart(merged)
    assert union(merged) == merged


@given(some_windows, some_windows)
def test_difference_holds_the_minutes_of_one_and_not_the_other(
    windows: list[Window], removed: list[Window]
) -> None:
    remaining = difference(windows, removed)
    assert minutes_of(remaining) == minutes_of(windows) - minutes_of(removed)
    assert_in_order_and_apart(remaining)


@given(some_windows.filter(bool), some_windows.filter(bool))
def test_intersection_contains_and_covers_agree_with_the_minutes(
    windows: list[Window], others: list[Window]
) -> None:
    first, other = windows[0], others[0]
    common = first.intersection(other)
    assert minutes_of([] if common is None else [common]) == minutes_of([first]) & minutes_of([other])
    assert first.covers(other) == (minutes_of([first]) >= minutes_of([other]))
    assert {minute for minute in range(SPAN + 12) if first.contains(START + timedelta(minutes=minute))} == (
        minutes_of([first])
    )


def test_adjacent_windows_become_one() -> None:
    assert union([of_minutes(5, 9), of_minutes(1, 5)]) == [of_minutes(1, 9)]


def test_one_hole_is_cut_out_of_every_window_that_it_touches() -> None:
    assert difference([of_minutes(0, 10), of_minutes(12, 20)], [of_minutes(8, 14)]) == [
        of_minutes(0, 8),
        of_minutes(14, 20),
    ]


@pytest.mark.parametrize(
    "edge",
    [
        datetime(2024, 3, 10),  # noqa: DTZ001 - a naive edge is what is refused
        datetime(2024, 3, 10, tzinfo=ZoneInfo("America/New_York")),
        datetime(2024, 3, 10, tzinfo=timezone(timedelta(0), "GMT")),
    ],
)
def test_an_edge_that_is_not_utc_is_refused(edge: datetime) -> None:
    with pytest.raises(ValueError, match="aware UTC"):
        Window(START - timedelta(days=1), edge)
    with pytest.raises(ValueError, match="aware UTC"):
        Window(edge, START + timedelta(days=1))


@pytest.mark.parametrize("end", [START, START - timedelta(microseconds=1)])
def test_an_empty_or_reversed_window_is_refused(end: datetime) -> None:
    with pytest.raises(ValueError, match="ends after it starts"):
        Window(START, end)


def test_a_window_is_half_open_and_prints_in_utc() -> None:
    hours = window("2024-03-10T00:00", "2024-03-10T06:30")
    assert hours.contains(hours.start)
    assert not hours.contains(hours.end)
    assert hours.duration == timedelta(hours=6, minutes=30)
    assert str(hours) == "2024-03-10T00:00Z..2024-03-10T06:30Z"
    assert hours.intersection(Window(hours.end, at("2024-03-11T00:00"))) is None
