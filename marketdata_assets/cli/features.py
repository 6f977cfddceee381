"""``marketdata features``: compute what bars, gaps and splits have put out of date."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.completion import complete_symbols, complete_timeframes
from marketdata_assets.cli.selection import check_days, chosen_days, chosen_series, chosen_symbols
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import parse_timeframes

if TYPE_CHECKING:
    from datetime import date

    from marketdata_assets.automation.features import FeaturesOutcome
    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.series import Series

_SHOWN = 5


def features(
    *,
    symbols: Annotated[
        str | None,
        typer.Option(help="Comma-separated; default every active symbol.", autocompletion=complete_symbols),
    ] = None,
    timeframes: Annotated[
        str | None,
        typer.Option(help="Comma-separated; default each symbol's own.", autocompletion=complete_timeframes),
    ] = None,
    days: Annotated[int | None, typer.Option(help="With --force: the last N days, today included.")] = None,
    start: Annotated[str | None, typer.Option(help="With --force: first day, YYYY-MM-DD.")] = None,
    end: Annotated[
        str | None, typer.Option(help="With --force: last day, YYYY-MM-DD, inclusive; default today.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute these days again, out of date or not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for a machine.")] = False,
) -> None:
    """Compute features from the first bar, gap or split on that has changed; nothing else.

    Exits with 1 when a run failed. Days that a check holds back get no features: see `marketdata gaps`.
    """
    from marketdata_assets.cli.session import open_store

    now = datetime.now(UTC)
    if not force and (days is not None or start is not None or end is not None):
        message = (
            "--days, --start and --end choose what --force computes again: without it, what is out of date is"
        )
        raise ConfigurationError(message)
    first, last = chosen_days(days, start, end, now)
    wanted = None if timeframes is None else parse_timeframes(timeframes)
    with open_store() as store:
        check_days(first, last, store.settings.start, now)
        series = chosen_series(chosen_symbols(store, symbols), wanted)
        _tell_unadjusted(store, series)
        outcome = _compute(store, series, (first, last) if force else None)
    for line in outcome.failures:
        typer.echo(f"failed: {line}", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(outcome), indent=2))
        raise typer.Exit(int(bool(outcome.failures)))
    typer.echo(
        f"features: {outcome.series_computed:,} series computed, {outcome.rows_written:,} rows written,"
        f" {outcome.partitions_held_back:,} partitions held back"
    )
    if outcome.failures:
        raise typer.Exit(1)


def _tell_unadjusted(store: Store, series: list[Series]) -> None:
    from marketdata_assets.storage.adjusted import SPLITTING, unchecked_symbols
    from marketdata_assets.storage.symbols import list_symbols

    splitting = {one.symbol for one in list_symbols(store.database) if one.asset_class in SPLITTING}
    chosen = dict.fromkeys(one.symbol for one in series if one.symbol in splitting)
    if unchecked := unchecked_symbols(store.database, chosen):
        shown = ", ".join(unchecked[:_SHOWN]) + (" …" if len(unchecked) > _SHOWN else "")
        typer.echo(
            f"the splits of {len(unchecked):,} symbols ({shown}) were never asked for, so their prices are not"
            " adjusted: run `marketdata actions`",
            err=True,
        )


def _compute(store: Store, series: list[Series], forced: tuple[date, date] | None) -> FeaturesOutcome:
    from marketdata_assets.automation.features import FeaturesOutcome, compute, feature_runs, stale_days
    from marketdata_assets.automation.instance import sync_series
    from marketdata_assets.automation.ranges import range_runs
    from marketdata_assets.cli.progress import console_progress
    from marketdata_assets.cli.session import open_instance
    from marketdata_assets.definitions import build_definitions

    outcome = FeaturesOutcome()
    with open_instance(store) as (instance, command), console_progress() as progress:
        ordered = sync_series(instance, store.database)
        if forced is None:
            runs = feature_runs(
                ordered, stale_days(store.database, series, store.settings.start, now=datetime.now(UTC))
            )
        else:
            runs = range_runs(ordered, series, *forced)
        progress.begin("features", runs, is_empty=not runs)
        compute(
            build_definitions(),
            instance,
            runs,
            force=forced is not None,
            tags=command.tags,
            outcome=outcome,
            on_run=progress.run,
        )
    return outcome
