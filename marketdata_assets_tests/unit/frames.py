"""Hand-made bars for the unit tests."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA, VENDOR_SCHEMA
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import Series


def at(text: str) -> datetime:
    """``2024-01-02T15:00`` as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str) -> Window:
    return Window(at(start), at(end))


def days_window(calendar: TradingCalendar, first: date, last: date) -> Window:
    """Both days inclusive, from local midnight to local midnight."""
    return Window(calendar.day_start(first), calendar.day_window(last).end)


def minutes(part: Window, step: int = 1) -> list[datetime]:
    count = int(part.duration / timedelta(minutes=1))
    return [part.start + timedelta(minutes=minute) for minute in range(0, count, step)]


def vendor_bars(times: Sequence[datetime]) -> pl.DataFrame:
    """A sound bar at each time. Its values follow from the time, and differ from its neighbours'."""
    rows = []
    for time in times:
        tick = int(time.timestamp()) // 60
        opened = 100 + tick * 37 % 101 / 8
        closed = 100 + tick * 53 % 97 / 8
        rows.append(
            {
                "time": time,
                "open": opened,
                "high": max(opened, closed) + tick % 5 / 4,
                "low": min(opened, closed) - tick % 7 / 4,
                "close": closed,
                "volume": float(tick * 29 % 1009 + 1),
                "vwap": (opened + closed) / 2,
                "transactions": tick % 11 + 1,
            }
        )
    return pl.DataFrame(rows, schema=VENDOR_SCHEMA)


def as_bars(vendor: pl.DataFrame, series: Series) -> pl.DataFrame:
    """``vendor`` in ``BAR_SCHEMA``, unscreened."""
    return vendor.with_columns(
        symbol=pl.lit(series.symbol), timeframe=pl.lit(series.timeframe.value), base_bars=pl.lit(1, pl.Int32)
    ).select(BAR_SCHEMA.names())


def joined(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([BAR_SCHEMA.to_frame(), *frames])
