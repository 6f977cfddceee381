from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.domain.bars import (
    BAR_SCHEMA,
    KEY,
    PAGE_SCHEMA,
    QUARANTINE_SCHEMA,
    READING_RULES,
    VENDOR_SCHEMA,
    bucket_close,
    bucket_open,
    keep_closed,
    screen,
)
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.unit.frames import as_bars, at, minutes, vendor_bars, window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.domain.bars import Screened

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
AAPL = Series("AAPL", Timeframe.M1)
HOUR = window("2024-07-02T14:00", "2024-07-02T15:00")
SOUND = {
    "time": HOUR.start,
    "open": 10.0,
    "high": 12.0,
    "low": 9.0,
    "close": 11.0,
    "volume": 100.0,
    "vwap": 10.5,
    "transactions": 7,
}


def screened(*changes: dict[str, object], asset_class: AssetClass = AssetClass.STOCK) -> Screened:
    rows = [{**SOUND, **change} for change in changes]
    return screen(pl.DataFrame(rows, schema=VENDOR_SCHEMA), AAPL, HOUR, XNYS, asset_class=asset_class)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"time": None}, "time_missing"),
        ({"time": HOUR.start - timedelta(minutes=1)}, "outside_window"),
        ({"time": HOUR.end}, "outside_window"),
        ({"time": HOUR.start + timedelta(seconds=1)}, "off_grid"),
        ({"time": HOUR.start + timedelta(microseconds=1)}, "off_grid"),
        *(
            ({name: price}, "price_not_positive")
            for name in ("open", "high", "low", "close")
            for price in (None, 0.0, -1.0, math.nan, math.inf, -math.inf)
        ),
        ({"high": 10.99}, "high_below_body"),  # below the close
        ({"high": 10.99, "close": 9.5, "open": 11.0}, "high_below_body"),  # below the open
        ({"high": 8.0, "low": 8.5, "open": 7.5, "close": 7.5}, "high_below_body"),  # below the low
        ({"low": 10.01}, "low_above_body"),  # above the open
        ({"low": 10.01, "open": 11.0, "close": 10.0}, "low_above_body"),  # above the close
        *(({"volume": volume}, "volume_negative") for volume in (-0.001, math.nan, math.inf)),
        ({"volume": None}, "volume_missing"),
        *(({"vwap": vwap}, "vwap_not_positive") for vwap in (0.0, -5.0, math.nan, math.inf, -math.inf)),
        ({"vwap": -5.0, "volume": 0.0}, "vwap_not_positive"),
        ({"transactions": -7}, "transactions_negative"),
        # No number that is finite and still no price, no volume and no count gets through.
        ({"high": 1e300}, "price_too_large"),
        ({"vwap": 1e300}, "vwap_too_large"),
        ({"open": 8.9e12, "high": 8.9e12, "low": 8.9e12, "close": 8.9e12}, "price_too_large"),
        ({"volume": 1e300}, "volume_too_large"),
        ({"transactions": 2**62}, "transactions_too_large"),
        # The first broken rule is the one that is named.
        ({"time": HOUR.end + timedelta(seconds=1), "open": None, "volume": -1.0}, "outside_window"),
        ({"open": -1.0, "high": 0.5}, "price_not_positive"),
    ],
)
def test_each_rule_rejects_what_it_names_and_nothing_else(change: dict[str, object], rule: str) -> None:
    minute_later: dict[str, object] = {"time": HOUR.start + timedelta(minutes=1)}
    result = screened(change, minute_later)
    assert result.quarantined["rule"].to_list() == [rule]
    assert result.bars["time"].to_list() == [minute_later["time"]]
    row = {**SOUND, **change}
    kept = result.quarantined.select(VENDOR_SCHEMA.names())
    assert_frame_equal(kept, pl.DataFrame([row], schema=VENDOR_SCHEMA))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"time": HOUR.end - timedelta(minutes=1)},
        {"open": 10.0, "high": 10.0, "low": 10.0, "close": 10.0},
        {"volume": 0.0},
        {"volume": 0.00012},
        {"volume": 0.0, "vwap": 0.0, "transactions": 0},
        {"vwap": None, "transactions": None},
        {"vwap": 99.0},
        {"vwap": 1.0},
        {"high": 1e9},
    ],
)
def test_an_odd_bar_that_breaks_no_rule_is_a_bar(change: dict[str, object]) -> None:
    result = screened(change)
    assert result.quarantined.is_empty()
    expected = as_bars(pl.DataFrame([{**SOUND, **change}], schema=VENDOR_SCHEMA), AAPL)
    assert_frame_equal(result.bars, expected)
    assert result.bars.schema == BAR_SCHEMA
    assert result.quarantined.schema == QUARANTINE_SCHEMA


