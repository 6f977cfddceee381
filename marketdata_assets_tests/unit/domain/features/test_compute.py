from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from math import log, sqrt
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.domain.features.columns import (
    FEATURES_SCHEMA,
    LOOKBACK,
    LOOKBACK_SESSIONS,
    MEMORY,
    lookback_start,
    periods_per_year,
)
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.gaps import GAP_SCHEMA
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.domain.features.walks import (
    CRYPTO,
    OF_PRICE,
    VALUES,
    XNYS,
    extended_minutes,
    gap,
    slots_of,
    walk,
)
from marketdata_assets_tests.unit.frames import at

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.domain.calendar import TradingCalendar

AAPL = Series("AAPL", Timeframe.M1)
HOURLY = Series("AAPL", Timeframe.H1)
DAILY = Series("AAPL", Timeframe.D1)
BTC = Series("BTC-USD", Timeframe.M1)

# Columns of the independent computation that are called otherwise here.
NAMES = {
    "TR": "true_range",
    "ATR14": "atr_14",
    "RSI14": "rsi_14",
    "EMA20": "ema_20",
    "SMA20": "sma_20",
    "MACD": "macd",
    "MACD_signal": "macd_signal",
    "ADX14": "adx_14",
    "BB_upper": "bb_upper_20",
    "BB_lower": "bb_lower_20",
    "LINREG_SLOPE14": "slope_14",
    "NATR14": "natr_14",
    "rel_volume20": "relative_volume_20",
    "vol20_close_to_close": "volatility_20",
    "vol20_parkinson": "parkinson_20",
    "vol20_garman_klass": "garman_klass_20",
    "vol20_rogers_satchell": "rogers_satchell_20",
    "vol20_yang_zhang": "yang_zhang_20",
}


