"""The nightly run, from the tick of its schedule to its last materialization: what all of Dagster adds to the work."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Figure
from benchmarks.platform import LOCATION, Served, served_platform
from benchmarks.server import fresh_database
from benchmarks.vendor import simulator
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols, list_symbols

_SYMBOLS: Final = 60
_DAYS: Final = 8
_TIMEFRAMES: Final = (Timeframe.M1, Timeframe.H1, Timeframe.D1)
_ENDED: Final = {"SUCCESS", "FAILURE", "CANCELED"}
_TICK: Final = """
mutation($selector: ScheduleSelector!, $at: Float) {
  scheduleDryRun(selectorData: $selector, timestamp: $at) {
    ... on DryRunInstigationTick { evaluationResult { runRequests { runConfigYaml tags { key value } } } }
  }
}
"""
_LAUNCH: Final = """
mutation($run: ExecutionParams!) {
  launchRun(executionParams: $run) { ... on LaunchRunSuccess { run { runId } } }
}
"""
_RUN: Final = """
query($id: ID!) {
  runOrError(runId: $id) {
    ... on Run { status creationTime startTime endTime stepStats { stepKey startTime endTime } }
  }
}
"""


def run(server_url: str, *, quick: bool) -> list[Figure]:
    """Seconds of a night over a store that is up to date until then: the three latest sessions are fetched again."""
    symbols = _SYMBOLS // (10 if quick else 1)
    with (
        tempfile.TemporaryDirectory(prefix="marketdata-benchmarks-") as home,
        fresh_database(server_url) as url,
        simulator() as vendor_url,
    ):
        os.environ |= {
            "MARKETDATA_HOME": home,
            "DATABASE_URL": url,
            "POLYGON_API_KEY": "benchmarks",
            "POLYGON_BASE_URL": vendor_url,
            "POLYGON_REQUESTS_PER_MINUTE": "6000",  # as good as off: the limit is measured elsewhere
            "MARKETDATA_START": (datetime.now(UTC).date() - timedelta(days=_DAYS)).isoformat(),
        }
        with Database(url) as database:
            database.transaction(lambda connection: connection.execute("delete from tracked_symbols"))
            add_symbols(
                database,
                [
                    TrackedSymbol(f"N{number:02d}", AssetClass.STOCK, timeframes=_TIMEFRAMES)
                    for number in range(symbols)
                ],
            )
            series = sum(len(one.series) for one in list_symbols(database))
        with served_platform(Path(home)) as platform:
            _night(platform)  # brings what a new store lacks
            night = _night(platform)
    return [
        Figure(
            f"a night of {series} series, from tick to last materialization",
            night.pop("whole"),
            "s",
            "< 25",
            night,
            best=min,
        )
    ]


def _night(platform: Served) -> dict[str, float]:
    """Seconds by part of a nightly run that ticks now for tomorrow's 02:00, so that its days are the latest."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    started = time.time()
    tick = platform.ask(
        _TICK,
        selector={**LOCATION, "scheduleName": "daily_bars"},
        at=(midnight + timedelta(days=1, hours=2)).timestamp(),
    )
    (request,) = tick["scheduleDryRun"]["evaluationResult"]["runRequests"]
    launched = platform.ask(
        _LAUNCH,
        run={
            "selector": {**LOCATION, "pipelineName": "bars_and_gaps"},
            "mode": "default",
            "runConfigData": request["runConfigYaml"],
            "executionMetadata": {"tags": request["tags"]},
        },
    )
    told: dict[str, Any] = {"status": ""}
    while told["status"] not in _ENDED:
        time.sleep(0.1)
        told = platform.ask(_RUN, id=launched["launchRun"]["run"]["runId"])["runOrError"]
    if told["status"] != "SUCCESS":
        message = f"the nightly run ended as {told['status']}"
        raise RuntimeError(message)
    return {
        "whole": told["endTime"] - started,
        "tick and launch": told["creationTime"] - started,
        "queue and start of its process": told["startTime"] - told["creationTime"],
        **{one["stepKey"]: one["endTime"] - one["startTime"] for one in told["stepStats"]},
    }
