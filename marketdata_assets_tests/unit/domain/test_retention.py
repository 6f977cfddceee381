from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of, next_month
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.retention import (
    DEFAULT_RETENTION,
    SHORTEST_DAYS,
    PruningPlan,
    first_kept_days,
    kept_days,
    parse_retention,
)
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

CALENDARS = {"AAPL": calendar_of(AssetClass.STOCK), "BTC-USD": calendar_of(AssetClass.CRYPTO)}
CUT = date(2024, 3, 11)
"""The clocks in New York changed on the day before."""
symbols = st.sampled_from(sorted(CALENDARS))
timeframes = st.sampled_from(list(Timeframe))
days = st.dates(date(2020, 1, 1), date(2025, 12, 31))
moments = st.datetimes(datetime(2020, 1, 1), datetime(2025, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - naive by contract


def plan_of(timeframe: Timeframe, before: date) -> PruningPlan:
    return PruningPlan(timeframe, before, CALENDARS)


def test_minutes_are_kept_for_thirty_days_and_nothing_else_is_pruned() -> None:
    assert dict(DEFAULT_RETENTION) == {Timeframe.M1: 30}


def test_days_are_given_by_timeframe() -> None:
    assert parse_retention("1m:30, 5m:365") == {Timeframe.M1: 30, Timeframe.M5: 365}
    assert parse_retention("1d:400,1w:400") == {Timeframe.D1: 400, Timeframe.W1: 400}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30", "write TIMEFRAME:DAYS"),
        ("1m:many", "write TIMEFRAME:DAYS"),
        ("1m:-30", "write TIMEFRAME:DAYS"),
        ("2m:30", "unknown timeframe"),
        ("1m:30,1m:60", "twice"),
        ("1m:0", "too few"),
        ("1m:1000000", "more than any history"),
        ("1d:365", "keep 1d bars as long as 1w bars"),
        ("1d:365,1w:400", "keep 1d bars as long as 1w bars"),
        (" , ", "no timeframe given"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_retention(text)


def test_the_sessions_that_are_asked_for_again_are_always_kept() -> None:
    assert kept_days(SHORTEST_DAYS) == SHORTEST_DAYS
    with pytest.raises(ConfigurationError, match="14 or more"):
        kept_days(SHORTEST_DAYS - 1)


def test_the_first_day_that_stays_is_counted_from_today_in_utc() -> None:
    now = datetime(2024, 3, 31, 23, 59, tzinfo=UTC)
    assert first_kept_days({Timeframe.M1: 30}, now) == {Timeframe.M1: date(2024, 3, 1)}


@given(before=days, first_year=st.integers(2019, 2024))
def test_a_month_goes_as_a_whole_only_when_no_market_keeps_a_moment_of_it(
    before: date, first_year: int
) -> None:
    months = [datetime(first_year, month, 1, tzinfo=UTC) for month in (12, 3, 1, 2, 11)]
    plan = plan_of(Timeframe.M1, before)
    finished = plan.finished_months(months)
    assert finished == sorted(finished)
    for month in months:
        is_over = all(next_month(month) <= plan.cut(symbol) for symbol in CALENDARS)
        assert (month in finished) == is_over
    for symbol in CALENDARS:
        for month in finished:
            assert next_month(month) <= plan.end_of_month(symbol, month) <= plan.cut(symbol)
    assert plan_of(Timeframe.M5, before).finished_months(months) == []


@given(
    symbol=symbols,
    before=days,
    first=moments,
    width=st.none() | st.timedeltas(timedelta(0), timedelta(days=60)),
)
@example(symbol="AAPL", before=CUT, first=datetime(2024, 3, 1, 15, tzinfo=UTC), width=timedelta(hours=1))
def test_a_batch_removes_whole_local_days_at_least_one_and_none_that_stays(
    symbol: str, before: date, first: datetime, width: timedelta | None
) -> None:
    plan, calendar = plan_of(Timeframe.M1, before), CALENDARS[symbol]
    beyond = None if width is None else first + width
    cut = plan.cut(symbol)
    if max(first, beyond or first) >= cut:
        return
    until = plan.end_of_batch(symbol, first, beyond)
    assert until == calendar.day_start(calendar.local_day(until))
    assert first < until <= cut
    if beyond is None:
        assert until == cut
    elif calendar.local_day(beyond) > calendar.local_day(first):
        assert until <= beyond


@given(
    symbol=symbols,
    timeframe=timeframes,
    until=days,
    length=st.timedeltas(timedelta(minutes=1), timedelta(days=20)),
)
def test_what_stays_of_a_gap_are_the_slots_of_kept_days(
    symbol: str, timeframe: Timeframe, until: date, length: timedelta
) -> None:
    calendar = CALENDARS[symbol]
    start = calendar.day_start(until)
    end = start + length
    left = plan_of(timeframe, until).shorten_gap(symbol, start, end)
    slots = expected_slots(timeframe, Window(start, end), calendar, datetime(2030, 1, 1, tzinfo=UTC))
    if not len(slots):
        assert left is None
        return
    assert left is not None
    assert start <= left.start < end
    assert left.missing_bars == len(slots)
    assert left.day == calendar.local_day(left.start)
