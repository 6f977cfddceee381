"""Range runs: what Dagster itself costs when every bar is stored already and no request is made."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from benchmarks.figures import Figure
from benchmarks.server import fresh_database, settle
from marketdata_assets.config import load_settings
from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.instance.environment import prepare_environment, sync_series
from marketdata_assets.defs.partitions import day_by_series
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.jobs import BARS_JOB
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.domain.series import Series

_FIRST = date(2024, 1, 1)
_DAYS = 100
_PARTITIONS = (1_000, 5_000, 10_000)
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Seconds per 1,000 partitions, beside the same run of an asset that does nothing."""
    sizes = _PARTITIONS[:1] if quick else _PARTITIONS
    with (
        tempfile.TemporaryDirectory(prefix="marketdata-benchmarks-") as home,
        fresh_database(server_url) as url,
        Database(url) as database,
    ):
        os.environ |= {"MARKETDATA_HOME": str(Path(home)), "DATABASE_URL": url}
        prepare_environment(load_settings())
        symbols = [
            TrackedSymbol(f"C{number:03d}-USD", AssetClass.CRYPTO, timeframes=(Timeframe.H1,))
            for number in range(max(sizes) // _DAYS)
        ]
        add_symbols(database, symbols)
        series = [one for symbol in symbols for one in symbol.series]
        _store(database, series)
        with dg.DagsterInstance.get() as instance:
            sync_series(instance, database)
            real, empty = build_definitions(), _nothing()
            # The first run of a process pays for imports and connections.
            _seconds(real, instance, BARS_JOB, series[:1])
            figures = []
            for size in sizes:
                chosen = series[: size // _DAYS]
                settle(url)
                taken = _seconds(real, instance, BARS_JOB, chosen)
                floor = _seconds(empty, instance, "nothing", chosen)
                figures.append(
                    Figure(
                        f"range run of {size:,} stored partitions",
                        taken * 1000 / size,
                        "s per 1,000",
                        "≤ 1.50",
                        {"floor: an asset that does nothing": floor * 1000 / size},
                        best=min,
                    )
                )
    return figures


def _store(database: Database, series: Sequence[Series]) -> None:
    """Hourly bars of every series and day, and the coverage that says so."""
    start = datetime(_FIRST.year, _FIRST.month, _FIRST.day, tzinfo=UTC)
    window = Window(start, start + timedelta(days=_DAYS))
    times = pl.datetime_range(window.start, window.end, "1h", closed="left", eager=True)
    for one in series:
        bars = pl.DataFrame({"time": times}).select(
            pl.lit(one.symbol).alias("symbol"),
            pl.lit(one.timeframe.value).alias("timeframe"),
            "time",
            *(pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close", "volume", "vwap")),
            pl.lit(1).alias("transactions"),
            pl.lit(60).alias("base_bars"),
        )
        write_batch(database, BarBatch(bars=bars.cast(BAR_SCHEMA), covered={one: [window]}))


def _nothing() -> dg.Definitions:
    @dg.asset(
        partitions_def=day_by_series(load_settings().start), backfill_policy=dg.BackfillPolicy.single_run()
    )
    def nothing() -> None:
        pass

    return dg.Definitions(
        assets=[nothing],
        jobs=[dg.define_asset_job("nothing", selection=["nothing"])],
        executor=dg.in_process_executor,
    )


def _seconds(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, series: Sequence[Series]
) -> float:
    tags = Rectangle(_FIRST, _FIRST + timedelta(days=_DAYS - 1), tuple(series)).tags
    started = time.perf_counter()
    definitions.resolve_job_def(job).execute_in_process(
        run_config={"loggers": _QUIET}, instance=instance, tags=tags
    )
    return time.perf_counter() - started
