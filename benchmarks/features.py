"""Features and split adjustment without a database: frames in, frames out, in one process."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from benchmarks.figures import Figure, Stopwatch
from benchmarks.walks import random_walk
from marketdata_assets.domain.adjust import SPLIT_SCHEMA, adjust_for_splits
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.features.recursive import recursive_indicators
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

_YEARS = Window(datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
_QUARTER = Window(_YEARS.start, datetime(2023, 4, 1, tzinfo=UTC))
_DECADE = Window(datetime(2015, 1, 1, tzinfo=UTC), _YEARS.end)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_CALENDAR = calendar_of(AssetClass.STOCK)
_LOST_HOURS = 20


def run(_: str, *, quick: bool) -> list[Figure]:
    """Bars per second: minutes of a few series, the same with gaps, days of many; and adjusting the minutes."""
    minutes = _bars(Timeframe.M1, _QUARTER if quick else _YEARS, 10)
    days = _bars(Timeframe.D1, _DECADE, 40 if quick else 400)
    # The first call imports TA-Lib and makes the calendar's tables.
    compute_features(minutes.head(1_000), _CALENDAR)
    lost = _lost_hours(minutes)
    holed = minutes.join(
        lost.select("symbol", hour="gap_start"),
        left_on=["symbol", pl.col("time").dt.truncate("1h")],
        right_on=["symbol", "hour"],
        how="anti",
    )
    adjusting, multiplying = Stopwatch(), Stopwatch()
    with multiplying.running():
        minutes.with_columns(pl.col("open", "high", "low", "close", "vwap") * 0.25, pl.col("volume") * 4)
    with adjusting.running():
        adjust_for_splits(minutes, _splits(minutes), date(2026, 1, 1), _CALENDAR)
    return [
        _computed(f"all columns, {minutes.height:,} minutes of 10 series", minutes, None, "≥ 1,000,000"),
        _computed(f"the same with {lost.height} lost hours", holed, lost),
        _computed(f"all columns, {days.height:,} days of {days['symbol'].n_unique()} series", days, None),
        Figure(
            f"adjust for two splits each, {minutes.height:,} minutes",
            minutes.height / adjusting.seconds,
            "bars/s",
            beside={"floor: one factor for all": minutes.height / multiplying.seconds},
        ),
    ]


def _computed(what: str, bars: pl.DataFrame, gaps: pl.DataFrame | None, target: str = "") -> Figure:
    alone, whole = Stopwatch(), Stopwatch()
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    edges = np.append(0, bars["symbol"].rle().struct.field("len").cum_sum().to_numpy())
    with alone.running():
        recursive_indicators(high, low, close, edges)
    with whole.running():
        compute_features(bars, _CALENDAR, gaps)
    return Figure(
        what,
        bars.height / whole.seconds,
        "bars/s",
        target,
        {"floor: TA-Lib's nine indicators alone": bars.height / alone.seconds},
    )


def _bars(timeframe: Timeframe, window: Window, series: int) -> pl.DataFrame:
    opens = expected_slots(timeframe, window, _CALENDAR, _NOW).opens
    return pl.concat(random_walk(f"S{number:03d}", timeframe, opens, number) for number in range(series))


def _lost_hours(bars: pl.DataFrame) -> pl.DataFrame:
    """Twenty regular hours of each series, evenly over its history, as gaps."""
    hours = bars.group_by("symbol", time=pl.col("time").dt.truncate("1h"), maintain_order=True).len()
    full = hours.filter(len=60)
    step = full.height // bars["symbol"].n_unique() // _LOST_HOURS
    return (
        full.group_by("symbol", maintain_order=True)
        .agg(gap_start=pl.col("time").gather_every(step).head(_LOST_HOURS))
        .explode("gap_start")
        .with_columns(timeframe=pl.lit(Timeframe.M1.value), gap_end=pl.col("gap_start") + timedelta(hours=1))
    )


def _splits(bars: pl.DataFrame) -> pl.DataFrame:
    rows = [
        (symbol, day, 1.0, 4.0)
        for symbol in bars["symbol"].unique()
        for day in (date(2023, 2, 1), date(2024, 6, 10))
    ]
    return pl.DataFrame(rows, schema=SPLIT_SCHEMA, orient="row")
