from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.domain.bars import BAR_SCHEMA, VENDOR_SCHEMA, bucket_open, screen
from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import BASES, Timeframe
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.frames import as_bars, at, days_window, joined, minutes, vendor_bars, window

if TYPE_CHECKING:
    from pathlib import Path

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
AAPL = Series("AAPL", Timeframe.M1)
INTRADAY = [timeframe for timeframe in Timeframe if timeframe.base is Timeframe.M1 and not timeframe.is_base]


def one_bar(base: pl.DataFrame, timeframe: Timeframe = Timeframe.M5) -> dict[str, object]:
    [row] = roll_up(base, timeframe, XNYS).to_dicts()
    return row


def base_of(**columns: list[float | None]) -> pl.DataFrame:
    """Minutes from 14:00 with the given columns; the others are sound."""
    count = len(next(iter(columns.values())))
    start = at("2024-07-02T14:00")
    vendor = vendor_bars([start + timedelta(minutes=n) for n in range(count)])
    changed = [pl.Series(name, values, dtype=VENDOR_SCHEMA[name]) for name, values in columns.items()]
    return as_bars(vendor.with_columns(changed), AAPL)


def test_a_rolled_bar_is_first_highest_lowest_last_and_the_sums() -> None:
    base = base_of(
        open=[10, 11, 12],
        high=[13, 19, 14],
        low=[9, 8, 7.5],
        close=[11, 12, 13],
        volume=[100, 0.5, 300],
        vwap=[10, 11, 12],
        transactions=[1, 2, 3],
    )
    assert one_bar(base) == {
        "symbol": "AAPL",
        "timeframe": "5m",
        "time": at("2024-07-02T14:00"),
        "open": 10,
        "high": 19,
        "low": 7.5,
        "close": 13,
        "volume": 400.5,
        "vwap": pytest.approx((10 * 100 + 11 * 0.5 + 12 * 300) / 400.5, rel=1e-12),
        "transactions": 6,
        "base_bars": 3,
    }


def test_what_every_base_bar_lacks_stays_null() -> None:
    row = one_bar(base_of(volume=[None, None], vwap=[None, None], transactions=[None, None]))
    assert (row["volume"], row["vwap"], row["transactions"]) == (None, None, None)
    assert row["base_bars"] == 2


def test_a_base_bar_that_lacks_a_value_does_not_take_part_in_it() -> None:
    row = one_bar(base_of(volume=[None, 10, 30, 50], vwap=[5, 6, 7, None], transactions=[None, 2, 3, 4]))
    assert (row["volume"], row["transactions"]) == (90, 9)
    assert row["vwap"] == pytest.approx((6 * 10 + 7 * 30) / 40, rel=1e-12)


def test_the_vwap_of_bars_without_volume_is_unknown() -> None:
    row = one_bar(base_of(volume=[0, 0], vwap=[5, 6]))
    assert (row["volume"], row["vwap"]) == (0, None)


def test_a_bucket_without_a_base_bar_has_no_bar() -> None:
    times = [at("2024-07-02T14:01"), at("2024-07-02T14:14")]
    rolled = roll_up(as_bars(vendor_bars(times), AAPL), Timeframe.M5, XNYS)
    assert rolled["time"].to_list() == [at("2024-07-02T14:00"), at("2024-07-02T14:10")]
    assert rolled.schema == BAR_SCHEMA


@pytest.mark.parametrize("timeframe", BASES)
def test_a_base_is_rolled_into_itself(timeframe: Timeframe) -> None:
    base = as_bars(vendor_bars([at("2024-07-02T04:00")]), Series("AAPL", timeframe))
    assert_frame_equal(roll_up(base, timeframe, XNYS), base)


@pytest.mark.parametrize("timeframe", [timeframe for timeframe in Timeframe if not timeframe.is_base])
def test_no_bars_roll_into_no_bars(timeframe: Timeframe) -> None:
    assert_frame_equal(roll_up(BAR_SCHEMA.to_frame(), timeframe, XNYS), BAR_SCHEMA.to_frame())


