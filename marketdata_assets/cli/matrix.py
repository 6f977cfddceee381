"""``marketdata matrix``: the completeness of each series at the last run of the asset ``completeness_matrix``."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

import typer

from marketdata_assets.cli.files import check_writable, is_stdout, write_file
from marketdata_assets.cli.matrix_lines import ended_line, summary_of, unchecked_line
from marketdata_assets.cli.options import JsonArray, Symbols
from marketdata_assets.cli.selection import choose_symbols

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.completeness import Status
    from marketdata_assets.domain.timeframe import Timeframe

_GAPS_ON_PAGE = 500


def matrix(
    *,
    symbols: Symbols = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="First recompute the matrix, with a run of completeness_matrix.")
    ] = False,
    as_json: JsonArray = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write an HTML page to this file (- for stdout), with the last 60 days and what is missing."
        ),
    ] = None,
) -> None:
    """Show how complete each series is over the days that `marketdata gaps` scanned.

    ✓ complete, a percentage (rounded down) with gaps, ✗ no bars, ? never scanned. Three dots mean that the scanned
    days end before the day that is due.
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.domain.completeness import due_days, ended_series
    from marketdata_assets.storage.completeness import (
        active_series,
        incomplete_series,
        read_matrix,
        read_unchecked,
    )

    if html is not None:
        check_writable("--html", html)
    with open_store() as store:
        names = [symbol.symbol for symbol in choose_symbols(store, symbols)]
        if refresh:
            _refresh(store)
        rows = read_matrix(store.database, None if symbols is None else names)
        ended = ended_series(rows, due_days(active_series(store.database), datetime.now(UTC)))
        unchecked = read_unchecked(store.database, incomplete_series(rows)) if not as_json else None
        if html is not None:
            write_file("--html", html, _render_page(store, rows, names, ended))
            if not is_stdout(html):
                typer.echo(f"written: {html}", err=True)
    if as_json:
        typer.echo(json.dumps([_facts(row) for row in rows.iter_rows(named=True)], indent=2))
    elif (rows["status"] == "unchecked").all():
        message = "no series has been scanned yet: run `marketdata gaps`, then `marketdata matrix --refresh`"
        typer.echo(message, err=True)
    elif html is None:
        print_matrix(rows, ended)
        if unchecked is not None and (line := unchecked_line(unchecked)):
            typer.echo(line, err=True)


def _refresh(store: Store) -> None:
    from marketdata_assets.cli.session import open_instance
    from marketdata_assets.definitions import build_definitions
    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.defs.runs.matrix import refresh_matrix

    with open_instance(store, "matrix") as (instance, command):
        refresh_matrix(Runner(build_definitions(), instance, command.tags))


def print_matrix(matrix: pl.DataFrame, ended: pl.DataFrame | None = None) -> None:
    """Print ``matrix``, rows of ``MATRIX_SCHEMA``, and a line that counts them.

    ``ended`` holds the rows whose scanned days end before the day that is due: they are marked, and a line names them.

    On a terminal the output is a coloured table of symbols x timeframes. In a pipe it is a heading and a line for each
    series, with values separated by tabs: an unknown value is empty, times are in UTC, and the line that counts goes to
    standard error.
    """
    from marketdata_assets.cli.console import out

    if out.is_terminal:
        print_table(matrix, ended)
    else:
        typer.echo("\t".join(matrix.columns))
        for row in matrix.iter_rows(named=True):
            typer.echo("\t".join("" if value is None else str(value) for value in _facts(row).values()))
    typer.echo(f"matrix: {summary_of(matrix)}", err=not out.is_terminal)
    if line := ended_line(ended):
        typer.echo(line, err=True)


def print_table(matrix: pl.DataFrame, ended: pl.DataFrame | None = None) -> None:
    """Print ``matrix`` (``MATRIX_SCHEMA``) as a table of symbols x timeframes, in colour on a terminal.

    The series of ``ended`` are marked. Timeframes that do not fit into a narrow terminal follow in another table.
    """
    from rich.table import Table
    from rich.text import Text

    from marketdata_assets.cli.console import out
    from marketdata_assets.domain.completeness import cell, grid

    layout = grid(matrix)
    marked = set() if ended is None else set(ended.select("symbol", "timeframe").iter_rows())
    cells = {
        (symbol, timeframe): Text(
            cell(*found, ended=(symbol, timeframe.value) in marked), style=_style(*found)
        )
        for (symbol, timeframe), found in layout.cells.items()
    }
    widths = {timeframe: len(timeframe.value) for timeframe in layout.timeframes}
    for (_, timeframe), text in cells.items():
        widths[timeframe] = max(widths[timeframe], len(text))
    symbol_width = max(map(len, ("symbol", *layout.symbols)))
    room = out.width - symbol_width - _AROUND - 1
    for timeframes in _divide_columns(widths, room) or [[]]:
        table = Table()
        table.add_column("symbol", no_wrap=True, min_width=symbol_width)
        for timeframe in timeframes:
            table.add_column(timeframe.value, justify="right", no_wrap=True)
        for symbol in layout.symbols:
            table.add_row(symbol, *(cells.get((symbol, timeframe), "") for timeframe in timeframes))
        out.print(table)


_AROUND: Final = 3
"""The characters that a column takes in addition to its text: a space on either side and a border."""


def _divide_columns(widths: Mapping[Timeframe, int], room: int) -> list[list[Timeframe]]:
    """Divide the columns of ``widths`` into tables of at most ``room`` characters, in order; no column is left out."""
    tables: list[list[Timeframe]] = []
    left = 0
    for timeframe, width in widths.items():
        if not tables or width + _AROUND > left:
            tables.append([])
            left = room
        tables[-1].append(timeframe)
        left -= width + _AROUND
    return tables


def _style(status: Status, share: float | None) -> str:
    from marketdata_assets.domain.completeness import Status

    nearly_complete = 0.9
    if status is Status.GAPS and share is not None:
        return "yellow" if share >= nearly_complete else "red"
    return {Status.WHOLE: "green", Status.EMPTY: "red", Status.UNCHECKED: "magenta"}.get(status, "dim")


def _facts(row: dict[str, object]) -> dict[str, object]:
    # A datetime is a date, too.
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}


def _render_page(store: Store, rows: pl.DataFrame, symbols: list[str], ended: pl.DataFrame) -> str:
    from marketdata_assets.cli.matrix_page import matrix_page
    from marketdata_assets.storage.completeness import read_recent
    from marketdata_assets.storage.gaps import list_losses

    lost, count = list_losses(store.database, symbols, _GAPS_ON_PAGE)
    return matrix_page(rows, read_recent(store.database, symbols), lost, lost_count=count, ended=ended)