def test_the_last_of_several_rows_for_a_time_is_the_bar() -> None:
    result = screened({"close": 10.5}, {"close": 10.75}, {"close": 11.5})
    assert result.bars["close"].to_list() == [11.5]
    assert result.quarantined.select("close", "rule").rows() == [
        (10.5, "duplicate_time"),
        (10.75, "duplicate_time"),
    ]


def test_a_broken_correction_does_not_replace_a_sound_bar() -> None:
    result = screened({"close": 10.5}, {"close": -1.0})
    assert result.bars["close"].to_list() == [10.5]
    assert result.quarantined["rule"].to_list() == ["price_not_positive"]


def test_an_index_has_no_volume_vwap_or_transactions() -> None:
    nothing: dict[str, object] = {"volume": None, "vwap": None, "transactions": None}
    assert screened(nothing, asset_class=AssetClass.INDEX).quarantined.is_empty()
    for asset_class in (AssetClass.STOCK, AssetClass.ETF, AssetClass.CRYPTO):
        assert screened(nothing, asset_class=asset_class).quarantined["rule"].to_list() == ["volume_missing"]


@pytest.mark.parametrize("rule", READING_RULES)
def test_a_row_that_could_not_be_read_is_quarantined_by_the_rule_of_its_reading(rule: str) -> None:
    later = HOUR.start + timedelta(minutes=1)
    rows = [{**SOUND, "fault": rule, "source": 7}, {**SOUND, "time": later, "fault": None, "source": 8}]
    result = screen(pl.DataFrame(rows, schema=PAGE_SCHEMA), AAPL, HOUR, XNYS, asset_class=AssetClass.STOCK)
    assert result.quarantined["rule"].to_list() == [rule]
    assert result.sources.to_list() == [7]
    assert result.bars["time"].to_list() == [later]


@pytest.mark.parametrize("change", [{}, {"vwap": None, "transactions": None}])
def test_a_row_that_is_sent_twice_is_one_bar_and_no_violation(change: dict[str, object]) -> None:
    result = screened(change, change)
    assert result.bars.height == 1
    assert result.quarantined.is_empty()


def test_bars_are_sorted_and_quarantined_rows_keep_the_vendors_order() -> None:
    later, latest = (HOUR.start + timedelta(minutes=n) for n in (1, 2))
    result = screened(
        {"time": latest},
        {"time": latest, "open": None},
        {},
        {"time": later, "close": 10.1},
        {"time": HOUR.end},
        {"time": later},
    )
    assert result.bars["time"].to_list() == [HOUR.start, later, latest]
    assert result.quarantined["rule"].to_list() == ["price_not_positive", "duplicate_time", "outside_window"]


def test_no_rows_are_no_bars() -> None:
    result = screened()
    assert_frame_equal(result.bars, BAR_SCHEMA.to_frame())
    assert_frame_equal(result.quarantined, QUARANTINE_SCHEMA.to_frame())


@pytest.mark.parametrize(
    ("series", "asset_class", "time", "is_sound"),
    [
        # A day bar opens at local midnight: 04:00 UTC in New York's summer, 05:00 in its winter.
        ("SPY:1d", AssetClass.ETF, "2024-07-02T04:00", True),
        ("SPY:1d", AssetClass.ETF, "2024-07-02T05:00", False),
        ("SPY:1d", AssetClass.ETF, "2024-01-02T05:00", True),
        ("SPY:1d", AssetClass.ETF, "2024-01-02T00:00", False),
        ("BTC-USD:1d", AssetClass.CRYPTO, "2024-07-02T00:00", True),
        ("BTC-USD:1d", AssetClass.CRYPTO, "2024-07-02T04:00", False),
    ],
)
def test_the_grid_of_day_bars_is_local_midnight(
    series: str, asset_class: AssetClass, time: str, *, is_sound: bool
) -> None:
    result = screen(
        vendor_bars([at(time)]),
        Series.parse(series),
        window("2024-01-01T00:00", "2025-01-01T00:00"),
        calendar_of(asset_class),
        asset_class=asset_class,
    )
    assert result.bars.height == is_sound
    assert result.quarantined["rule"].to_list() == ([] if is_sound else ["off_grid"])