@pytest.fixture(scope="module")
def spy(realdata: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """The independent numbers, and the features of the same 502 days of SPY."""
    known = json.loads((realdata / "expected" / "A10_features_daily.json").read_text("utf-8"))
    bars = pl.read_parquet(realdata / "data" / "skender_default_1d.parquet").rename({"ts": "time"})
    bars = bars.with_columns(timeframe=pl.lit("1d"), vwap=pl.lit(None, pl.Float64))
    return known["expected"], compute_features(bars, XNYS)


def test_spy_equals_an_independent_computation(spy: tuple[dict[str, Any], pl.DataFrame]) -> None:
    expected, features = spy
    by_day = {row["time"].date().isoformat(): row for row in features.iter_rows(named=True)}
    for day, values in expected["rows"].items():
        for column, value in values.items():
            name = NAMES.get(column, column)
            found = by_day[day][name]
            if value is None:
                assert found is None, (day, name)
            else:
                scale = 250 if name in OF_PRICE else abs(value)
                assert abs(found - value) <= 1e-9 * scale, (day, name)
    assert (features.height, len(expected["rows"])) == (502, 11)


def test_warm_up_is_null_and_nothing_after_it(spy: tuple[dict[str, Any], pl.DataFrame]) -> None:
    expected, features = spy
    for column, first in expected["first_valid_row"].items():
        values = features[NAMES.get(column, column)]
        assert values[:first].null_count() == first, column
        assert values[first:].null_count() == 0, column


def day_of(*values: float, opened: float = 100.0) -> pl.DataFrame:
    """One-minute bars from the open of 2024-07-02; each value is a close."""
    times = [at("2024-07-02T13:30") + timedelta(minutes=minute) for minute in range(len(values))]
    opens = [opened, *values[:-1]]
    return walk(AAPL, times).with_columns(
        open=pl.Series(opens, dtype=pl.Float64),
        close=pl.Series(values, dtype=pl.Float64),
        high=pl.Series([max(pair) for pair in zip(opens, values, strict=True)], dtype=pl.Float64),
        low=pl.Series([min(pair) for pair in zip(opens, values, strict=True)], dtype=pl.Float64),
    )


def only(features: pl.DataFrame, time: str) -> dict[str, Any]:
    return features.row(by_predicate=pl.col("time") == at(time), named=True)


def minutes_of(*days: date) -> pl.DataFrame:
    """Regular minutes from the first to the last of ``days``."""
    return walk(AAPL, slots_of(AAPL, min(days), max(days)).opens, seed=7)


def between(start: str, end: str) -> pl.Expr:
    return pl.col("time").is_between(at(start), at(end), closed="left")


def test_the_schema_is_kept_and_empty_bars_have_no_features() -> None:
    bars = minutes_of(date(2024, 7, 2))
    features = compute_features(bars, XNYS)
    assert features.schema == FEATURES_SCHEMA
    assert features.select("symbol", "timeframe", "time").equals(bars.select("symbol", "timeframe", "time"))
    assert compute_features(bars.clear(), XNYS).schema == FEATURES_SCHEMA
    assert set(LOOKBACK) | set(LOOKBACK_SESSIONS) == set(VALUES)


@pytest.mark.parametrize("count", [1, 2, 13, 14, 19, 20, 21, 26, 33, 34])
def test_short_histories_have_nulls_and_no_nan(count: int) -> None:
    features = compute_features(minutes_of(date(2024, 7, 2)).head(count), XNYS)
    floats = features.select(pl.col(pl.Float64))
    assert floats.select(pl.any_horizontal(pl.all().is_nan().any())).item() in (False, None)
    assert features["macd_signal"].null_count() == min(count, 33)
    assert features["trend"].null_count() == min(count, 25)


@pytest.mark.parametrize("bars_at_once", [1, 100, 1_000_000])
def test_several_series_and_timeframes_in_any_order_are_each_computed_alone(bars_at_once: int) -> None:
    frames = [
        walk(
            Series(symbol, timeframe), slots_of(Series(symbol, timeframe), date(2024, 1, 2), last).opens, seed
        )
        for seed, (symbol, timeframe, last) in enumerate(
            [
                ("AAPL", Timeframe.H1, date(2024, 3, 1)),
                ("AAPL", Timeframe.D1, date(2024, 9, 1)),
                ("MSFT", Timeframe.H1, date(2024, 1, 3)),
                ("SPY", Timeframe.H1, date(2024, 3, 1)),
            ]
        )
    ]
    shuffled = pl.concat(frames).sample(fraction=1, shuffle=True, seed=1)
    alone = pl.concat([compute_features(frame, XNYS) for frame in frames])
    assert_frame_equal(
        compute_features(shuffled, XNYS, bars_at_once=bars_at_once),
        alone.sort("symbol", "timeframe", "time"),
        check_exact=True,
    )


def test_returns_hold_the_night_and_intraday_volatility_does_not() -> None:
    bars = walk(HOURLY, slots_of(HOURLY, date(2024, 7, 8), date(2024, 7, 12)).opens, seed=3)
    # A jump overnight, before the first bar of Thursday; seven bars a session.
    scale = pl.when(pl.col("time") >= at("2024-07-11T00:00")).then(2.0).otherwise(1.0)
    prices = pl.col("open", "high", "low", "close", "vwap")
    jump, calm = (compute_features(frame, XNYS) for frame in (bars.with_columns(prices * scale), bars))
    first = 3 * 7
    assert jump["simple_return"][first] == pytest.approx(2 * (1 + calm["simple_return"][first]) - 1)
    assert jump["true_range"][first] > 50
    for name in ("volatility_20", "yang_zhang_20", "parkinson_20", "garman_klass_20", "rogers_satchell_20"):
        assert jump[name].is_null().equals(calm[name].is_null())
        assert jump[name].drop_nulls().to_list() == pytest.approx(calm[name].drop_nulls().to_list(), rel=1e-9)

    returns = calm["log_return"].to_list()
    row = 4 * 7 + 3
    inside = [returns[each] for each in range(row - 19, row + 1) if each % 7]
    assert len(inside) == 17
    assert calm["volatility_20"][row] == pytest.approx(sqrt(252 * 6.5) * stdev(inside), rel=1e-9)


def test_daily_and_always_open_volatility_leave_no_night_out() -> None:
    for series, calendar, year in ((DAILY, XNYS, 252), (Series("BTC-USD", Timeframe.H1), CRYPTO, 365 * 24)):
        bars = walk(series, slots_of(series, date(2024, 1, 1), date(2024, 3, 1), calendar).opens, seed=4)
        features = compute_features(bars, calendar)
        window = features["log_return"].to_list()[-20:]
        assert features["volatility_20"][-1] == pytest.approx(sqrt(year) * stdev(window), rel=1e-9)


def test_yang_zhang_of_intraday_bars_by_its_definition() -> None:
    bars = walk(HOURLY, slots_of(HOURLY, date(2024, 7, 8), date(2024, 7, 12)).opens, seed=5)
    rows = bars.to_dicts()
    last = range(len(rows) - 20, len(rows))
    opening = [log(rows[row]["open"] / rows[row - 1]["close"]) for row in last if row % 7]
    body = [log(rows[row]["close"] / rows[row]["open"]) for row in last]
    satchell = [
        log(bar["high"] / bar["close"]) * log(bar["high"] / bar["open"])
        + log(bar["low"] / bar["close"]) * log(bar["low"] / bar["open"])
        for bar in (rows[row] for row in last)
    ]
    k = 0.34 / (1.34 + 21 / 19)
    variance = stdev(opening) ** 2 + k * stdev(body) ** 2 + (1 - k) * sum(satchell) / 20
    found = compute_features(bars, XNYS)["yang_zhang_20"][-1]
    assert found == pytest.approx(sqrt(252 * 6.5 * variance), rel=1e-9)


def test_the_vwap_begins_at_the_open_and_again_every_day() -> None:
    times = extended_minutes(date(2024, 7, 2), date(2024, 7, 3))
    bars = walk(AAPL, times, seed=6)
    features = compute_features(bars, XNYS)

    def mean(start: str, end: str) -> float:
        part = bars.filter(pl.col("time").is_between(at(start), at(end)))
        return float(np.average(part["vwap"].to_numpy(), weights=part["volume"].to_numpy()))

    for start, end in (
        ("2024-07-02T08:00", "2024-07-02T08:00"),  # 04:00 in New York
        ("2024-07-02T08:00", "2024-07-02T13:29"),
        ("2024-07-02T13:30", "2024-07-02T13:30"),
        ("2024-07-02T13:30", "2024-07-02T15:11"),
        ("2024-07-02T13:30", "2024-07-02T23:59"),
        ("2024-07-03T08:00", "2024-07-03T09:00"),
    ):
        assert only(features, end)["vwap_session"] == pytest.approx(mean(start, end), rel=1e-12), (start, end)


def test_the_hour_that_holds_the_open_begins_the_session() -> None:
    times = [at("2024-07-02T12:00"), at("2024-07-02T13:00"), at("2024-07-02T14:00")]
    bars = walk(HOURLY, times)
    found = compute_features(bars, XNYS)["vwap_session"]
    assert found[1] == bars["vwap"][1]
    assert found[2] != bars["vwap"][2]


def test_a_bar_without_a_vwap_counts_with_its_typical_price() -> None:
    bars = day_of(101, 104, opened=100).with_columns(
        vwap=pl.Series([None, 103.0]), volume=pl.Series([1.0, 3.0])
    )
    found = compute_features(bars, XNYS)["vwap_session"].to_list()
    typical = (101 + 100 + 101) / 3
    assert found == pytest.approx([typical, (typical + 3 * 103) / 4])


def test_a_bar_of_unknown_volume_has_no_vwap_and_no_weight() -> None:
    bars = minutes_of(date(2024, 7, 2)).head(3).with_columns(volume=pl.Series([1.0, None, 3.0]))
    first, _, last = bars["vwap"]
    found = compute_features(bars, XNYS)["vwap_session"].to_list()
    assert found == [first, None, pytest.approx((first + 3 * last) / 4)]


def test_vwap_waits_for_volume_and_days_have_their_own() -> None:
    bars = minutes_of(date(2024, 7, 2)).head(3).with_columns(volume=pl.Series([0.0, 0.0, 5.0]))
    assert compute_features(bars, XNYS)["vwap_session"].to_list() == [None, None, bars["vwap"][2]]
    days = walk(DAILY, slots_of(DAILY, date(2024, 7, 1), date(2024, 7, 12)).opens)
    assert compute_features(days, XNYS)["vwap_session"].equals(days["vwap"])


def test_an_index_has_null_volume_features_and_all_the_others() -> None:
    whole = walk(DAILY, slots_of(DAILY, date(2024, 1, 1), date(2024, 7, 12)).opens)
    nothing = pl.lit(None, pl.Float64)
    index = compute_features(whole.with_columns(volume=nothing, vwap=nothing), XNYS)
    of_volume = ["vwap_session", "dollar_volume", "relative_volume_20"]
    assert index.select(of_volume).null_count().row(0) == (index.height,) * 3
    assert index.drop(of_volume).equals(compute_features(whole, XNYS).drop(of_volume))


def test_relative_volume_compares_the_same_minute_of_the_20_days_before() -> None:
    bars = minutes_of(date(2024, 6, 3), date(2024, 7, 3))
    features = compute_features(bars, XNYS)
    minute = pl.col("time").dt.time() == at("2024-07-02T15:00").time()
    day = features.filter(minute)
    assert day["relative_volume_20"].null_count() == 20
    volumes = bars.filter(minute)["volume"].to_list()
    assert day["relative_volume_20"][-1] == pytest.approx(volumes[-1] / np.mean(volumes[-21:-1]))


def test_a_minute_without_trades_or_beyond_a_half_day_is_left_out_of_the_mean() -> None:
    bars = minutes_of(date(2024, 6, 5), date(2024, 7, 5))
    minute = pl.col("time").dt.time() == at("2024-07-02T19:00").time()
    at_last = bars.filter(minute)
    # On 2024-07-03 the market closed at 17:00 UTC.
    assert at_last.height == 20
    lacking = bars.filter(pl.col("time") != at("2024-06-20T19:00"))
    found = only(compute_features(lacking, XNYS), "2024-07-05T19:00")["relative_volume_20"]
    before = at_last.filter(pl.col("time") != at("2024-06-20T19:00"))["volume"].to_list()[:-1]
    assert len(before) == 18
    assert found == pytest.approx(at_last["volume"][-1] / np.mean(before))


CLOSED = [
    date(2024, 6, 19),
    *(date(2024, 6, 1) + timedelta(days=7 * week + day) for week in range(5) for day in (0, 1)),
]


@given(
    strays=st.lists(
        st.tuples(st.sampled_from(CLOSED), st.integers(0, 23)), min_size=1, max_size=12, unique=True
    ),
    timeframe=st.sampled_from([Timeframe.H1, Timeframe.D1]),
)
@examples(40)
def test_a_bar_on_a_closed_day_is_no_session_of_relative_volume(
    strays: list[tuple[date, int]], timeframe: Timeframe
) -> None:
    series = Series("AAPL", timeframe)
    # The hours of four months: those of a Saturday lie within and beside those of a session.
    bars = walk(series, slots_of(series, date(2024, 4, 1), date(2024, 7, 31)).opens)
    hour = 0 if timeframe is Timeframe.D1 else 1
    opens = sorted({XNYS.day_start(day) + timedelta(hours=hour * at_hour) for day, at_hour in strays})
    odd = walk(series, opens).with_columns(volume=pl.lit(1e12))
    plain = compute_features(bars, XNYS)
    found = compute_features(pl.concat([bars, odd]), XNYS).filter(~pl.col("time").is_in(opens))
    assert_frame_equal(
        found.select("time", "relative_volume_20"),
        plain.select("time", "relative_volume_20"),
        check_exact=True,
    )


def test_a_session_without_a_bar_is_one_of_the_twenty() -> None:
    days = walk(DAILY, slots_of(DAILY, date(2024, 6, 3), date(2024, 7, 3)).opens)
    sparse = days.filter(~pl.int_range(pl.len()).is_in([3, 4, 5]))
    [found] = compute_features(sparse, XNYS).filter(time=days["time"][-1])["relative_volume_20"]
    assert days.height == 22
    before = sparse["volume"].to_list()[1:-1]
    assert len(before) == 17
    assert found == pytest.approx(days["volume"][-1] / np.mean(before))


@pytest.mark.parametrize("calendar", [XNYS, CRYPTO], ids=lambda calendar: calendar.name)
def test_relative_volume_of_weeks_counts_weeks(calendar: TradingCalendar) -> None:
    series = Series("AAPL", Timeframe.W1)
    weeks = walk(series, slots_of(series, date(2024, 1, 1), date(2024, 7, 31), calendar).opens)
    found = compute_features(weeks, calendar)["relative_volume_20"]
    assert found.is_null().to_list() == [row < 20 for row in range(weeks.height)]
    volumes = weeks["volume"].to_list()
    assert found[-1] == pytest.approx(volumes[-1] / np.mean(volumes[-21:-1]))


def test_no_volume_on_the_days_before_makes_no_infinity() -> None:
    days = walk(DAILY, slots_of(DAILY, date(2024, 1, 1), date(2024, 2, 20)).opens)
    quiet = days.with_columns(volume=pl.when(pl.int_range(pl.len()) < pl.len() - 1).then(0.0).otherwise(9.0))
    assert compute_features(quiet, XNYS)["relative_volume_20"].null_count() == days.height


LOST = ("2024-07-08T15:00", "2024-07-08T16:00")


def with_lost_hour() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features of three sessions of minutes, whole, and with an hour of the second lost."""
    bars = minutes_of(date(2024, 7, 5), date(2024, 7, 9))
    holed = bars.filter(~between(*LOST))
    return compute_features(bars, XNYS), compute_features(holed, XNYS, gap(AAPL, *LOST))


def test_the_step_across_a_gap_is_unknown() -> None:
    _, holed = with_lost_hour()
    steps = ["simple_return", "log_return", "true_range"]
    after = holed.filter(pl.col("time") >= at("2024-07-05T13:31"))
    assert after.filter(pl.any_horizontal(pl.col(steps).is_null()))["time"].to_list() == [at(LOST[1])]


def test_volatility_begins_anew_after_a_gap_and_means_go_on() -> None:
    whole, holed = with_lost_hour()
    after = holed.filter(pl.col("time") >= at(LOST[1]))
    for name in ("volatility_20", "yang_zhang_20"):
        assert after[name].is_null().arg_min() == 20, name
    for name in ("parkinson_20", "garman_klass_20", "rogers_satchell_20"):
        assert after[name].is_null().arg_min() == 19, name
    for name in (
        "sma_20",
        "bb_upper_20",
        "slope_14",
        "ema_20",
        "rsi_14",
        "atr_14",
        "adx_14",
        "macd",
        "trend",
    ):
        assert after[name].null_count() == 0, name
    # From then on a gap has no part in them.
    names = [
        "volatility_20",
        "parkinson_20",
        "garman_klass_20",
        "rogers_satchell_20",
        "yang_zhang_20",
        "sma_20",
    ]
    late = pl.col("time") >= at(LOST[1]) + timedelta(minutes=20)
    assert_frame_equal(holed.filter(late).select(names), whole.filter(late).select(names))


def test_a_gap_is_flagged_as_long_as_any_column_remembers_it() -> None:
    whole, holed = with_lost_hour()
    assert not whole["gap_in_window"].any()
    flagged = holed.with_row_index("row").filter("gap_in_window")
    first = holed["time"].to_list().index(at(LOST[1]))
    assert flagged["row"].to_list() == list(range(first, first + MEMORY))


def test_the_vwap_of_a_session_that_lost_its_open_is_flagged_to_its_end() -> None:
    slots = extended_minutes(date(2024, 7, 8), date(2024, 7, 9))
    bars = walk(AAPL, slots).filter(~between("2024-07-08T13:30", "2024-07-08T14:00"))
    features = compute_features(bars, XNYS, gap(AAPL, "2024-07-08T13:30", "2024-07-08T14:00"))
    flagged = features.filter("gap_in_window")["time"]
    # Ten hours of minutes are more than the memory; the next day begins with a clean slate.
    assert (
        flagged.to_list()
        == features.filter(between("2024-07-08T14:00", "2024-07-09T00:00"))["time"].to_list()
    )


def test_minutes_without_trades_are_no_gap() -> None:
    bars = minutes_of(date(2024, 7, 5), date(2024, 7, 9)).filter(~between(*LOST))
    features = compute_features(bars, XNYS)
    assert not features["gap_in_window"].any()
    assert only(features, LOST[1])["simple_return"] is not None
    assert features["volatility_20"].null_count() == 20


@pytest.mark.parametrize(
    "other",
    [
        gap(AAPL, *LOST),  # the bars have arrived since
        gap(Series("MSFT", Timeframe.M1), *LOST),
        gap(Series("AAPL", Timeframe.M5), *LOST),
        gap(AAPL, "2024-06-03T13:30", "2024-06-03T20:00"),
        gap(AAPL, "2024-07-19T13:30", "2024-07-19T20:00"),
        GAP_SCHEMA.to_frame(),
    ],
    ids=["filled", "other symbol", "other timeframe", "before", "after", "none"],
)
def test_gaps_of_others_change_nothing(other: pl.DataFrame) -> None:
    bars = minutes_of(date(2024, 7, 5), date(2024, 7, 9))
    assert_frame_equal(compute_features(bars, XNYS, other), compute_features(bars, XNYS), check_exact=True)


def test_a_gap_over_closed_hours_is_crossed_where_slots_are_lost() -> None:
    bars = walk(AAPL, extended_minutes(date(2024, 7, 8), date(2024, 7, 9)))
    # The gap is one stretch of slots over the night; bars of extended hours lie inside it.
    lost = between("2024-07-08T19:50", "2024-07-08T20:00") | between("2024-07-09T13:30", "2024-07-09T13:40")
    features = compute_features(bars.filter(~lost), XNYS, gap(AAPL, "2024-07-08T19:50", "2024-07-09T13:40"))
    unknown = features[1:].filter(pl.col("simple_return").is_null())["time"].to_list()
    assert unknown == [at("2024-07-08T20:00"), at("2024-07-09T13:40")]


def test_relative_volume_is_flagged_at_the_lost_minutes_of_the_20_days_after() -> None:
    lost = ("2024-06-04T15:00", "2024-06-04T15:02")
    bars = minutes_of(date(2024, 4, 29), date(2024, 7, 12)).filter(~between(*lost))
    features = compute_features(bars, XNYS, gap(AAPL, *lost))
    # Past the memory of the other columns, only those two minutes of the day are left.
    later = features.filter("gap_in_window", pl.col("time") >= at("2024-06-06T00:00"))
    days = XNYS.sessions(date(2024, 6, 6), date(2024, 7, 3))
    assert later["time"].to_list() == [
        datetime.combine(day, at(f"2024-06-04T15:0{minute}").timetz()) for day in days for minute in (0, 1)
    ]
    assert len(XNYS.sessions(date(2024, 6, 5), date(2024, 7, 3))) == 20


def test_a_lost_day_lies_in_the_window_of_the_20_days_around_it() -> None:
    bars = minutes_of(date(2024, 4, 29), date(2024, 7, 12)).filter(
        ~between("2024-06-04T13:30", "2024-06-04T20:00")
    )
    features = compute_features(bars, XNYS, gap(AAPL, "2024-06-04T13:30", "2024-06-04T20:00"))
    flagged = features.filter("gap_in_window")["time"].dt.date().unique(maintain_order=True).to_list()
    # 20 sessions with bars reach back to the day before the lost one; the 20th of them reaches over it.
    assert flagged == XNYS.sessions(date(2024, 6, 5), date(2024, 7, 3))


def test_always_open_markets_have_gaps_too() -> None:
    bars = walk(BTC, slots_of(BTC, date(2024, 1, 1), date(2024, 1, 3), CRYPTO).opens)
    lost = ("2024-01-02T23:00", "2024-01-03T01:00")
    features = compute_features(bars.filter(~between(*lost)), CRYPTO, gap(BTC, *lost))
    assert features[1:].filter(pl.col("log_return").is_null())["time"].to_list() == [at(lost[1])]


def test_a_lost_week_is_crossed() -> None:
    weekly = Series("AAPL", Timeframe.W1)
    slots = slots_of(weekly, date(2023, 1, 1), date(2024, 6, 30))
    features = compute_features(
        walk(weekly, np.delete(slots.opens, 40)), XNYS, gap(weekly, "2023-10-08T04:00", "2023-10-15T04:00")
    )
    assert features[1:].filter(pl.col("log_return").is_null())["time"].to_list() == [at("2023-10-15T04:00")]
    assert features["gap_in_window"].arg_true().to_list() == list(range(40, features.height))


@pytest.mark.parametrize("price", [100.0, 33.33, 0.07])
def test_a_series_that_never_moves_has_no_rsi_and_no_trend(price: float) -> None:
    still = day_of(*[price] * 380, opened=price)
    features = compute_features(still, XNYS)
    assert features["rsi_14"].null_count() == features["adx_14"].null_count() == still.height
    assert features["trend"].drop_nulls().unique().to_list() == [0]
    assert features["volatility_20"].drop_nulls().unique().to_list() == [0]
    assert features["bb_upper_20"].drop_nulls().unique().to_list() == [price]


def test_after_one_step_rsi_lives_as_long_as_its_memory() -> None:
    moved = compute_features(day_of(*[100.0] * 20, *[101.0] * 370), XNYS)["rsi_14"]
    assert moved.is_not_null().arg_true().to_list() == list(range(20, 20 + LOOKBACK["rsi_14"]))
    assert moved[20] == 100


def test_trend_follows_price_and_averages() -> None:
    rising = compute_features(day_of(*(100.0 + n for n in range(60))), XNYS)["trend"]
    falling = compute_features(day_of(*(200.0 - n for n in range(60))), XNYS)["trend"]
    assert rising.to_list() == [None] * 25 + [1] * 35
    assert falling.to_list() == [None] * 25 + [-1] * 35
    turned = compute_features(day_of(*(100.0 + n for n in range(60)), 120.0), XNYS)["trend"]
    assert turned[-1] == 0


@pytest.mark.parametrize("price", [None, float("nan"), float("inf"), 0.0, -1.0])
@pytest.mark.parametrize("column", ["open", "high", "low", "close"])
def test_a_price_that_is_none_is_refused(price: float | None, column: str) -> None:
    bars = minutes_of(date(2024, 7, 2))
    spoilt = pl.when(pl.int_range(pl.len()) == 30).then(pl.lit(price, pl.Float64)).otherwise(pl.col(column))
    two = pl.concat([bars.with_columns(spoilt.alias(column)), bars.with_columns(symbol=pl.lit("AAA"))])
    with pytest.raises(ValueError, match="AAPL:1m at 2024-07-02T14:00Z has a price"):
        compute_features(two, XNYS)


def test_a_bar_that_comes_twice_is_refused() -> None:
    bars = minutes_of(date(2024, 7, 2))
    with pytest.raises(ValueError, match="AAPL:1m has more than one bar at 2024-07-02T13:35Z"):
        compute_features(pl.concat([bars, bars[5:6]]), XNYS)


@pytest.mark.parametrize(
    ("timeframe", "stock", "crypto"),
    [
        ("1m", 98_280, 525_600),
        ("15m", 6_552, 35_040),
        ("1h", 1_638, 8_760),
        ("4h", 409.5, 2_190),
        ("1d", 252, 365),
    ],
)
def test_annualisation(timeframe: str, stock: float, crypto: float) -> None:
    length = Timeframe(timeframe)
    assert (periods_per_year(length, XNYS), periods_per_year(length, CRYPTO)) == (stock, crypto)


def test_annualisation_of_weeks() -> None:
    found = [periods_per_year(Timeframe.W1, calendar) for calendar in (XNYS, CRYPTO)]
    assert found == pytest.approx([52, 365 / 7])


def test_the_look_back_holds_twenty_sessions_and_of_week_bars_twenty_weeks() -> None:
    # Thanksgiving and a Saturday in between.
    assert lookback_start(date(2024, 11, 30), Timeframe.M1, XNYS) == XNYS.day_start(date(2024, 11, 1))
    assert lookback_start(date(2024, 11, 30), Timeframe.D1, CRYPTO) == at("2024-11-10T00:00")
    assert lookback_start(date(2024, 12, 1), Timeframe.W1, XNYS) == XNYS.day_start(date(2024, 7, 14))


def test_neither_features_nor_gaps_of_another_series_are_history() -> None:
    first, second = (
        walk(Series(symbol, Timeframe.D1), slots_of(DAILY, date(2024, 1, 1), date(2024, 4, 1)).opens, seed)
        for seed, symbol in enumerate(("AAA", "BBB"))
    )
    lost = gap(Series("AAA", Timeframe.D1), "2024-03-12T04:00", "2024-03-13T04:00")
    first = first.filter(pl.col("time") != at("2024-03-12T04:00"))
    both = compute_features(pl.concat([first, second]), XNYS, lost)
    assert both.filter("gap_in_window", symbol="AAA").height == 13
    assert_frame_equal(both.filter(symbol="BBB"), compute_features(second, XNYS), check_exact=True)
