"""The HTTP API under load: `marketdata serve` over 20 million minutes, asked from another process; and `bars()` itself."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import httpx
import polars as pl

from benchmarks.figures import Figure
from benchmarks.load import at_rate, one_by_one
from benchmarks.server import free_port, fresh_database, settle
from benchmarks.walks import random_walk
from marketdata_assets import bars
from marketdata_assets.api.formats import ARROW, JSON
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.actions import store_actions
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SYMBOLS, _SYMBOLS_QUICK = 41, 4
_FIRST, _LAST = date(2020, 1, 1), date(2024, 12, 31)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_SPLIT = date(2022, 6, 6)
_REQUESTS, _REQUESTS_QUICK = 1_500, 300
_YEARS = 24
_PER_SECOND = 50.0


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Latencies of days and years over HTTP, and of days in this process."""
    symbols = [f"S{number:02d}" for number in range(_SYMBOLS_QUICK if quick else _SYMBOLS)]
    count = _REQUESTS_QUICK if quick else _REQUESTS
    choose = random.Random(1)  # noqa: S311 - which days are asked for is no secret
    sessions = calendar_of(AssetClass.STOCK).sessions(_FIRST, _LAST)
    days = [(choose.choice(symbols), choose.choice(sessions)) for _ in range(count)]
    with fresh_database(server_url) as url, Database(url) as database:
        stored = _load(database, symbols)
        settle(url)
        paths = [_path(symbol, day, day) for symbol, day in days]
        years = [
            _path(choose.choice(symbols), date(year, 1, 1), date(year, 12, 31))
            for year in (choose.randrange(2020, 2025) for _ in range(_YEARS))
        ]
        with (
            _serving(url) as port,
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other,
        ):
            other.submit(one_by_one, port, paths[:200], ARROW).result()
            arrow = other.submit(one_by_one, port, paths, ARROW).result()
            json = other.submit(at_rate, port, paths, JSON, _PER_SECOND).result()
            year = other.submit(one_by_one, port, years, ARROW).result()
        inside = _in_process(url, days)
    where = f"{stored:,} minutes of {len(symbols)} stocks: "
    return [
        _figure(
            where + "a day over HTTP as Arrow, p50", _percentile(arrow, 50), "< 5", p90=_percentile(arrow, 90)
        ),
        _figure(where + "the same, p99", _percentile(arrow, 99), "< 25"),
        _figure(
            where + f"a day as JSON, {_PER_SECOND:g} requests a second, p99",
            _percentile(json, 99),
            "< 50",
            p50=_percentile(json, 50),
        ),
        _figure(where + "a year as Arrow, p50", _percentile(year, 50), "< 250", slowest=max(year)),
        _figure(
            where + "a day from bars() in process, p99",
            _percentile(inside, 99),
            "< 5",
            p50=_percentile(inside, 50),
        ),
    ]


def _figure(what: str, seconds: float, target: str, **beside: float) -> Figure:
    milliseconds = {name: value * 1000 for name, value in beside.items()}
    return Figure(what, seconds * 1000, "ms", target, milliseconds, best=min)


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return quantiles(seconds, n=100, method="inclusive")[percent - 1]


def _path(symbol: str, first: date, last: date) -> str:
    return f"/api/v1/historical/{symbol}?timeframe=1m&start={first}&end={last}&limit=100000"


def _in_process(url: str, days: Sequence[tuple[str, date]]) -> list[float]:
    seconds = []
    for symbol, day in [*days[:50], *days]:
        started = time.perf_counter()
        bars(symbol, "1m", day, day, database_url=url)
        seconds.append(time.perf_counter() - started)
    return seconds[50:]


@contextmanager
def _serving(url: str) -> Iterator[int]:
    """The port of a server in another process, as users run it, without a limit on requests."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="marketdata-benchmarks-") as folder:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("marketdata")),
                *("serve", "--port", str(port), "--requests-per-second", "1000000"),
            ],
            env={**os.environ, "DATABASE_URL": url, "MARKETDATA_HOME": folder},
            cwd=folder,
        )
        try:
            while not _answers(port):
                if process.poll() is not None:
                    message = "marketdata serve ended before it served: see what it said above"
                    raise RuntimeError(message)
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.TransportError:
        return False


def _load(database: Database, symbols: Sequence[str]) -> int:
    """Five years of regular minutes of each symbol, and one split in the middle."""
    add_symbols(
        database,
        [TrackedSymbol(one, AssetClass.STOCK, timeframes=(Timeframe.M1,)) for one in symbols],
    )
    splits = [
        {"symbol": one, "execution_date": _SPLIT, "split_from": 1.0, "split_to": 4.0} for one in symbols
    ]
    listed = pl.DataFrame(splits, schema=SCHEMAS[ActionKind.SPLITS])
    store_actions(database, ActionKind.SPLITS, listed, symbols=symbols, endpoint="/", today=_NOW.date())
    window = Window(
        datetime.combine(_FIRST, datetime.min.time(), UTC),
        datetime.combine(_LAST, datetime.min.time(), UTC) + timedelta(days=2),
    )
    series = Series(symbols[0], Timeframe.M1)
    opens = expected_by_series({series: AssetClass.STOCK}, window, _NOW)[series].opens
    for number, symbol in enumerate(symbols):
        write_batch(database, BarBatch(random_walk(symbol, Timeframe.M1, opens, number)))
    with connect(database.url, application_name="benchmarks") as connection:
        connection.autocommit = True
        # Freezing writes out now what reading would mark otherwise.
        connection.execute("vacuum (freeze, analyze) ohlcv")
    return len(opens) * len(symbols)
