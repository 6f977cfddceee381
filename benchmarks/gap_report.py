"""From stored bars to gap rows: sixty stocks' minutes of two years in Postgres, scanned by ``report_gaps``."""

from __future__ import annotations

import resource
import sys
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.figures import Figure, Stopwatch
from benchmarks.server import fresh_database, settle
from marketdata_assets.domain.bars import BAR_SCHEMA, UTC_TIME
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.gaps import report_gaps
from marketdata_assets.storage.bars import BarBatch, read_rows, write_batch
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Iterable

_SERIES = 60
_LOST = 0.001
_FIRST, _LAST, _LAST_QUICK = date(2023, 1, 1), date(2024, 12, 31), date(2023, 3, 12)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Seconds from nothing in memory to gap rows in Postgres, and again when they are there already."""
    last = _LAST_QUICK if quick else _LAST
    series = [Series(f"S{number:02d}", Timeframe.M1) for number in range(_SERIES)]
    days = {one: [_FIRST, last] for one in series}
    with fresh_database(server_url) as url, Database(url) as database:
        add_symbols(
            database,
            [TrackedSymbol(one.symbol, AssetClass.STOCK, timeframes=(Timeframe.M1,)) for one in series],
        )
        slots = _load(database, series, last)
        settle(url)
        reading, scanning, again = Stopwatch(), Stopwatch(), Stopwatch()
        with reading.running():
            _read(database, series, last)
        with scanning.running():
            outcome = report_gaps(database, None, days, now=_NOW, run_id=None)
        with again.running():
            report_gaps(database, None, days, now=_NOW, run_id=None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 2**10
        )
    what = f"{slots:,} slots of {_SERIES} series in Postgres, "
    floor = {"floor: reading the bars' times": reading.seconds}
    return [
        Figure(
            what + f"to {outcome.frame.height:,} gap rows", scanning.seconds, "s", "< 20.00", floor, best=min
        ),
        Figure(what + "and again", again.seconds, "s", "", floor, best=min),
        Figure(what + "peak memory", peak, "MiB", best=max),
    ]


def _load(database: Database, series: Iterable[Series], last: date) -> int:
    """Store all but one in a thousand of the expected minutes; returns how many were expected."""
    window = Window(
        datetime.combine(_FIRST, datetime.min.time(), UTC),
        datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=2),
    )
    expected = expected_by_series(dict.fromkeys(series, AssetClass.STOCK), window, _NOW)
    for number, (one, slots) in enumerate(expected.items()):
        generator = np.random.default_rng(number)
        kept = generator.random(len(slots)) >= _LOST
        kept[0] = True
        prices = {name: pl.lit(100.0) for name in ("open", "high", "low", "close", "vwap")}
        bars = pl.DataFrame({"time": slots.opens[kept]}).select(
            pl.lit(one.symbol).alias("symbol"),
            pl.lit(one.timeframe.value).alias("timeframe"),
            pl.col("time").cast(UTC_TIME),
            **prices,
            volume=pl.lit(1000.0),
            transactions=pl.lit(10),
            base_bars=pl.lit(1),
        )
        write_batch(database, BarBatch(bars=bars.select(BAR_SCHEMA.names()).cast(BAR_SCHEMA)))
    with connect(database.url, application_name="benchmarks") as connection:
        connection.autocommit = True
        connection.execute("vacuum analyze ohlcv")
    return sum(map(len, expected.values()))


def _read(database: Database, series: Iterable[Series], last: date) -> None:
    window = Window(
        datetime.combine(_FIRST, datetime.min.time(), UTC),
        datetime.combine(last, datetime.min.time(), UTC) + timedelta(days=2),
    )
    for one in series:
        read_rows(database, OHLCV, {one: [window]}, columns=["symbol", "timeframe", "time", "base_bars"])
