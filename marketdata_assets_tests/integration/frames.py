"""Frames of bars for tests: sound by default, any column replaced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterable

OPEN = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
"""The first regular minute of 2024 in New York."""


def bar(key: str, time: datetime, price: float = 10.0, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - values of any column
    """One bar of the series ``key``; its price never moves."""
    series = Series.parse(key)
    return {
        "symbol": series.symbol,
        "timeframe": series.timeframe.value,
        "time": time,
        "open": price,
        "high": price,
        "low": price,
        "close": price,
        "volume": 100.0,
        "vwap": price,
        "transactions": 7,
        "base_bars": 1,
        **values,
    }


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """``rows`` in ``BAR_SCHEMA``."""
    return pl.DataFrame(list(rows), schema=BAR_SCHEMA, orient="row")


def run_of(
    key: str, count: int, *, start: datetime = OPEN, close: float = 10.0, step: timedelta | None = None
) -> pl.DataFrame:
    """``count`` adjacent bars of the series ``key`` from ``start`` on."""
    length = step or Series.parse(key).timeframe.duration
    return frame(*(bar(key, start + place * length, close) for place in range(count)))


def rows_of(bars: pl.DataFrame) -> list[dict[str, Any]]:
    """``bars`` as comparable rows in the order of their key."""
    return bars.sort("symbol", "timeframe", "time").to_dicts()


def joined(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """All of ``frames`` as one."""
    return pl.concat([BAR_SCHEMA.to_frame(), *frames])
