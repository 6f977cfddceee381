"""Made-up price paths, and how far two computations of their features may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of, microseconds
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets_tests.unit.frames import at, days_window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.slots import Integers, Slots

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)

MINUTE = 60_000_000
VALUES = [name for name in FEATURES_SCHEMA if name not in ("symbol", "timeframe", "time", "gap_in_window")]
OF_PRICE = ("macd", "macd_signal", "slope_14")


def slots_of(series: Series, first: date, last: date, calendar: TradingCalendar = XNYS) -> Slots:
    return expected_slots(
        series.timeframe, days_window(calendar, first, last), calendar, at("2039-01-01T00:00")
    )


def extended_minutes(first: date, last: date) -> Integers:
    """Every minute from 04:00 to 20:00 of every session."""
    windows = [session.extended for day in XNYS.sessions(first, last) if (session := XNYS.session(day))]
    edges = [(microseconds(part.start), microseconds(part.end)) for part in windows]
    return np.concatenate([np.arange(start, end, MINUTE) for start, end in edges])


def walk(series: Series, times: Integers | Sequence[datetime], seed: int = 0) -> pl.DataFrame:
    """A random walk on a grid of cents, with quiet and wild stretches; whole shares."""
    moments = pl.Series("time", times).cast(UTC_TIME)
    count = len(moments)
    random = np.random.default_rng(seed)
    wildness = 3e-4 * np.exp(1.5 * np.sin(np.arange(count) / 700))
    close = 100 * np.exp(np.cumsum(random.normal(0, 1, count) * wildness))
    opened = np.roll(close, 1) * (1 + random.normal(0, 1, count) * wildness / 3)
    opened[:1] = close[:1]
    high = np.maximum(opened, close) * (1 + np.abs(random.normal(0, 1, count)) * wildness)
    low = np.minimum(opened, close) * (1 - np.abs(random.normal(0, 1, count)) * wildness)
    cents = {"open": opened, "high": high, "low": low, "close": close, "vwap": (high + low) / 2}
    return pl.DataFrame(
        {
            "symbol": [series.symbol] * count,
            "timeframe": [series.timeframe.value] * count,
            "time": moments,
            **{name: np.round(values, 2) for name, values in cents.items()},
            "volume": np.ceil(random.lognormal(6, 1.5, count)),
        }
    )


def gap(series: Series, start: str | datetime, end: str | datetime) -> pl.DataFrame:
    edges = [at(edge) if isinstance(edge, str) else edge for edge in (start, end)]
    return pl.DataFrame(
        {
            "symbol": [series.symbol],
            "timeframe": [series.timeframe.value],
            "gap_start": pl.Series(edges[:1], dtype=UTC_TIME),
            "gap_end": pl.Series(edges[1:], dtype=UTC_TIME),
        }
    )


def differences(
    found: pl.DataFrame, wanted: pl.DataFrame, price: float = 100.0, columns: Sequence[str] = VALUES
) -> list[str]:
    """Where ``columns`` of two computations of the same rows differ by more than 1e-9; MACD and slope relative to the price."""
    assert found.select("symbol", "timeframe", "time").equals(wanted.select("symbol", "timeframe", "time"))
    wrong = [] if found["gap_in_window"].equals(wanted["gap_in_window"]) else ["gap_in_window"]
    for name in columns:
        values, other = (frame[name].cast(pl.Float64) for frame in (found, wanted))
        if not values.is_null().equals(other.is_null()):
            wrong.append(f"{name}: nulls")
            continue
        scale = pl.Series([price] * len(values)) if name in OF_PRICE else other.abs()
        apart = ((values - other).abs() > 1e-9 * scale).arg_true()
        if len(apart):
            row = int(apart[0])
            wrong.append(f"{name}: {values[row]} for {other[row]} at {wanted['time'][row]}")
    return wrong
