"""A day computed by itself, from its look-back on, is what the full history gives."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import microseconds, moment_of
from marketdata_assets.domain.features.columns import LOOKBACK, LOOKBACK_BARS, MEMORY, lookback_start
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.gaps import GAP_SCHEMA, find_gaps
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import StoredBars, local_day
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.domain.features.walks import (
    CRYPTO,
    MINUTE,
    XNYS,
    differences,
    extended_minutes,
    slots_of,
    walk,
)

if TYPE_CHECKING:
    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.slots import Integers

AAPL = Series("AAPL", Timeframe.M1)
BTC = Series("BTC-USD", Timeframe.M1)
BARS = 45_000


def partition(
    bars: pl.DataFrame, gaps: pl.DataFrame, first: date, last: date, calendar: TradingCalendar
) -> pl.DataFrame:
    """The features of the days from ``first`` to ``last``, computed from those and their look-back alone."""
    day = bars.select(day=local_day(pl.col("time"), calendar))["day"]
    start, end = day.search_sorted(first), day.search_sorted(last, side="right")
    since = lookback_start(first, Timeframe(bars["timeframe"][0]), calendar)
    back = max(0, bars["time"].search_sorted(since) - LOOKBACK_BARS)
    return compute_features(bars[back:end], calendar, gaps)[start - back :]


def bars_and_gaps(
    series: Series, times: Integers, lost: list[tuple[int, int]], calendar: TradingCalendar, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A walk over ``times`` without the ``lost`` stretches of positions, and these as gaps."""
    keep = np.ones(len(times), dtype=np.bool_)
    for start, length in lost:
        keep[start : start + length] = False
    days = [calendar.local_day(moment_of(int(edge))) for edge in (times[0], times[-1])]
    slots = slots_of(series, days[0], days[1], calendar)
    gone = {series: StoredBars(slots.opens[~np.isin(slots.opens, times[~keep])], None)}
    return walk(series, times[keep], seed), find_gaps(gone, {series: slots})


def thinned(times: Integers, share: float, seed: int) -> Integers:
    return times[np.random.default_rng(seed).random(len(times)) < share]


@pytest.mark.parametrize("calendar", [XNYS, CRYPTO], ids=lambda calendar: calendar.name)
def test_45000_minutes_day_by_day(calendar: TradingCalendar) -> None:
    if calendar is XNYS:
        series, times = AAPL, thinned(extended_minutes(date(2024, 1, 2), date(2024, 4, 19)), 0.8, 1)
    else:
        series = BTC
        times = thinned(slots_of(series, date(2024, 1, 1), date(2024, 2, 20), calendar).opens, 0.8, 1)
    lost = [(5_000, 1), (21_111, 90), (21_300, 2), (24_000, 3_000), (40_000, 20)]
    bars, gaps = bars_and_gaps(series, times[: BARS + 3_113], lost, calendar, seed=2)
    assert bars.height == BARS
    full = compute_features(bars, calendar, gaps)
    assert full["gap_in_window"].any()
    assert full["relative_volume_20"].is_not_null().any()
    day = full.select(local_day(pl.col("time"), calendar))["time"]
    for first in day.unique(maintain_order=True):
        assert differences(partition(bars, gaps, first, first, calendar), full.filter(day == first)) == []


def on_closed_days(timeframe: Timeframe, opens: Integers, every: int) -> Integers:
    """Bar opens on every ``every``-th day without a session, at all hours; none for 0."""
    if not every:
        return opens[:0]
    first, last = (XNYS.local_day(moment_of(int(edge))) for edge in (opens[0], opens[-1]))
    days = pl.date_range(first, last, eager=True).to_list()
    closed = [day for day in days if not XNYS.is_session(day)][::every]
    step = min(timeframe.duration, timedelta(days=1)) // timedelta(microseconds=1)
    edges = [(microseconds(XNYS.day_start(day)), microseconds(XNYS.day_window(day).end)) for day in closed]
    return np.concatenate(
        [np.arange(start, end, step)[:: 1 if step > MINUTE * 60 else 7] for start, end in edges]
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Series, TradingCalendar, pl.DataFrame, pl.DataFrame]:
    calendar = draw(st.sampled_from([XNYS, CRYPTO]))
    timeframe, last = draw(
        st.sampled_from(
            [
                (Timeframe.M15, date(2023, 5, 31)),
                (Timeframe.H1, date(2024, 3, 28)),
                (Timeframe.H4, date(2025, 6, 30)),
                (Timeframe.D1, date(2028, 1, 1)),
            ]
        )
    )
    series = Series("AAPL" if calendar is XNYS else "BTC-USD", timeframe)
    seed = draw(st.integers(0, 1_000))
    slots = slots_of(series, date(2023, 1, 1), last, calendar)
    times = thinned(slots.opens, draw(st.sampled_from([1.0, 0.9, 0.3])), seed)
    if calendar is XNYS:
        times = np.union1d(times, on_closed_days(timeframe, slots.opens, draw(st.sampled_from([0, 0, 1, 7]))))
    position, length = st.integers(0, len(times) - 2), st.sampled_from([1, 2, 30, 200])
    lost = draw(st.lists(st.tuples(position, length), max_size=5))
    bars, gaps = bars_and_gaps(series, times, lost, calendar, seed)
    return series, calendar, bars, gaps


@given(histories(), st.data())
@examples(60)
def test_any_days_of_any_history(
    history: tuple[Series, TradingCalendar, pl.DataFrame, pl.DataFrame], data: st.DataObject
) -> None:
    _, calendar, bars, gaps = history
    days = bars.select(local_day(pl.col("time"), calendar))["time"].unique(maintain_order=True)
    start = data.draw(st.integers(0, len(days) - 1))
    end = data.draw(st.integers(start, min(start + 40, len(days) - 1)))
    full = compute_features(bars, calendar, gaps)
    wanted = full.filter(local_day(pl.col("time"), calendar).is_between(days[start], days[end]))
    assert differences(partition(bars, gaps, days[start], days[end], calendar), wanted) == []


def test_each_column_forgets_within_its_look_back() -> None:
    bars = walk(AAPL, extended_minutes(date(2024, 1, 2), date(2024, 1, 12)), seed=3)
    full = compute_features(bars, XNYS)
    for start in range(0, bars.height - MEMORY - 1, 131):
        short = compute_features(bars[start : start + MEMORY + 1], XNYS)
        for name, length in LOOKBACK.items():
            # What lies before the local day and is no column of a window of bars is left out.
            found, wanted = short[length : length + 1], full[start + length : start + length + 1]
            wrong = differences(found, wanted, columns=[name])
            assert [line for line in wrong if line.startswith(f"{name}:")] == [], start


def test_a_flat_stretch_as_long_as_the_memory_hides_nothing() -> None:
    daily = Series("AAPL", Timeframe.D1)
    bars = walk(daily, slots_of(daily, date(2014, 1, 2), date(2023, 12, 29)).opens, seed=4)
    flat = pl.int_range(pl.len()).is_between(1_000, 1_499)
    still = pl.lit(bars["close"][1_000])
    bars = bars.with_columns(
        pl.when(flat).then(still).otherwise(pl.col(name)).alias(name)
        for name in ("open", "high", "low", "close", "vwap")
    )
    full = compute_features(bars, XNYS)
    empty = GAP_SCHEMA.to_frame()
    days = full.select(local_day(pl.col("time"), XNYS))["time"]
    for row in range(1_000, 2_000, 13):
        day = days[row]
        assert differences(partition(bars, empty, day, day, XNYS), full[row : row + 1]) == [], row
