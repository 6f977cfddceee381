"""Frames into Postgres: one-minute bars through ``write_batch``, batch by batch as an ingest commits them."""

from __future__ import annotations

import resource
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from psycopg import sql

from benchmarks.figures import Figure, Stopwatch
from benchmarks.server import fresh_database, settle
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.merge import MergeCounts
from marketdata_assets.storage.months import ensure_months, months_between
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYMBOLS = 10
_PAGE = 50_000
_PAGES_PER_BATCH = 2
_PASSES = {
    "first load": False,
    "unchanged reload": False,
    "unchanged reload again": False,
    "1 % changed": True,
}
"""The passes, and whether their rows carry other values than the first load's.

The second is the first to read rows that were just written, the third shows the merge alone: README.md.
"""
_START = datetime(2024, 1, 1, tzinfo=UTC)


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """First load, unchanged reload and a reload with 1 % changed, and the floor under them."""
    pages = 1 if quick else 10
    with fresh_database(server_url) as url:
        rates = {}
        with Database(url) as database:
            for kind, changed in _PASSES.items():
                rates[kind] = _load(database, pages, changed=changed)
        # Before the floor: nothing else in this process has touched a bar so far.
        peak = _peak_rss()
        floor = _floor(server_url, url, pages)
    bars = f"{pages * _SYMBOLS * _PAGE:,} 1m bars, "
    beside = {"floor: COPY in the server": floor}
    return [
        Figure(bars + "first load", rates["first load"], "bars/s", "≥ 250,000", beside),
        Figure(bars + "unchanged reload", rates["unchanged reload"], "bars/s", "≥ 400,000", beside),
        Figure(
            bars + "unchanged reload again", rates["unchanged reload again"], "bars/s", "≥ 400,000", beside
        ),
        Figure(bars + "1 % changed", rates["1 % changed"], "bars/s", "", beside),
        Figure(bars + "peak memory of the writer", peak, "MiB", "< 1,024", best=max),
    ]


def _load(database: Database, pages: int, *, changed: bool) -> float:
    settle(database.url)
    writing = Stopwatch()
    counts = MergeCounts()
    for frame in _frames(pages, changed=changed):
        with writing.running():
            counts += write_batch(database, BarBatch(bars=frame))
    return (counts.inserted + counts.changed + counts.unchanged) / writing.seconds


def _frames(pages: int, *, changed: bool) -> Iterator[pl.DataFrame]:
    """Two symbols' pages at a time, as concurrent requests bring them; made when asked for."""
    symbols = [f"S{number:02d}-USD" for number in range(_SYMBOLS)]
    for page in range(pages):
        for first in range(0, _SYMBOLS, _PAGES_PER_BATCH):
            chosen = symbols[first : first + _PAGES_PER_BATCH]
            yield pl.concat([_page(symbol, page, changed=changed) for symbol in chosen])


def _page(symbol: str, page: int, *, changed: bool) -> pl.DataFrame:
    generator = np.random.default_rng([page, *symbol.encode()])
    close = 100 * np.exp(np.cumsum(generator.normal(0, 1e-4, _PAGE)))
    spread = generator.uniform(0, 1e-3, (2, _PAGE))
    start = _START + timedelta(minutes=page * _PAGE)
    every_hundredth = np.arange(_PAGE) % 100 == 0
    return (
        pl.DataFrame(
            {
                "time": pl.datetime_range(
                    start, start + timedelta(minutes=_PAGE), "1m", closed="left", eager=True
                ),
                "open": np.roll(close, 1),
                "high": np.maximum(close, np.roll(close, 1)) * (1 + spread[0]),
                "low": np.minimum(close, np.roll(close, 1)) * (1 - spread[1]),
                "close": close,
                "volume": generator.integers(1, 100_000, _PAGE) + (0.5 * every_hundredth if changed else 0),
                "vwap": close,
                "transactions": generator.integers(1, 100, _PAGE),
            }
        )
        .select(
            pl.lit(symbol).alias("symbol"),
            pl.lit("1m").alias("timeframe"),
            pl.all(),
            pl.lit(1).alias("base_bars"),
        )
        .cast(BAR_SCHEMA)
    )


def _peak_rss() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _floor(server_url: str, loaded_url: str, pages: int) -> float:
    """The same rows from a file that the server reads itself into the same tables in another database."""
    columns = sql.SQL(", ").join(map(sql.Identifier, OHLCV.columns))
    copying = Stopwatch()
    with connect(loaded_url, application_name="benchmarks") as connection:
        folder = connection.execute("select current_setting('data_directory')").fetchone()
        file = sql.Literal(f"{folder[0] if folder else ''}/benchmark.copy")
        connection.execute(sql.SQL("copy (select {} from ohlcv) to {} (format binary)").format(columns, file))
    with fresh_database(server_url) as url, connect(url, application_name="benchmarks") as connection:
        ensure_months(connection, months_between(_START, _START + timedelta(minutes=pages * _PAGE)))
        connection.commit()
        settle(url)
        with copying.running():
            rows = connection.execute(
                sql.SQL("copy ohlcv ({}) from {} (format binary)").format(columns, file)
            ).rowcount
            connection.commit()
    return rows / copying.seconds
