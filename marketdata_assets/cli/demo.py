"""``marketdata demo``: the whole pipeline against the vendor simulator, without any setup."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import typer

from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.storage.symbols import TrackedSymbol

SYMBOLS = ("AAPL", "MSFT", "SPY", "DBB", "BTC-USD", "ETH-USD")
"""Two stocks, a liquid and a thin ETF, two crypto pairs."""

_SESSIONS = 10
_REQUESTS_PER_MINUTE = 150


def demo() -> None:
    """Fetch, store, check and repair six symbols in eight timeframes over the last ten sessions, without a key.

    Starts the embedded Postgres and a simulated vendor. View the results in the UI with `marketdata up`.
    """
    from marketdata_assets.cli import backfill
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.defs.resources.polygon import PolygonResource
    from marketdata_assets.defs.runs.backfill import BackfillRequest
    from marketdata_assets.simulator import RunningSimulator, SimulatorConfig
    from marketdata_assets.storage.bars import bars_by_series
    from marketdata_assets.storage.symbols import add_symbols, packaged_universe
    from marketdata_assets.storage.vendor import claim_store

    started = datetime.now(UTC)
    typer.echo("starting Postgres ...", err=True)
    with open_store() as store:
        # Before anything is written: a store of real bars must not even get the demo's symbols.
        claim_store(store.database, simulated=True)
        by_name = {symbol.symbol: symbol for symbol in packaged_universe()}
        tracked = [_in_every_timeframe(by_name[name]) for name in SYMBOLS]
        add_symbols(store.database, tracked)
        first, last = _range(started)
        simulator = RunningSimulator(SimulatorConfig(requests_per_minute=_REQUESTS_PER_MINUTE), port=0)
        with simulator:
            # The simulator accepts any key; the real key, if there is one, must not be sent to it.
            os.environ["POLYGON_API_KEY"], os.environ["POLYGON_BASE_URL"] = "demo", simulator.url
            requested = tuple(series for symbol in tracked for series in symbol.series)
            polygon = PolygonResource(requests_per_minute=_REQUESTS_PER_MINUTE)
            outcome = backfill.run(store, BackfillRequest(requested, first, last), polygon=polygon)
        stored = bars_by_series(store.database)
        _show_bars({series: stored.get(series, 0) for series in requested})
    backfill.show(outcome)
    backfill.report_problems(outcome)
    typer.echo(f"demo: {(datetime.now(UTC) - started).total_seconds():.1f} s in total")
    if not outcome.is_whole:
        raise typer.Exit(1)
    typer.echo("Open the UI with: marketdata up --simulate   (then http://127.0.0.1:3000, asset ohlcv)")


def _in_every_timeframe(symbol: TrackedSymbol) -> TrackedSymbol:
    from dataclasses import replace

    return replace(symbol, timeframes=tuple(Timeframe))


def _range(now: datetime) -> tuple[date, date]:
    """Return the first and last day of the last ten closed sessions, from the Sunday before, so that week bars are complete.

    All bars of these days have closed, so that a second demo on the same day finds nothing new.
    """
    from marketdata_assets.domain.calendar import calendar_of, sunday_of

    calendar = calendar_of(AssetClass.STOCK)
    sessions = calendar.last_sessions(calendar.local_day(now) - timedelta(days=1), _SESSIONS)
    return sunday_of(sessions[0]), sessions[-1]


def _show_bars(bars: Mapping[Series, int]) -> None:
    from rich.table import Table

    from marketdata_assets.cli.console import out

    table = Table("symbol", title="Stored bars by series", title_justify="left")
    for timeframe in Timeframe:
        table.add_column(timeframe.value, justify="right")
    for symbol in dict.fromkeys(series.symbol for series in bars):
        table.add_row(symbol, *(f"{bars.get(Series(symbol, timeframe), 0):,}" for timeframe in Timeframe))
    out.print(table)
