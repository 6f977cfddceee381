"""Hand-made completeness for the unit tests."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA
from marketdata_assets.storage.completeness import MATRIX_SCHEMA, RECENT_DAYS

LAST = date(2024, 7, 5)
FIRST = LAST - timedelta(days=RECENT_DAYS - 1)
TIMEFRAMES = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w")
STATUSES = (("whole", 0), ("gaps", 1), ("gaps", 40), ("gaps", 90), ("empty", 100), ("unchecked", 100))
"""A status, and how many of a hundred bars are missing."""


def matrix_of(symbols: int, timeframes: tuple[str, ...] = TIMEFRAMES) -> pl.DataFrame:
    """``MATRIX_SCHEMA`` of S0, S1 …, the statuses in turn."""
    rows = [
        {
            "symbol": f"S{number}",
            "timeframe": timeframe,
            **_counts(number * len(timeframes) + place),
            "as_of": LAST,
        }
        for number in range(symbols)
        for place, timeframe in enumerate(timeframes)
    ]
    return pl.DataFrame(rows, schema=MATRIX_SCHEMA)


def days_of(symbols: int, timeframes: tuple[str, ...] = TIMEFRAMES, start: date = FIRST) -> pl.DataFrame:
    """``DAILY_COMPLETENESS_SCHEMA`` of S0, S1 … from ``start`` to the last day, the statuses in turn."""
    rows = [
        {
            "symbol": f"S{number}",
            "timeframe": timeframe,
            "day": start + timedelta(days=day),
            **_counts(day if number else 0),
        }
        for number in range(symbols)
        for timeframe in timeframes
        for day in range((LAST - start).days + 1)
    ]
    return pl.DataFrame(rows, schema=DAILY_COMPLETENESS_SCHEMA)


def _counts(turn: int) -> dict[str, object]:
    status, missing = STATUSES[turn % len(STATUSES)]
    return {
        "expected_bars": 100,
        "present_bars": 100 - missing,
        "no_trade_bars": 0,
        "missing_bars": missing,
        "completeness": (100 - missing) / 100,
        "status": status,
    }
