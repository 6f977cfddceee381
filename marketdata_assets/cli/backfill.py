"""``marketdata backfill``: fetch history through the Dagster asset, with progress and a summary."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.files import check_writable, is_stdout, write_file
from marketdata_assets.cli.options import Days, End, Start, Symbols, Timeframes
from marketdata_assets.cli.selection import (
    choose_days,
    choose_series,
    choose_symbols,
    validate_days,
)
from marketdata_assets.domain.timeframe import Timeframe, parse_timeframes

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from marketdata_assets.cli.progress import ConsoleProgress
    from marketdata_assets.cli.session import Store
    from marketdata_assets.defs.resources.polygon import PolygonResource
    from marketdata_assets.defs.runs.backfill import BackfillRequest, Outcome
    from marketdata_assets.polygon.vendor import BarRequest, FetchEvent
    from marketdata_assets.storage.symbols import TrackedSymbol

_GAPS_SHOWN = 5


def backfill(
    *,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    days: Days = None,
    start: Start = None,
    end: End = None,
    with_features: Annotated[
        bool, typer.Option("--features/--no-features", help="Compute stale features.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Fetch days again that are already stored.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file; - for stdout.")
    ] = None,
) -> None:
    """Fetch bars, scan for gaps, refetch what is missing, compute features and update the completeness matrix.

    Days that are already stored are not fetched again. Splits, dividends and earnings are fetched when those of a
    stock or ETF never were, because features need its splits. A timeframe that a symbol is not tracked in is added
    to the symbol. Exits with 1 when a symbol failed or a gap stays open or unfilled.
    """
    from marketdata_assets.cli.session import open_store, require_vendor_of
    from marketdata_assets.defs.runs.backfill import BackfillRequest

    now = datetime.now(UTC)
    chosen = choose_days(days, start, end, now)
    wanted_timeframes = None if timeframes is None else parse_timeframes(timeframes)
    if json_path is not None and not is_stdout(json_path):
        check_writable("--json", json_path)
    with open_store() as store:
        require_vendor_of(store)
        first, last = validate_days(chosen, store.settings.start, now)
        series = choose_series(_track_timeframes(store, symbols, wanted_timeframes), wanted_timeframes)
        outcome = run(
            store, BackfillRequest(tuple(series), first, last, force=force, with_features=with_features)
        )
    _report(outcome, json_path)
    if not outcome.is_whole:
        raise typer.Exit(1)


def run(store: Store, request: BackfillRequest, *, polygon: PolygonResource | None = None) -> Outcome:
    """Execute ``request`` in this process on the persistent instance, with progress on a terminal."""
    from marketdata_assets.cli.progress import console_progress
    from marketdata_assets.defs.runs.backfill import execute, execute_idle

    with console_progress() as progress:
        idle = execute_idle(
            store.database,
            request,
            earliest=store.settings.start,
            progress=progress,
            now=datetime.now(UTC),
        )
    if idle is not None:
        return idle
    from marketdata_assets.cli.session import open_instance
    from marketdata_assets.definitions import build_definitions
    from marketdata_assets.defs.instance.environment import sync_series

    with open_instance(store, "backfill") as (instance, command), console_progress() as progress:
        return execute(
            build_definitions(resources={"polygon": watch_vendor(polygon, progress)}),
            instance,
            store.database,
            request,
            command=command,
            ordered=sync_series(instance, store.database),
            earliest=store.settings.start,
            progress=progress,
        )


def watch_vendor(polygon: PolygonResource | None, watcher: ConsoleProgress) -> PolygonResource:
    """Return ``polygon`` (default: from the environment) that passes every event of its streams to ``watcher``, too."""
    from marketdata_assets.defs.resources.polygon import PolygonResource

    class WatchedPolygon(PolygonResource):
        def stream(
            self, requests: Sequence[BarRequest], *, database_url: str | None = None
        ) -> Generator[FetchEvent]:
            watcher.expect(requests)
            for event in super().stream(requests, database_url=database_url):
                watcher.note_event(event)
                yield event

    return WatchedPolygon(**(polygon.model_dump() if polygon else {}))


def _track_timeframes(
    store: Store, symbols: str | None, timeframes: tuple[Timeframe, ...] | None
) -> list[TrackedSymbol]:
    """Return the requested active symbols, which are tracked in ``timeframes`` from now on."""
    from dataclasses import replace

    from marketdata_assets.storage.symbols import set_timeframes

    active = choose_symbols(store, symbols)
    if symbols is None:
        # Without --symbols, --timeframes only selects: it must not add timeframes to every symbol.
        return active
    chosen = []
    for symbol in active:
        missing = [timeframe for timeframe in timeframes or () if timeframe not in symbol.timeframes]
        if not missing:
            chosen.append(symbol)
            continue
        # A backfill that cannot start must not add timeframes.
        from marketdata_assets.defs.resources.polygon import PolygonResource

        PolygonResource().ready()
        wider = tuple(timeframe for timeframe in Timeframe if timeframe in {*symbol.timeframes, *missing})
        set_timeframes(store.database, symbol.symbol, wider)
        typer.echo(f"{symbol.symbol}: tracked in {', '.join(missing)} from now on", err=True)
        chosen.append(replace(symbol, timeframes=wider))
    return chosen


def _report(outcome: Outcome, json_path: Path | None) -> None:
    from marketdata_assets.defs.runs.backfill import results

    text = json.dumps(results(outcome), indent=2)
    if is_stdout(json_path):
        sys.stdout.write(text + "\n")
    else:
        show(outcome)
        if json_path is not None:
            write_file("--json", json_path, text + "\n")
    report_problems(outcome)


def show(outcome: Outcome) -> None:
    """Print the matrix and the summary for people."""
    from marketdata_assets.cli.matrix import print_table
    from marketdata_assets.cli.matrix_lines import summary_of

    print_table(outcome.matrix, outcome.ended)
    typer.echo(f"matrix: {summary_of(outcome.matrix)}")
    for line in describe(outcome):
        typer.echo(line)


def describe(outcome: Outcome) -> list[str]:
    """Return the summary for people: a line each for symbols, bars, gaps, features and the vendor."""
    from marketdata_assets.domain.gaps import GapState
    from marketdata_assets.domain.wording import counted

    symbols = {series.symbol for series in outcome.request.series}
    failed = len(symbols & set(outcome.failures))
    bars = outcome.bars.totals
    computed = outcome.features.totals
    gaps = ", ".join(
        f"{outcome.gaps_in(state).height:,} {state}"
        for state in (GapState.FILLED, GapState.NO_TRADES, GapState.UNFILLED, GapState.OPEN)
    )
    features = [
        (
            f"features: {counted(computed.rows_written, 'row')},"
            f" {counted(computed.partitions_blocked, 'partition')} blocked"
        )
    ][: outcome.request.with_features]
    return [
        (
            f"{counted(len(symbols), 'symbol')} in {outcome.duration_seconds:.1f} s:"
            f" {len(symbols) - failed:,} succeeded, {failed:,} failed"
        ),
        (
            f"bars: {bars.rows_inserted:,} inserted, {bars.rows_changed:,} changed,"
            f" {bars.rows_unchanged:,} unchanged, {bars.rows_quarantined:,} quarantined"
        ),
        f"gaps: {outcome.gaps.height:,} found, {gaps}",
        *features,
        (
            f"vendor: {counted(outcome.requests, 'request')} ({counted(outcome.pages, 'page')}, {outcome.retries:,} retries),"
            f" {outcome.seconds_waited_for_limit:.1f} s waited for the limit, all requests together"
        ),
    ]


def report_problems(outcome: Outcome) -> None:
    """Print on standard error why symbols failed, which days were never fetched, and which gaps are unexplained."""
    from marketdata_assets.cli.matrix_lines import ended_line, unchecked_line

    for symbol, reason in outcome.failures.items():
        typer.echo(f"failed: {symbol}: {reason}", err=True)
    for line in outcome.features.failures:
        typer.echo(f"failed: {line}", err=True)
    if unchecked := unchecked_line(outcome.unchecked):
        typer.echo(unchecked, err=True)
    if ended := ended_line(outcome.ended):
        typer.echo(ended, err=True)
    lost = outcome.lost
    for gap in lost.head(_GAPS_SHOWN).iter_rows(named=True):
        typer.echo(
            f"{gap['state']}: {gap['symbol']}:{gap['timeframe']} from {gap['gap_start']:%Y-%m-%d %H:%M}"
            f" until {gap['gap_end']:%Y-%m-%d %H:%M} UTC: {gap['reason']}",
            err=True,
        )
    if lost.height > _GAPS_SHOWN:
        request = outcome.request
        typer.echo(
            f"and {lost.height - _GAPS_SHOWN:,} more: marketdata gaps --start {request.first} --end {request.last}",
            err=True,
        )