prices = st.sampled_from([10.0, 11.0, 12.0, -1.0, math.nan, None])
vendor_rows = st.lists(
    st.fixed_dictionaries(
        {
            "time": st.one_of(
                st.integers(-2, 8).map(lambda minute: HOUR.start + timedelta(minutes=minute)),
                st.sampled_from([None, HOUR.end, HOUR.start + timedelta(seconds=30)]),
            ),
            "open": prices,
            "high": st.sampled_from([12.0, 12.5]),
            "low": st.sampled_from([9.0, 10.0]),
            "close": prices,
            "volume": st.sampled_from([None, 1.0, -1.0, 1e300]),
            "vwap": st.sampled_from([None, 10.0, -5.0, 1e300]),
            "transactions": st.sampled_from([None, 3, -7]),
        }
    ),
    max_size=12,
)


@given(vendor_rows)
def test_bars_and_quarantined_rows_partition_the_input_save_identical_duplicates(
    rows: list[dict[str, object]],
) -> None:
    vendor = pl.DataFrame(rows, schema=VENDOR_SCHEMA)
    result = screen(vendor, AAPL, HOUR, XNYS, asset_class=AssetClass.STOCK)
    columns = VENDOR_SCHEMA.names()
    divided = pl.concat([result.bars.select(columns), result.quarantined.select(columns)])
    # Nothing is lost and nothing is made up.
    assert set(map(str, divided.rows())) == set(map(str, vendor.rows()))
    assert result.bars["time"].is_unique().all()
    assert result.bars["time"].is_sorted()
    assert result.quarantined["rule"].null_count() == 0
    # Only a row that repeats the bar of its time is in neither.
    kept = set(result.bars.select(columns).rows())
    repeats = sum(row in kept for row in vendor.rows()) - result.bars.height
    assert divided.height == vendor.height - repeats
    # A bar breaks no rule.
    again = screen(result.bars.select(columns), AAPL, HOUR, XNYS, asset_class=AssetClass.STOCK)
    assert again.quarantined.is_empty()


def opens_and_closes(
    times: Sequence[datetime], timeframe: Timeframe, calendar: TradingCalendar
) -> list[tuple[datetime, datetime]]:
    frame = pl.DataFrame({"time": times}, schema={"time": VENDOR_SCHEMA["time"]}).with_columns(
        opened=bucket_open(pl.col("time"), timeframe, calendar)
    )
    return frame.select("opened", closed=bucket_close(pl.col("opened"), timeframe, calendar)).rows()


@pytest.mark.parametrize(
    ("timeframe", "time", "opened", "closed"),
    [
        ("1h", "2024-03-10T06:30", "2024-03-10T06:00", "2024-03-10T07:00"),  # 01:30 EST, before the change
        ("1h", "2024-03-10T07:30", "2024-03-10T07:00", "2024-03-10T08:00"),  # 03:30 EDT
        ("1h", "2024-11-03T05:30", "2024-11-03T05:00", "2024-11-03T06:00"),  # 01:30 EDT
        ("1h", "2024-11-03T06:30", "2024-11-03T06:00", "2024-11-03T07:00"),  # 01:30 EST
        ("4h", "2024-03-10T07:30", "2024-03-10T05:00", "2024-03-10T08:00"),  # three hours long
        ("4h", "2024-03-10T08:00", "2024-03-10T08:00", "2024-03-10T12:00"),
        ("4h", "2024-11-03T06:30", "2024-11-03T04:00", "2024-11-03T09:00"),  # five hours long
        ("4h", "2024-11-03T09:00", "2024-11-03T09:00", "2024-11-03T13:00"),
        ("4h", "2024-07-02T13:30", "2024-07-02T12:00", "2024-07-02T16:00"),
        ("4h", "2024-01-02T14:30", "2024-01-02T13:00", "2024-01-02T17:00"),
        ("1d", "2024-03-10T12:00", "2024-03-10T05:00", "2024-03-11T04:00"),  # 23 hours
        ("1d", "2024-11-03T12:00", "2024-11-03T04:00", "2024-11-04T05:00"),  # 25 hours
        ("1w", "2024-03-12T12:00", "2024-03-10T05:00", "2024-03-17T04:00"),  # opens before the change
        ("1w", "2024-11-09T12:00", "2024-11-03T04:00", "2024-11-10T05:00"),
        ("1w", "2024-03-10T05:00", "2024-03-10T05:00", "2024-03-17T04:00"),
        ("1w", "2024-03-10T04:59", "2024-03-03T05:00", "2024-03-10T05:00"),
    ],
)
def test_new_york_buckets_when_the_clock_changes(timeframe: str, time: str, opened: str, closed: str) -> None:
    assert opens_and_closes([at(time)], Timeframe(timeframe), XNYS) == [(at(opened), at(closed))]


