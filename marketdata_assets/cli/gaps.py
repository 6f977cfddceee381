"""``marketdata gaps``: the gaps in stored history, and their reasons; with ``--repair``, refetch them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.options import Days, End, JsonArray, Start, Symbols, Timeframes
from marketdata_assets.cli.selection import (
    choose_days,
    choose_series,
    choose_symbols,
    validate_days,
)
from marketdata_assets.domain.timeframe import parse_timeframes

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.series import Series

_SHOWN = 40


def gaps(  # noqa: PLR0913 - one for each option
    *,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    days: Days = None,
    start: Start = None,
    end: End = None,
    repair: Annotated[bool, typer.Option("--repair", help="Refetch what is missing, at most twice.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also scan days that have not changed since their last scan.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also show filled and explained gaps.")] = False,
    as_json: JsonArray = False,
) -> None:
    """Find bars that the trading calendar expects and that are not stored.

    Exits with 1 when a gap is open or unfilled.
    """
    from marketdata_assets.cli.session import open_store, require_vendor_of

    now = datetime.now(UTC)
    chosen = choose_days(days, start, end, now)
    wanted = None if timeframes is None else parse_timeframes(timeframes)
    with open_store() as store:
        if repair:
            require_vendor_of(store)
        first, last = validate_days(chosen, store.settings.start, now)
        series = choose_series(choose_symbols(store, symbols), wanted)
        found = _find_gaps(
            store, series, first, last, repair=repair, force=force, now=now, is_named=symbols is not None
        )
    _show(found, everything=everything, as_json=as_json)
    if found.filter(_is_lost()).height:
        raise typer.Exit(1)


def _find_gaps(
    store: Store,
    series: list[Series],
    first: date,
    last: date,
    *,
    repair: bool,
    force: bool,
    now: datetime,
    is_named: bool,
) -> pl.DataFrame:
    from marketdata_assets.cli.console import err
    from marketdata_assets.cli.matrix_lines import unchecked_line
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.pipeline.idle import is_instance_in_order, scans_are_current
    from marketdata_assets.storage.completeness import completeness_between, read_unchecked
    from marketdata_assets.storage.gaps import list_gaps
    from marketdata_assets.storage.partition_windows import partition_windows_of
    from marketdata_assets.storage.symbols import unused_presets

    database = store.database
    if (
        repair
        or force
        or not is_instance_in_order(database)
        or not scans_are_current(database, Rectangle(first, last, tuple(series)), now=now)
    ):
        _scan(store, series, first, last, repair=repair)
    else:
        err.print("no bar has changed since the last scan: these are the gaps that it found", highlight=False)
    # The many unused presets would hide the result: --symbols lists them.
    unused = frozenset() if is_named else unused_presets(store.database)
    shown = [candidate for candidate in series if candidate.symbol not in unused]
    rows = completeness_between(store.database, shown, first, last)
    if unchecked := rows.filter(status="unchecked").height:
        err.print(
            f"{unchecked:,} of {rows.height:,} series were never fetched on these days, or expect no bars:"
            " `marketdata backfill` fetches them",
            highlight=False,
        )
    unchecked_days = read_unchecked(store.database, series, first, last + timedelta(days=1), now=now)
    if line := unchecked_line(unchecked_days):
        err.print(line, highlight=False, soft_wrap=True)
    return list_gaps(store.database, partition_windows_of(store.database, series, first, last))


def _scan(store: Store, series: list[Series], first: date, last: date, *, repair: bool) -> None:
    from marketdata_assets.cli.console import err
    from marketdata_assets.cli.session import open_instance
    from marketdata_assets.definitions import build_definitions
    from marketdata_assets.defs.instance.environment import sync_series
    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.defs.runs.gaps import scan_for_gaps
    from marketdata_assets.domain.ranges import range_runs

    with open_instance(store, "gaps") as (instance, command):
        runner = Runner(
            build_definitions(),
            instance,
            command.tags,
            on_run=lambda run: err.print(
                f"run: {run.series[0]} … {run.series[-1]}, {run.first} to {run.last}", highlight=False
            ),
        )
        runs = range_runs(sync_series(instance, store.database), series, first, last)
        scan_for_gaps(runner, runs, repair=repair)


def _is_lost() -> pl.Expr:
    import polars as pl

    from marketdata_assets.domain.gaps import LOSSES

    return pl.col("state").is_in(LOSSES)


def _show(found: pl.DataFrame, *, everything: bool, as_json: bool) -> None:
    from rich.table import Table

    from marketdata_assets.cli.console import out
    from marketdata_assets.storage.gaps import gap_rows

    shown = found if everything else found.filter(_is_lost())
    if as_json:
        typer.echo(json.dumps(gap_rows(shown), indent=2))
        return
    if not out.is_terminal:
        typer.echo("series\tgap_start\tgap_end\tmissing_bars\tstate\treason")
        for row in shown.iter_rows(named=True):
            typer.echo(
                f"{row['symbol']}:{row['timeframe']}\t{row['gap_start']:%Y-%m-%dT%H:%MZ}\t"
                f"{row['gap_end']:%Y-%m-%dT%H:%MZ}\t{row['missing_bars']}\t{row['state']}\t{row['reason']}"
            )
    elif shown.height:
        table = Table("series", "from (UTC)", "until", "bars", "state", "reason")
        for row in shown.head(_SHOWN).iter_rows(named=True):
            table.add_row(
                f"{row['symbol']}:{row['timeframe']}",
                f"{row['gap_start']:%Y-%m-%d %H:%M}",
                f"{row['gap_end']:%Y-%m-%d %H:%M}",
                f"{row['missing_bars']:,}",
                row["state"],
                row["reason"],
            )
        out.print(table)
        if shown.height > _SHOWN:
            typer.echo(f"and {shown.height - _SHOWN} smaller gaps: --json prints all")
    counts = ", ".join(
        f"{found.filter(state=state).height:,} {state}"
        for state in ("open", "unfilled", "filled", "no_trades")
    )
    typer.echo(f"gaps: {counts}", err=not out.is_terminal)
