"""``marketdata features``: compute the features that changes of bars, gaps or splits have made stale."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.options import JsonObject, Symbols, Timeframes
from marketdata_assets.cli.selection import (
    DEFAULT_DAYS,
    choose_days,
    choose_series,
    choose_symbols,
    validate_days,
)
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import parse_timeframes

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from marketdata_assets.cli.session import Store
    from marketdata_assets.defs.runs.features import FeaturesOutcome
    from marketdata_assets.domain.series import Series

_SHOWN = 5


def features(
    *,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    days: Annotated[int | None, typer.Option(help="With --force: the last N days, today included.")] = None,
    start: Annotated[str | None, typer.Option(help="With --force: first day, YYYY-MM-DD.")] = None,
    end: Annotated[
        str | None, typer.Option(help="With --force: last day, YYYY-MM-DD, inclusive. Default: today.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help=f"Recompute days even if not stale. Default: the last {DEFAULT_DAYS} days."
        ),
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Compute stale features: from the midnight before the first bar, gap or split that has changed.

    Exits with 1 when a run failed. Days blocked by a check get no features (see `marketdata gaps`), nor do stocks and
    ETFs whose splits were never fetched (see `marketdata actions`).
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.domain.wording import counted
    from marketdata_assets.pipeline.gates import blocked_since

    now = datetime.now(UTC)
    if not force and (days is not None or start is not None or end is not None):
        message = (
            "--days, --start and --end need --force: without it, stale features of all days are computed"
        )
        raise ConfigurationError(message)
    chosen = choose_days(days, start, end, now)
    wanted = None if timeframes is None else parse_timeframes(timeframes)
    with open_store() as store:
        forced = validate_days(chosen, store.settings.start, now) if force else None
        series = choose_series(choose_symbols(store, symbols), wanted)
        _report_unadjusted(store, series)
        outcome = _compute(store, series, forced)
        blocked = blocked_since(store.database, series, store.settings.start)
    for line in outcome.failures:
        typer.echo(f"failed: {line}", err=True)
    totals = outcome.totals
    if as_json:
        facts = {
            "rows_written": totals.rows_written,
            "series_computed": totals.series_computed,
            "partitions_held_back": totals.partitions_blocked,
            "failures": outcome.failures,
        }
        typer.echo(json.dumps(facts, indent=2))
        raise typer.Exit(int(bool(outcome.failures)))
    typer.echo(
        f"features: {totals.series_computed:,} series computed, {counted(totals.rows_written, 'row')} written,"
        f" {counted(totals.partitions_blocked, 'partition')} blocked"
    )
    for line in blocked_lines(blocked):
        typer.echo(line)
    if outcome.failures:
        raise typer.Exit(1)


def _report_unadjusted(store: Store, series: list[Series]) -> None:
    from marketdata_assets.domain.wording import counted
    from marketdata_assets.pipeline.adjusted import symbols_without_splits

    if symbols := symbols_without_splits(store.database, series):
        shown = ", ".join(symbols[:_SHOWN]) + (" …" if len(symbols) > _SHOWN else "")
        typer.echo(
            f"the splits of {counted(len(symbols), 'symbol')} ({shown}) were never fetched, so their prices cannot"
            " be adjusted and they get no features: run `marketdata actions`",
            err=True,
        )


def blocked_lines(blocked: pl.DataFrame) -> list[str]:
    """Return a line about the days without features because a check blocks them, with the reasons; an empty list if none.

    ``blocked`` has the columns symbol, timeframe, day and check, and a row for each blocked day and check.
    """
    from marketdata_assets.domain.wording import counted
    from marketdata_assets.pipeline.gates import NO_GAPS, VALID

    if blocked.is_empty():
        return []
    days = blocked.select("symbol", "timeframe", "day").n_unique()
    lacking = blocked.filter(check=NO_GAPS)["day"].to_list()
    reasons = [
        f"{blocked.filter(check=check).height:,} by {check} ({what_to_do})"
        for check, what_to_do in (
            (
                NO_GAPS,
                f"`marketdata gaps --start {min(lacking, default=None)}` lists the missing bars, --repair refetches them",
            ),
            (
                VALID,
                "the table ohlcv_quarantine has the rows, `marketdata backfill --force` fetches them again",
            ),
        )
        if blocked.filter(check=check).height
    ]
    return [f"{counted(days, 'day')} without features, blocked: {'; '.join(reasons)}"]


def _compute(store: Store, series: list[Series], forced: tuple[date, date] | None) -> FeaturesOutcome:
    from marketdata_assets.cli.progress import console_progress
    from marketdata_assets.cli.session import open_instance
    from marketdata_assets.definitions import build_definitions
    from marketdata_assets.defs.instance.environment import sync_series
    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.defs.runs.features import FeaturesOutcome, compute
    from marketdata_assets.domain.ranges import feature_runs, range_runs
    from marketdata_assets.pipeline.idle import stale_days

    outcome = FeaturesOutcome()
    with open_instance(store, "features") as (instance, command), console_progress() as progress:
        ordered = sync_series(instance, store.database)
        if forced is None:
            runs = feature_runs(
                ordered, stale_days(store.database, series, store.settings.start, now=datetime.now(UTC))
            )
        else:
            runs = range_runs(ordered, series, *forced)
        progress.begin("features", runs, is_empty=not runs)
        runner = Runner(build_definitions(), instance, command.tags, progress.run)
        compute(runner, runs, force=forced is not None, outcome=outcome)
    return outcome