def test_symbols_are_rolled_apart() -> None:
    apple = as_bars(vendor_bars(minutes(window("2024-07-02T14:00", "2024-07-02T14:10"))), AAPL)
    other = apple.with_columns(symbol=pl.lit("MSFT"), open=pl.col("open") * 2)
    rolled = roll_up(pl.concat([apple, other]), Timeframe.M5, XNYS)
    assert rolled.group_by("symbol", maintain_order=True).len().rows() == [("AAPL", 2), ("MSFT", 2)]
    assert_frame_equal(rolled.filter(symbol="AAPL"), roll_up(apple, Timeframe.M5, XNYS))


@pytest.mark.parametrize(
    ("day", "opens"),
    [
        # Local 00:00, 04:00, 08:00, 12:00, 16:00, 20:00 of the days on which the clock changes.
        (date(2024, 3, 10), (5, 8, 12, 16, 20, 24)),
        (date(2024, 11, 3), (4, 9, 13, 17, 21, 25)),
        (date(2024, 7, 2), (4, 8, 12, 16, 20, 24)),
    ],
)
def test_four_hour_bars_of_a_whole_local_day(day: date, opens: tuple[int, ...]) -> None:
    whole = XNYS.day_window(day)
    rolled = roll_up(as_bars(vendor_bars(minutes(whole)), AAPL), Timeframe.H4, XNYS)
    midnight = at(f"{day}T00:00")
    edges = [midnight + timedelta(hours=hour) for hour in opens]
    assert rolled["time"].to_list() == edges
    spans = zip(edges, [*edges[1:], whole.end], strict=True)
    assert rolled["base_bars"].to_list() == [(end - start) / timedelta(minutes=1) for start, end in spans]
    hours = roll_up(as_bars(vendor_bars(minutes(whole)), AAPL), Timeframe.H1, XNYS)
    assert hours["time"].to_list() == minutes(whole, 60)


def test_a_week_opens_on_sunday_and_holds_its_sessions() -> None:
    days = XNYS.sessions(date(2024, 6, 30), date(2024, 7, 13))
    base = as_bars(vendor_bars([XNYS.day_start(day) for day in days]), Series("AAPL", Timeframe.D1))
    rolled = roll_up(base, Timeframe.W1, XNYS)
    assert rolled.select("time", "base_bars").rows() == [
        (XNYS.day_start(date(2024, 6, 30)), 4),  # 4 July is a holiday
        (XNYS.day_start(date(2024, 7, 7)), 5),
    ]
    assert rolled["open"].to_list() == [base["open"][0], base["open"][4]]
    assert rolled["close"].to_list() == [base["close"][3], base["close"][8]]


# Weekends on which New York's clock changes, and an ordinary one.
first_days = st.sampled_from([date(2024, 3, 8), date(2024, 11, 1), date(2024, 7, 1)])


@examples(40)
@given(data=st.data(), first=first_days, calendar=st.sampled_from([XNYS, CRYPTO]))
def test_rolling_any_split_at_local_midnights_equals_rolling_the_whole(
    data: st.DataObject, first: date, calendar: TradingCalendar
) -> None:
    days = [first + timedelta(days=n) for n in range(4)]
    whole = days_window(calendar, days[0], days[-1])
    present = data.draw(st.lists(st.sampled_from(minutes(whole)), min_size=1, max_size=60, unique=True))
    step = data.draw(st.sampled_from([7, 31, 180]))
    base = as_bars(vendor_bars(sorted({*present, *minutes(whole, step)})), AAPL)
    cuts = data.draw(st.sets(st.sampled_from(days[1:])))
    edges = [whole.start, *(calendar.day_start(day) for day in sorted(cuts)), whole.end]
    parts = [base.filter(pl.col("time") >= start, pl.col("time") < end) for start, end in pairwise(edges)]
    for timeframe in INTRADAY:
        rolled = roll_up(base, timeframe, calendar)
        rejoined = joined(roll_up(part, timeframe, calendar) for part in parts)
        assert_frame_equal(rejoined, rolled, check_exact=True)
        assert rolled["base_bars"].sum() == base.height
        assert rolled["time"].is_sorted()
        assert rolled["time"].is_unique().all()
        on_grid = rolled.select(bucket_open(pl.col("time"), timeframe, calendar)).to_series()
        assert on_grid.to_list() == rolled["time"].to_list()
        assert rolled["high"].max() == base["high"].max()
        assert rolled["low"].min() == base["low"].min()
        assert rolled["transactions"].sum() == base["transactions"].sum()