@pytest.mark.parametrize(
    ("timeframe", "opened", "closed"),
    [
        ("1m", "2024-03-10T07:37", "2024-03-10T07:38"),
        ("5m", "2024-03-10T07:35", "2024-03-10T07:40"),
        ("15m", "2024-03-10T07:30", "2024-03-10T07:45"),
        ("30m", "2024-03-10T07:30", "2024-03-10T08:00"),
        ("1h", "2024-03-10T07:00", "2024-03-10T08:00"),
        ("4h", "2024-03-10T04:00", "2024-03-10T08:00"),
        ("1d", "2024-03-10T00:00", "2024-03-11T00:00"),
        ("1w", "2024-03-10T00:00", "2024-03-17T00:00"),
    ],
)
def test_crypto_buckets_are_utc(timeframe: str, opened: str, closed: str) -> None:
    times = [at("2024-03-10T07:37")]
    assert opens_and_closes(times, Timeframe(timeframe), CRYPTO) == [(at(opened), at(closed))]


@given(
    time=st.datetimes(datetime(2023, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds are naive by Hypothesis' contract
    timeframe=st.sampled_from(Timeframe),
    calendar=st.sampled_from([XNYS, CRYPTO]),
)
def test_buckets_tile_time(time: datetime, timeframe: Timeframe, calendar: TradingCalendar) -> None:
    [(opened, closed)] = opens_and_closes([time], timeframe, calendar)
    assert opened <= time < closed
    moment = timedelta(microseconds=1)
    [(same, _), (following, _)] = opens_and_closes([closed - moment, closed], timeframe, calendar)
    assert (same, following) == (opened, closed)
    if timeframe is not Timeframe.W1:
        assert calendar.local_day(closed - moment) == calendar.local_day(opened)
    else:
        assert calendar.local_day(opened).strftime("%a") == "Sun"


@pytest.mark.parametrize(
    ("now", "timeframe", "kept"),
    [
        ("2024-07-02T14:02", "1m", 2),
        ("2024-07-02T14:02:59", "1m", 2),
        ("2024-07-02T14:03", "1m", 3),
        ("2024-07-02T14:00", "1m", 0),
        ("2024-07-02T15:00", "1m", 60),
        ("2024-07-02T14:59:59", "1h", 0),
    ],
)
def test_a_bar_is_complete_when_its_interval_has_closed(now: str, timeframe: str, kept: int) -> None:
    series = Series("AAPL", Timeframe(timeframe))
    bars = as_bars(vendor_bars(minutes(HOUR, int(series.timeframe.duration / timedelta(minutes=1)))), series)
    assert_frame_equal(keep_closed(bars, series.timeframe, XNYS, at(now)), bars.head(kept))


@pytest.mark.parametrize(("now", "is_complete"), [("2024-11-04T00:59:59", False), ("2024-11-04T01:00", True)])
def test_a_day_bar_is_complete_when_its_trading_has_ended(now: str, *, is_complete: bool) -> None:
    day = XNYS.day_window(date(2024, 11, 3))
    bars = as_bars(vendor_bars([day.start]), Series("AAPL", Timeframe.D1))
    assert keep_closed(bars, Timeframe.D1, XNYS, at(now)).height == is_complete


def test_the_key_is_part_of_a_bar() -> None:
    assert set(KEY) <= set(BAR_SCHEMA)
