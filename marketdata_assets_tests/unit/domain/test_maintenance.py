from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.maintenance import (
    CATCH_UP,
    LONGEST_PAUSE,
    Days,
    daily_run_days,
    initial_days,
    may_request_again,
    merge_days,
    traded_day,
)
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe

START = date(2020, 1, 1)
STOCK, CRYPTO = AssetClass.STOCK, AssetClass.CRYPTO
MINUTES = {Timeframe.M1}


def at(day: str, hour: int = 2, minute: int = 0) -> datetime:
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) + timedelta(
        hours=hour, minutes=minute
    )


def test_a_daily_run_takes_yesterday_and_the_sessions_that_are_still_revised() -> None:
    # At 02:00 UTC on Friday it is Thursday evening in New York: Tuesday, Wednesday and Thursday are corrected.
    assert daily_run_days({STOCK: MINUTES}, at("2024-06-14"), earliest=START) == Days(
        date(2024, 6, 11), date(2024, 6, 13)
    )
    # Monday morning: the last sessions are Wednesday to Friday, and yesterday is Sunday.
    assert daily_run_days({STOCK: MINUTES}, at("2024-06-17"), earliest=START) == Days(
        date(2024, 6, 12), date(2024, 6, 16)
    )
    # Juneteenth is no session.
    assert daily_run_days({STOCK: MINUTES}, at("2024-06-21"), earliest=START) == Days(
        date(2024, 6, 17), date(2024, 6, 20)
    )


@pytest.mark.parametrize(
    ("asset_class", "started", "first"),
    [
        (STOCK, "2024-06-16", "2024-06-12"),  # Saturday evening in New York: the week has not closed
        (STOCK, "2024-06-17", "2024-06-09"),
        (STOCK, "2024-06-19", "2024-06-09"),  # its Friday is still corrected
        (STOCK, "2024-06-21", "2024-06-17"),
        (CRYPTO, "2024-06-15", "2024-06-13"),
        (CRYPTO, "2024-06-16", "2024-06-09"),  # Sunday, UTC: the week closed two hours ago
    ],
)
def test_a_week_bar_is_requested_by_its_sunday(asset_class: AssetClass, started: str, first: str) -> None:
    days = daily_run_days({asset_class: {Timeframe.W1}}, at(started), earliest=START)
    assert days is not None
    assert days.first == date.fromisoformat(first)


def test_days_that_were_missed_are_made_up_for_as_far_as_a_month() -> None:
    started = at("2024-06-14")
    for requested, first in (
        ("2024-06-13", date(2024, 6, 11)),
        ("2024-06-03", date(2024, 6, 3)),
        ("2021-01-01", date(2024, 6, 13) - CATCH_UP),
    ):
        days = daily_run_days({STOCK: MINUTES}, started, earliest=START, requested_until=at(requested))
        assert days == Days(first, date(2024, 6, 13))


def test_a_daily_run_begins_with_the_first_partition_and_may_have_nothing() -> None:
    collected = {STOCK: MINUTES, CRYPTO: MINUTES}
    assert daily_run_days(collected, at("2024-06-14"), earliest=date(2024, 6, 13)) == Days(
        date(2024, 6, 13), date(2024, 6, 13)
    )
    assert daily_run_days(collected, at("2024-06-14"), earliest=date(2024, 6, 14)) is None
    assert daily_run_days({}, at("2024-06-14"), earliest=START) is None


@given(
    st.dictionaries(st.sampled_from([STOCK, CRYPTO]), st.sets(st.sampled_from(list(Timeframe)), min_size=1)),
    st.integers(0, 60_000).map(lambda hours: at("2020-03-01") + timedelta(hours=hours)),
    st.none() | st.integers(0, 60_000).map(lambda hours: at("2020-03-01") + timedelta(hours=hours)),
)
def test_a_daily_run_holds_the_correction_window_and_ends_yesterday(
    collected: dict[AssetClass, set[Timeframe]], now: datetime, requested: datetime | None
) -> None:
    days = daily_run_days(collected, now, earliest=START, requested_until=requested)
    if not collected:
        assert days is None
        return
    assert days is not None
    assert days.first <= days.last == now.date() - timedelta(days=1)
    for asset_class in collected:
        calendar = calendar_of(asset_class)
        assert days.first <= calendar.local_day(calendar.final_before(now, 3))


def test_a_market_is_looked_at_while_it_is_open_and_until_its_last_bars_have_come() -> None:
    stocks = calendar_of(STOCK)
    friday = date(2024, 6, 14)
    assert traded_day(stocks, at("2024-06-14", 13, 15)) is None
    assert traded_day(stocks, at("2024-06-14", 13, 30)) == friday
    assert traded_day(stocks, at("2024-06-14", 20, 30)) == friday
    assert traded_day(stocks, at("2024-06-14", 20, 45)) is None
    assert traded_day(stocks, at("2024-06-15", 15)) is None
    # A half day, and the hour of winter time.
    assert traded_day(stocks, at("2024-11-29", 18, 15)) == date(2024, 11, 29)
    assert traded_day(stocks, at("2024-11-29", 19)) is None
    assert traded_day(calendar_of(CRYPTO), at("2024-06-15", 3)) == date(2024, 6, 15)


def test_a_new_series_gets_a_year_and_of_minutes_two_weeks() -> None:
    series = [Series.parse(key) for key in ("AAPL:1d", "AAPL:1m", "MSFT:1m", "MSFT:1h")]
    today = date(2024, 6, 14)
    days = initial_days(series, today, days=365, minute_days=14, earliest=START)
    year, two_weeks = Days(date(2023, 6, 16), today), Days(date(2024, 6, 1), today)
    # The minutes of MSFT are fetched for its hours anyway.
    assert [days[member] for member in series] == [year, two_weeks, year, year]
    clipped = initial_days(series, today, days=365, minute_days=14, earliest=date(2024, 6, 10))
    assert set(clipped.values()) == {Days(date(2024, 6, 10), today)}


def test_pauses_double_up_to_a_day_and_end() -> None:
    requested = at("2024-06-14")

    def waits(attempts: int) -> timedelta | None:
        for hours in range(100):
            later = timedelta(hours=hours)
            if may_request_again(attempts, requested, requested + later, pause=timedelta(hours=1), limit=8):
                return later
        return None

    assert [waits(attempts) for attempts in (0, 1, 2, 3)] == [timedelta(hours=n) for n in (0, 1, 2, 4)]
    assert waits(7) == LONGEST_PAUSE
    assert waits(8) is None
    assert may_request_again(3, None, requested, pause=timedelta(hours=1), limit=8)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20)), max_size=12),
    st.integers(0, 10),
)
def test_stretches_hold_every_day_and_lie_apart(spans: list[tuple[int, int]], bridge: int) -> None:
    days = [Days(START + timedelta(days=n), START + timedelta(days=n + length)) for n, length in spans]
    merged = merge_days(days, timedelta(days=bridge))
    for first, last in days:
        assert sum(stretch.first <= first and last <= stretch.last for stretch in merged) == 1
    for stretch, other in pairwise(merged):
        assert other.first - stretch.last > timedelta(days=bridge)
    assert {stretch.first for stretch in merged} <= {stretch.first for stretch in days}
    assert {stretch.last for stretch in merged} <= {stretch.last for stretch in days}
