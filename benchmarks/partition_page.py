"""The partitions page of Dagster's UI when much is materialized."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import dagster as dg

from benchmarks.figures import Figure
from benchmarks.platform import Served, served_platform
from benchmarks.server import fresh_database
from marketdata_assets.config import load_settings
from marketdata_assets.defs.instance.environment import prepare_environment, sync_series
from marketdata_assets.defs.partitions import day_by_series
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols, list_symbols

_SERIES: Final = 66
_DAYS: Final = 1_000
_DAYS_A_RUN: Final = 100
_ASKED: Final = 5
# What the page asks for before it shows anything.
_PAGE: Final = """
query($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on MultiPartitionStatuses {
          primaryDimensionName
          ranges {
            primaryDimStartTime primaryDimEndTime primaryDimStartKey primaryDimEndKey
            secondaryDim {
              ... on DefaultPartitionStatuses { materializedPartitions materializingPartitions failedPartitions }
            }
          }
        }
      }
    }
  }
}
"""


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Seconds of the page's query, over HTTP."""
    days = _DAYS // (10 if quick else 1)
    first = datetime.now(UTC).date() - timedelta(days=days)
    with (
        tempfile.TemporaryDirectory(prefix="marketdata-benchmarks-") as home,
        fresh_database(server_url) as url,
        Database(url) as database,
    ):
        os.environ |= {
            "MARKETDATA_HOME": home,
            "DATABASE_URL": url,
            "MARKETDATA_START": first.isoformat(),
            "POLYGON_API_KEY": "benchmarks",
        }
        prepare_environment(load_settings())
        database.transaction(lambda connection: connection.execute("delete from tracked_symbols"))
        add_symbols(
            database,
            [
                TrackedSymbol(f"C{number:03d}-USD", AssetClass.CRYPTO, timeframes=(Timeframe.H1,))
                for number in range(_SERIES)
            ],
        )
        with dg.DagsterInstance.get() as instance:
            sync_series(instance, database)
            _materialize(instance, database, first, days)
        with served_platform(Path(home)) as platform:
            seconds = [_seconds(platform, days) for _ in range(_ASKED)]
    return [
        Figure(
            f"partitions page of {days * _SERIES:,} materialized partitions",
            min(seconds),
            "s",
            "< 1.5",
            {"asked for the first time": seconds[0]},
            best=min,
        )
    ]


def _materialize(instance: dg.DagsterInstance, database: Database, first: date, days: int) -> None:
    """Record every partition of ``ohlcv``, without a bar: the page shows what Dagster knows."""

    @dg.asset(
        name="ohlcv",
        partitions_def=day_by_series(first),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def recorded() -> None:
        pass

    job = dg.Definitions(
        assets=[recorded],
        jobs=[dg.define_asset_job("recorded", selection=["ohlcv"])],
        executor=dg.in_process_executor,
    ).resolve_job_def("recorded")
    series = tuple(one for symbol in list_symbols(database) for one in symbol.series)
    for begin in range(0, days, _DAYS_A_RUN):
        last = min(begin + _DAYS_A_RUN, days) - 1
        job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            tags=Rectangle(first + timedelta(days=begin), first + timedelta(days=last), series).tags,
        )


def _seconds(platform: Served, days: int) -> float:
    started = time.perf_counter()
    answer = platform.ask(_PAGE, key={"path": ["ohlcv"]})
    taken = time.perf_counter() - started
    shown = 0
    for span in answer["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]:
        whole = date.fromisoformat(span["primaryDimEndKey"]) - date.fromisoformat(span["primaryDimStartKey"])
        shown += (whole.days + 1) * len(span["secondaryDim"]["materializedPartitions"])
    if shown != days * _SERIES:
        message = f"the page shows {shown:,} materialized partitions of {days * _SERIES:,}"
        raise RuntimeError(message)
    return taken
