from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.grid import grid_fault
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import as_bars, at, vendor_bars

if TYPE_CHECKING:
    from collections.abc import Sequence

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
EVER = date(2020, 1, 1), date(2026, 12, 31)


def fault(timeframe: str, moment: datetime, base_bars: int, calendar: TradingCalendar = XNYS) -> str | None:
    bar = pl.DataFrame({"time": [moment], "base_bars": [base_bars]}, schema_overrides={"time": UTC_TIME})
    found: str | None = bar.select(grid_fault(Timeframe(timeframe), calendar, *EVER)).item()
    return found


@pytest.mark.parametrize(
    ("timeframe", "moment", "base_bars", "expected"),
    [
        ("1m", "2024-07-02T14:30", 1, None),
        ("1m", "2024-07-02T14:30:01", 1, "off_grid"),
        ("1m", "2024-07-02T14:30", 2, "too_many_base_bars"),
        ("1m", "2024-07-02T08:00", 1, None),  # before the market opens, and traded all the same
        ("1m", "2024-07-06T14:30", 1, "no_session"),  # a Saturday
        ("1m", "2024-07-04T14:30", 1, "no_session"),
        ("5m", "2024-07-02T14:32", 1, "off_grid"),
        ("5m", "2024-07-02T14:30", 5, None),
        ("5m", "2024-07-02T14:30", 6, "too_many_base_bars"),
        ("1h", "2024-07-02T13:30", 30, "off_grid"),  # buckets align to midnight, not to the open
        ("1h", "2024-07-02T14:00", 0, "too_few_base_bars"),
        ("4h", "2024-07-02T12:00", 240, None),  # 08:00 in New York
        ("4h", "2024-07-02T13:00", 240, "off_grid"),
        ("1d", "2024-07-02T04:00", 1, None),
        ("1d", "2024-07-02T05:00", 1, "off_grid"),  # midnight of winter
        ("1d", "2024-01-02T05:00", 1, None),
        ("1d", "2024-07-04T04:00", 1, "no_session"),
        ("1w", "2024-06-30T04:00", 4, None),  # a Sunday, on which nothing trades
        ("1w", "2024-07-01T04:00", 4, "off_grid"),
        ("1w", "2024-06-30T04:00", 6, "too_many_base_bars"),
    ],
)
def test_the_grid_of_the_exchange(timeframe: str, moment: str, base_bars: int, expected: str | None) -> None:
    assert fault(timeframe, at(moment), base_bars) == expected


def test_a_coin_trades_every_day() -> None:
    assert fault("1d", at("2024-07-06T00:00"), 1, CRYPTO) is None
    assert fault("1w", at("2024-06-30T00:00"), 7, CRYPTO) is None
    assert fault("1w", at("2024-06-30T00:00"), 8, CRYPTO) == "too_many_base_bars"
    assert fault("4h", at("2024-11-03T04:00"), 241, CRYPTO) == "too_many_base_bars"


def test_a_bar_that_holds_the_change_of_the_clock() -> None:
    # Nothing trades on that night: a calendar of the same zone that has a session tells what a bar can hold.
    sunday = date(2024, 11, 3)
    open_sunday = TradingCalendar(
        "test", XNYS.timezone, [sunday], [at("2024-11-03T06:00")], [at("2024-11-03T21:00")]
    )
    assert fault("4h", at("2024-11-03T04:00"), 300, open_sunday) is None
    assert fault("4h", at("2024-11-03T04:00"), 301, open_sunday) == "too_many_base_bars"
    assert fault("4h", at("2024-11-03T09:00"), 241, open_sunday) == "too_many_base_bars"


days = st.sampled_from([date(2024, 3, 8), date(2024, 3, 11), date(2024, 11, 1), date(2024, 11, 4)])


@given(
    days=st.lists(days, unique=True, min_size=1),
    minutes=st.lists(st.integers(0, 16 * 60 - 1), unique=True, min_size=1, max_size=40),
    timeframe=st.sampled_from([timeframe for timeframe in Timeframe if timeframe.is_intraday]),
    calendar=st.sampled_from([XNYS, CRYPTO]),
    late=st.timedeltas(timedelta(microseconds=1), timedelta(seconds=59)),
)
def test_what_is_rolled_up_is_on_the_grid_and_nothing_a_little_later_is(
    days: Sequence[date],
    minutes: Sequence[int],
    timeframe: Timeframe,
    calendar: TradingCalendar,
    late: timedelta,
) -> None:
    opens = sorted(
        session.extended.start + timedelta(minutes=minute)
        for day in days
        if (session := calendar.session(day)) is not None
        for minute in minutes
    )
    base = as_bars(vendor_bars(opens), Series("X", Timeframe.M1))
    rolled = roll_up(base, timeframe, calendar)
    assert (
        rolled.select(grid_fault(timeframe, calendar, *EVER)).to_series().to_list() == [None] * rolled.height
    )
    shifted = rolled.with_columns(pl.col("time") + late)
    assert set(shifted.select(grid_fault(timeframe, calendar, *EVER)).to_series()) == {"off_grid"}