@pytest.fixture(scope="module")
def spy_week(realdata: Path) -> pl.DataFrame:
    """SPY's minutes of 2013-10-07..11 as the vendor would send them: no vwap, no transactions."""
    requested = days_window(XNYS, date(2013, 10, 7), date(2013, 10, 11))
    vendor = (
        pl.read_parquet(realdata / "data" / "lean_spy_1m.parquet")
        .select(
            pl.col("ts").cast(pl.Datetime("us", "UTC")).alias("time"),
            pl.col("open", "high", "low", "close", "volume").cast(pl.Float64),
            vwap=pl.lit(None, pl.Float64),
            transactions=pl.lit(None, pl.Int64),
        )
        .filter(pl.col("time") >= requested.start, pl.col("time") < requested.end)
    )
    result = screen(vendor, Series("SPY", Timeframe.M1), requested, XNYS, asset_class=AssetClass.ETF)
    assert result.quarantined.is_empty()
    return result.bars


@pytest.fixture(scope="module")
def expected(realdata: Path) -> dict[str, Any]:
    text = (realdata / "expected" / "A01_spy_week_resample.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)["expected"]
    return found


def regular(bars: pl.DataFrame) -> pl.DataFrame:
    sessions = map(XNYS.session, XNYS.sessions(date(2013, 10, 7), date(2013, 10, 11)))
    parts = [session.regular for session in sessions if session is not None]
    return bars.filter(
        pl.any_horizontal((pl.col("time") >= part.start) & (pl.col("time") < part.end) for part in parts)
    )


def assert_has(bars: pl.DataFrame, sample: dict[str, dict[str, float]]) -> None:
    for opened, values in sample.items():
        [row] = bars.filter(pl.col("time") == datetime.fromisoformat(opened)).to_dicts()
        assert {name: row[name] for name in values} == pytest.approx(values, rel=1e-9)


def test_a_real_week_has_its_minutes(spy_week: pl.DataFrame, expected: dict[str, Any]) -> None:
    assert spy_week.height == expected["total_bars"] == 4128
    for day, counts in expected["days"].items():
        session = XNYS.session(date.fromisoformat(day))
        assert session is not None
        opens = spy_week.filter(
            pl.col("time").dt.convert_time_zone("America/New_York").dt.date() == session.day
        )["time"]
        assert opens.len() == counts["bars"]
        assert (opens < session.regular.start).sum() == counts["pre"]
        assert (opens >= session.regular.end).sum() == counts["post"]
        assert session.regular.duration / timedelta(minutes=1) == counts["expected_regular"]
        assert session.regular.start == datetime.fromisoformat(str(counts["session_open"]))
        assert session.regular.end == datetime.fromisoformat(str(counts["session_close"]))
        assert session.extended.covers(session.regular)
        assert ((opens >= session.extended.start) & (opens < session.extended.end)).all()


def test_a_real_week_rolls_up_to_the_independent_numbers(
    spy_week: pl.DataFrame, expected: dict[str, Any]
) -> None:
    fives = roll_up(regular(spy_week), Timeframe.M5, XNYS)
    assert fives.height == expected["regular_5m_bars"]
    assert fives["base_bars"].unique().to_list() == [5]
    assert_has(fives, expected["regular_5m_sample"])
    hours = roll_up(regular(spy_week), Timeframe.H1, XNYS)
    assert hours.height == expected["regular_1h_clock_aligned_bars"]
    assert_has(hours, expected["regular_1h_sample"])
    all_hours = roll_up(spy_week, Timeframe.H1, XNYS)
    assert all_hours.height == expected["all_hours_1h_clock_aligned_bars"]
    assert_has(all_hours, expected["all_hours_1h_sample"])
    for timeframe in INTRADAY:
        rolled = roll_up(spy_week, timeframe, XNYS)
        assert rolled["base_bars"].sum() == spy_week.height
        assert rolled["volume"].sum() == spy_week["volume"].sum()
        assert rolled.select(pl.col("vwap", "transactions").is_null().all()).row(0) == (True, True)
