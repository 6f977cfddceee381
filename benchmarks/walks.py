"""Bars that look like a market's, made from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA

if TYPE_CHECKING:
    from marketdata_assets.domain.slots import Integers
    from marketdata_assets.domain.timeframe import Timeframe


def random_walk(symbol: str, timeframe: Timeframe, times: Integers, seed: int) -> pl.DataFrame:
    """``BAR_SCHEMA``: a bar at each of ``times`` (int64 microseconds, UTC), each opening at the close before it."""
    random = np.random.default_rng(seed)
    count = len(times)
    close = 100 * np.exp(np.cumsum(random.normal(0, 3e-4, count)))
    opened = np.append(100.0, close[:-1])
    high = np.maximum(opened, close) * (1 + 2e-4 * random.random(count))
    low = np.minimum(opened, close) * (1 - 2e-4 * random.random(count))
    bars = pl.DataFrame(
        {
            "symbol": pl.repeat(symbol, count, eager=True),
            "timeframe": pl.repeat(timeframe.value, count, eager=True),
            "time": pl.Series(times).cast(BAR_SCHEMA["time"]),
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "volume": np.ceil(random.lognormal(6, 1, count)),
            "vwap": (high + low) / 2,
            "transactions": pl.repeat(10, count, eager=True),
            "base_bars": pl.repeat(1, count, eager=True),
        }
    )
    return bars.select(BAR_SCHEMA.names()).cast(BAR_SCHEMA)
