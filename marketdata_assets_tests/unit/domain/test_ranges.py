from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from dagster import MultiPartitionKey
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.defs.partitions import day_by_series, partition_key
from marketdata_assets.domain import ranges
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.partitions import (
    DAY,
    PARTITION,
    RANGE_END,
    RANGE_START,
    SERIES,
    Rectangle,
    days_by_series,
    islands,
    parse_key,
)
from marketdata_assets.domain.ranges import range_runs
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import at

FIRST, LAST = date(2024, 1, 2), date(2024, 1, 11)
DAYS = 10


def series(*keys: str) -> tuple[Series, ...]:
    return tuple(map(Series.parse, keys))


def members(run: Rectangle) -> list[str]:
    return [member.key for member in run.series]


@pytest.mark.parametrize("key", ["AAPL:1m", "BRK.B:1d", "BTC-USD:1w"])
def test_a_key_is_the_day_and_the_series(key: str) -> None:
    [only] = series(key)
    partition = partition_key(FIRST, only)
    assert partition == f"2024-01-02|{key}"
    assert isinstance(partition, MultiPartitionKey)
    assert partition.keys_by_dimension == {DAY: "2024-01-02", SERIES: key}
    assert parse_key(partition) == (FIRST, only)


def test_a_key_of_no_series_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        parse_key("2024-01-02|AAPL")


def test_keys_are_grouped_by_series() -> None:
    keys = ["2024-01-02|AAPL:1m", "2024-01-02|MSFT:1m", "2024-01-03|AAPL:1m"]
    assert days_by_series(keys) == {
        Series("AAPL", Timeframe.M1): [FIRST, FIRST + timedelta(days=1)],
        Series("MSFT", Timeframe.M1): [FIRST],
    }


def test_the_day_sorts_before_the_series() -> None:
    partitions = day_by_series(FIRST)
    assert [dimension.name for dimension in partitions.partitions_defs] == [DAY, SERIES]
    assert partitions.time_window_dimension.name == DAY
    assert partitions.time_window_partitions_def.start.date() == FIRST


@pytest.mark.parametrize(
    ("wanted", "ranges"),
    [
        ("", []),
        ("a", [("a", "a")]),
        ("abcde", [("a", "e")]),
        ("abde", [("a", "b"), ("d", "e")]),
        ("ace", [("a", "a"), ("c", "c"), ("e", "e")]),
        ("ez", [("e", "e")]),
    ],
)
def test_islands(wanted: str, ranges: list[tuple[str, str]]) -> None:
    assert islands("abcde", set(wanted)) == ranges


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_islands_hold_what_is_wanted_in_the_fewest_ranges(order: list[int], wanted: set[int]) -> None:
    ordered = list(map(str, order))
    ranges = islands(ordered, set(map(str, wanted)))
    stored = [key for begin, end in ranges for key in ordered[ordered.index(begin) : ordered.index(end) + 1]]
    assert stored == [key for key in ordered if int(key) in wanted]
    for (_, end), (begin, _) in pairwise(ranges):
        assert ordered.index(begin) - ordered.index(end) > 1


ORDERED = ["AAPL:1m", "AAPL:1d", "MSFT:1m", "MSFT:1d", "BTC-USD:1m"]


def test_neighbouring_series_are_one_range_run() -> None:
    [run] = range_runs(ORDERED, series("MSFT:1m", "AAPL:1m", "AAPL:1d"), FIRST, LAST)
    assert members(run) == ["AAPL:1m", "AAPL:1d", "MSFT:1m"]
    assert run.tags == {RANGE_START: "2024-01-02|AAPL:1m", RANGE_END: "2024-01-11|MSFT:1m"}


def test_series_that_are_not_neighbours_are_runs_of_their_own() -> None:
    runs = range_runs(ORDERED, series("AAPL:1m", "MSFT:1m", "BTC-USD:1m"), FIRST, LAST)
    assert list(map(members, runs)) == [["AAPL:1m"], ["MSFT:1m"], ["BTC-USD:1m"]]
    assert {(run.first, run.last) for run in runs} == {(FIRST, LAST)}


def test_nothing_wanted_is_no_run() -> None:
    assert range_runs(ORDERED, (), FIRST, LAST) == []


