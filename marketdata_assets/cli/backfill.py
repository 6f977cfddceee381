"""``marketdata backfill``: bring history, through the Dagster asset, with progress and a summary."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.selection import DEFAULT_DAYS, check_days, chosen_days, chosen_symbols
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import Timeframe, parse_timeframes

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from marketdata_assets.automation.backfill import Outcome
    from marketdata_assets.cli.console import FetchProgress
    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.series import Series
    from marketdata_assets.polygon.request import FetchRequest
    from marketdata_assets.polygon.resource import PolygonResource
    from marketdata_assets.storage.symbols import TrackedSymbol


@dataclass(frozen=True, slots=True)
class Request:
    """What a backfill is asked for. Days are local dates, both inclusive."""

    series: tuple[Series, ...]
    first: date
    last: date
    force: bool = False


def backfill(
    *,
    symbols: Annotated[str | None, typer.Option(help="Comma-separated; default every active symbol.")] = None,
    timeframes: Annotated[
        str | None,
        typer.Option(help="Comma-separated, from 1m 5m 15m 30m 1h 4h 1d 1w; default each symbol's own."),
    ] = None,
    days: Annotated[
        int | None, typer.Option(help=f"The last N days, today included; default {DEFAULT_DAYS}.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD, inclusive; default today.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Ask again for what is stored already.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file; - for stdout.")
    ] = None,
) -> None:
    """Bring bars of symbols x timeframes x days; what is stored already is not asked for again.

    A timeframe that a symbol is not tracked in is added to the symbol. Exits with 1 when a symbol failed.
    """
    from marketdata_assets.cli.session import open_store

    now = datetime.now(UTC)
    first, last = chosen_days(days, start, end, now)
    wanted_timeframes = None if timeframes is None else parse_timeframes(timeframes)
    _check_writable(json_path)
    with open_store() as store:
        check_days(first, last, store.settings.start, now)
        tracked = _tracked(store, symbols, wanted_timeframes)
        series = tuple(
            one
            for symbol in tracked
            for one in symbol.series
            if wanted_timeframes is None or one.timeframe in wanted_timeframes
        )
        started = datetime.now(UTC)
        outcome = run(store, Request(series, first, last, force=force))
        seconds = (datetime.now(UTC) - started).total_seconds()
    _report(outcome, seconds, json_path)
    if outcome.failures:
        raise typer.Exit(1)


def run(store: Store, request: Request, *, polygon: PolygonResource | None = None) -> Outcome:
    """Execute ``request`` in this process on the persistent instance, with progress on a terminal."""
    from dagster import DagsterInstance

    from marketdata_assets.automation import backfill as runs
    from marketdata_assets.automation.instance import prepare_environment, sync_series
    from marketdata_assets.automation.ranges import RangeRun, range_runs
    from marketdata_assets.cli.console import FetchProgress, err, progress
    from marketdata_assets.definitions import build_definitions

    prepare_environment(store.settings)
    with DagsterInstance.get() as instance, progress() as bars:
        closed = runs.close_orphans(instance, store.database)
        if closed:
            err.print(
                f"{closed} earlier run(s) of a process that is gone were marked as failed", highlight=False
            )
        ordered = sync_series(instance, store.database)
        planned = range_runs(ordered, request.series, request.first, request.last)
        watcher = FetchProgress(bars)
        task = bars.add_task("runs", total=len(planned), note="")

        def on_run(run: RangeRun) -> None:
            begin, finish = run.series[0], run.series[-1]
            label = f"{begin}" if begin == finish else f"{begin} … {finish}"
            if err.is_terminal:
                bars.update(task, advance=1, note=label)
            else:
                err.print(f"run: {label}, {run.first_day} to {run.last_day}", highlight=False)

        return runs.execute(
            build_definitions(resources={"polygon": watched(polygon, watcher)}),
            instance,
            store.database,
            planned,
            arguments={
                "series": [one.key for one in request.series],
                "start": request.first.isoformat(),
                "end": request.last.isoformat(),
                "force": request.force,
            },
            force=request.force,
            on_run=on_run,
        )


def watched(polygon: PolygonResource | None, watcher: FetchProgress) -> PolygonResource:
    """``polygon`` (default: as the environment says) with ``watcher`` seeing every event of its streams."""
    from marketdata_assets.polygon.resource import FetchEvent, PolygonResource

    class WatchedPolygon(PolygonResource):
        def stream(
            self, requests: Sequence[FetchRequest], *, database_url: str | None = None
        ) -> Generator[FetchEvent]:
            watcher.expect(len(requests))
            for event in super().stream(requests, database_url=database_url):
                watcher.saw(event)
                yield event

    return WatchedPolygon(**(polygon.model_dump() if polygon else {}))


def _tracked(
    store: Store, symbols: str | None, timeframes: tuple[Timeframe, ...] | None
) -> list[TrackedSymbol]:
    """The active symbols that are asked for, tracked in ``timeframes`` too."""
    from dataclasses import replace

    from marketdata_assets.polygon.resource import PolygonResource
    from marketdata_assets.storage.symbols import set_timeframes
    from marketdata_assets.storage.vendor import require_kind

    active = chosen_symbols(store, symbols)
    if symbols is None:
        # Without --symbols, --timeframes narrows: it must not widen what every symbol is tracked in.
        return active
    chosen = []
    for symbol in active:
        missing = [timeframe for timeframe in timeframes or () if timeframe not in symbol.timeframes]
        if not missing:
            chosen.append(symbol)
            continue
        # Nothing is widened for a backfill that cannot start.
        require_kind(store.database, simulated=PolygonResource().ready().is_simulated)
        wider = tuple(one for one in Timeframe if one in {*symbol.timeframes, *missing})
        set_timeframes(store.database, symbol.symbol, wider)
        typer.echo(f"{symbol.symbol}: tracked in {', '.join(missing)} from now on", err=True)
        chosen.append(replace(symbol, timeframes=wider))
    return chosen


def _check_writable(json_path: Path | None) -> None:
    """Raises before the work, not after it, when its summary cannot be written."""
    if json_path is None or str(json_path) == "-":
        return
    try:
        with json_path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        message = (
            f"--json {json_path} cannot be written ({error.strerror}): give a file in a folder that exists"
        )
        raise ConfigurationError(message) from None


def _report(outcome: Outcome, seconds: float, json_path: Path | None) -> None:
    from marketdata_assets.automation.backfill import summary

    facts = {"duration_seconds": round(seconds, 3), **summary(outcome)}
    text = json.dumps(facts, indent=2)
    if json_path is not None and str(json_path) == "-":
        sys.stdout.write(text + "\n")
    else:
        for line in describe(outcome, seconds):
            typer.echo(line)
        if json_path is not None:
            json_path.write_text(text + "\n", encoding="utf-8")
    for symbol, reason in outcome.failures.items():
        typer.echo(f"failed: {symbol}: {reason}", err=True)


def describe(outcome: Outcome, seconds: float) -> list[str]:
    """The summary for people."""
    return [
        (
            f"{outcome.rows_inserted:,} bars inserted, {outcome.rows_changed:,} changed, "
            f"{outcome.rows_unchanged:,} unchanged, {outcome.rows_quarantined:,} quarantined"
        ),
        (
            f"{outcome.requests:,} requests ({outcome.pages:,} pages, {outcome.retries:,} retries), "
            f"{outcome.seconds_waited_for_limit:.1f} s waited for the limit by all requests together, {seconds:.1f} s in all"
        ),
    ]
