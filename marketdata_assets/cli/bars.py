"""``marketdata bars``: stored bars for a look, in a file, or as a picture."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from io import BytesIO
from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

import typer

from marketdata_assets.cli.completion import complete_symbol, complete_timeframe
from marketdata_assets.cli.files import check_writable, is_stdout, write_bytes
from marketdata_assets.cli.selection import check_number_of_days, parse_day
from marketdata_assets.domain.errors import ConfigurationError, UnadjustableError
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    import polars as pl

_HEAD: Final = 10
"""Rows that a table shows from each end."""
_LARGE: Final = 1e5
"""Numbers from here on are shown without decimals."""
_DAYS: Final = {Timeframe.H1: 14, Timeframe.H4: 30, Timeframe.D1: 60, Timeframe.W1: 730}
_MINUTE_DAYS: Final = 5


class Format(StrEnum):
    """How bars are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


_ENDINGS: Final = {
    "": Format.TABLE,
    "txt": Format.TABLE,
    "tsv": Format.TABLE,
    "csv": Format.CSV,
    "json": Format.JSON,
    "parquet": Format.PARQUET,
}


def bars(  # noqa: PLR0913 - each is an option
    symbol: Annotated[
        str, typer.Argument(help="A tracked symbol, such as AAPL or BTC-USD.", autocompletion=complete_symbol)
    ],
    timeframe: Annotated[
        str, typer.Argument(help="1m 5m 15m 30m 1h 4h 1d 1w.", autocompletion=complete_timeframe)
    ] = "1d",
    *,
    days: Annotated[
        int | None, typer.Option(help="The last N days, today included; by default enough for a look.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="First local day, YYYY-MM-DD, or a time as 2024-01-02T14:30:00Z.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Last local day, inclusive, or a time, exclusive; default today.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Adjust for the splits up to this day; default today.", metavar="DAY"),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Prices as they were traded, not adjusted.")] = False,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Default: what the ending of the file says, else table."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead (- for stdout).")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw candles and volume to this PNG, and print nothing.")
    ] = None,
) -> None:
    """Show stored bars, split-adjusted; fetches nothing. Times are the opens, in UTC.

    A table shows both ends of what is long; in a pipe it is every bar, a line each, apart by tabs.
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.domain.calendar import calendar_of
    from marketdata_assets.domain.series import parse_symbol
    from marketdata_assets.reading import BarQuestion, read_bars
    from marketdata_assets.storage.symbols import find_symbol

    chosen = _format(form, output, as_json=as_json)
    if plot is not None:
        _check_plot(plot, is_alone=output is None and form is None and not as_json)
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None:
            check_writable(option, path)
    given = Timeframe.parse(timeframe)
    name = parse_symbol(symbol)
    scale = None if as_of is None else parse_day("--as-of", as_of)
    if chosen is Format.PARQUET and _to_terminal(output):
        message = "parquet is no text for a terminal: give -o FILE.parquet, or pipe it on"
        raise ConfigurationError(message)
    with open_store() as store:
        tracked = find_symbol(store.database, name)
        name, calendar = tracked.symbol, calendar_of(tracked.asset_class)
        first, last = _range(days, start, end, given, calendar.local_day(datetime.now(UTC)))
        question = BarQuestion(name, given, first, last, adjusted=not raw, as_of=scale)
        try:
            found = read_bars(store.database, question).bars
        except UnadjustableError as error:
            message = f"{error.reason}, or give --raw"
            raise ConfigurationError(message) from None
    if found.is_empty():
        typer.echo(f"no bar of {name}:{given} from {first} to {last}: see `marketdata status`", err=True)
    if plot is not None:
        _plot(found, plot, f"{name} {given}, {'as traded' if raw else 'split-adjusted'}")
    elif chosen is not Format.TABLE:
        _write(found, chosen, output)
    elif output is not None and not is_stdout(output):
        write_bytes("--output", output, _lines(found).encode())
    else:
        _show(found)


def _format(form: Format | None, output: Path | None, *, as_json: bool) -> Format:
    if as_json and form not in (None, Format.JSON):
        message = f"--json and --format {form} exclude each other: give one of them"
        raise ConfigurationError(message)
    if as_json:
        return Format.JSON
    if form is not None:
        return form
    ending = "" if output is None or is_stdout(output) else output.suffix.lower().lstrip(".")
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    message = f"nothing writes .{ending}: use .csv, .json, .parquet or .txt, or say which with --format"
    raise ConfigurationError(message)


def _check_plot(path: Path, *, is_alone: bool) -> None:
    if not is_alone:
        message = "--plot draws a picture and writes no bars: leave --output, --format and --json out, or run it twice"
    elif not is_stdout(path) and path.suffix.lower() != ".png":
        message = f"--plot {path}: a picture is a PNG: end the name with .png"
    else:
        return
    raise ConfigurationError(message)


def _range(
    days: int | None, start: str | None, end: str | None, timeframe: Timeframe, today: date
) -> tuple[date | str, date | str]:
    """First and last day, or moments, as :func:`marketdata_assets.bars` takes them."""
    from marketdata_assets.reading import EARLIEST

    check_number_of_days(days, start)
    if start is not None:
        return start, end or today
    if end is not None and "T" in end:
        message = f"--end {end} is a time, so --start must say from when: give both"
        raise ConfigurationError(message)
    last = today if end is None else parse_day("--end", end)
    if last < EARLIEST.date():
        message = f"--end {last} lies before any bar: give a day from {EARLIEST:%Y-%m-%d} on"
        raise ConfigurationError(message)
    count = days or _DAYS.get(timeframe, _MINUTE_DAYS)
    return last - timedelta(days=count - 1), last


def _to_terminal(output: Path | None) -> bool:
    return (output is None or is_stdout(output)) and sys.stdout.isatty()


def _write(found: pl.DataFrame, chosen: Format, output: Path | None) -> None:
    buffer = BytesIO()
    if chosen is Format.PARQUET:
        found.write_parquet(buffer)
    elif chosen is Format.CSV:
        _with_text_times(found).write_csv(buffer)
    else:
        _with_text_times(found).write_json(buffer)
        buffer.write(b"\n")
    if output is None or is_stdout(output):
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
    else:
        write_bytes("--output", output, buffer.getvalue())
        typer.echo(f"written: {output}, {found.height:,} bars", err=True)


def _with_text_times(found: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return found.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _plot(found: pl.DataFrame, path: Path, title: str) -> None:
    from marketdata_assets.cli.candles import candles

    if found.is_empty():
        raise typer.Exit(1)
    write_bytes("--plot", path, candles(found, title))
    if not is_stdout(path):
        typer.echo(f"written: {path}, {found.height:,} bars", err=True)


def _lines(found: pl.DataFrame) -> str:
    return _with_text_times(found).write_csv(separator="\t")


def _show(found: pl.DataFrame) -> None:
    from rich.table import Table

    from marketdata_assets.cli.console import out

    if not out.is_terminal:
        typer.echo(_lines(found), nl=False)
        return
    if found.is_empty():
        return
    columns = ("time", "open", "high", "low", "close", "volume", "vwap", "transactions")
    table = Table(
        columns[0], title=f"{found['symbol'][0]}:{found['timeframe'][0]}, UTC", title_justify="left"
    )
    for name in columns[1:]:
        table.add_column(name, justify="right")
    is_long = found.height > 2 * _HEAD
    for row in (found.head(_HEAD) if is_long else found).select(columns).iter_rows():
        table.add_row(*map(_cell, row))
    if is_long:
        table.add_row(*["…"] * len(columns))
        for row in found.tail(_HEAD).select(columns).iter_rows():
            table.add_row(*map(_cell, row))
    out.print(table)
    shown = f", {2 * _HEAD} of them shown: -o FILE.csv has all" if is_long else ""
    typer.echo(f"{found.height:,} bars{shown}")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= _LARGE else f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}"