@pytest.mark.parametrize(
    ("limit", "runs"),
    [
        (5 * DAYS, [["AAPL:1m", "AAPL:1d", "MSFT:1m", "MSFT:1d", "BTC-USD:1m"]]),
        (5 * DAYS - 1, [["AAPL:1m", "AAPL:1d", "MSFT:1m", "MSFT:1d"], ["BTC-USD:1m"]]),
        (3 * DAYS, [["AAPL:1m", "AAPL:1d"], ["MSFT:1m", "MSFT:1d", "BTC-USD:1m"]]),
        # One symbol may exceed the limit: its timeframes share their requests.
        (1, [["AAPL:1m", "AAPL:1d"], ["MSFT:1m", "MSFT:1d"], ["BTC-USD:1m"]]),
    ],
)
def test_a_large_rectangle_is_divided_between_symbols(limit: int, runs: list[list[str]]) -> None:
    found = range_runs(ORDERED, series(*ORDERED), FIRST, LAST, max_partitions=limit)
    assert list(map(members, found)) == runs


@given(
    order=st.permutations([f"{symbol}:{timeframe}" for symbol in "ABCD" for timeframe in ("1m", "1h", "1d")]),
    wanted=st.sets(st.integers(0, 11)),
    limit=st.integers(1, 60),
)
def test_runs_hold_every_wanted_series_once_and_what_lies_between_those_of_a_symbol(
    order: list[str], wanted: set[int], limit: int
) -> None:
    chosen = [order[place] for place in wanted]
    runs = range_runs(order, series(*chosen), FIRST, LAST, max_partitions=limit)
    stored = [key for run in runs for key in members(run)]
    indices = sorted(wanted)
    between = {
        index
        for before, after in pairwise(indices)
        for index in range(before, after)
        if len({Series.parse(key).symbol for key in order[before : after + 1]}) == 1
    }
    assert stored == [key for index, key in enumerate(order) if index in wanted | between]
    for run in runs:
        # Dagster takes everything between the two ends of a range.
        begin, end = order.index(members(run)[0]), order.index(members(run)[-1])
        assert members(run) == order[begin : end + 1]
        assert len(run.series) * DAYS <= limit or len({member.symbol for member in run.series}) == 1


def test_a_run_is_about_what_its_tags_name() -> None:
    [only] = series("MSFT:1d")
    assert Rectangle.from_tags({PARTITION: partition_key(FIRST, only)}, ORDERED) == Rectangle(
        FIRST, FIRST, (only,)
    )
    assert Rectangle.from_tags({"dagster/job_name": "bars"}, ORDERED) is None


@given(st.permutations(ORDERED), st.integers(0, 4), st.integers(0, 4))
def test_a_range_is_about_every_series_between_its_ends_in_dagsters_order(
    order: list[str], position: int, other: int
) -> None:
    begin, end = sorted((position, other))
    run = Rectangle(FIRST, LAST, series(*order[begin : end + 1]))
    found = Rectangle.from_tags(run.tags, order)
    assert found == Rectangle(FIRST, LAST, run.series)
    assert found.size == DAYS * len(run.series)


def test_a_range_that_ends_with_an_untracked_series_is_refused() -> None:
    tags = Rectangle(FIRST, LAST, series("AAPL:1m", "MSFT:1m")).tags
    with pytest.raises(ConfigurationError, match="MSFT:1m was untracked during the run"):
        Rectangle.from_tags(tags, ["AAPL:1m", "AAPL:1d"])


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        ((None, None, None), (date(2024, 7, 2), date(2024, 7, 2))),
        ((3, None, None), (date(2024, 6, 30), date(2024, 7, 2))),
        ((3, None, date(2024, 5, 3)), (date(2024, 5, 1), date(2024, 5, 3))),
        ((None, date(2024, 5, 1), None), (date(2024, 5, 1), date(2024, 7, 2))),
        ((None, date(2024, 5, 1), date(2024, 5, 3)), (date(2024, 5, 1), date(2024, 5, 3))),
    ],
)
def test_the_days_of_a_backfill(
    arguments: tuple[int | None, date | None, date | None], window: tuple[date, date]
) -> None:
    assert ranges.day_window(*arguments, now=at("2024-07-02T23:59")) == window
