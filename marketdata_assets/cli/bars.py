"""``marketdata bars``: stored bars as a table, in a file, or as a picture."""

from __future__ import annotations

import math
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
    from collections.abc import Sequence

    import polars as pl
    from rich.table import Table

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.queries import BarPage
    from marketdata_assets.storage.connection import Database

_HEAD: Final = 10
"""The rows that a table shows from each end."""
_DAYS: Final = {Timeframe.H1: 14, Timeframe.H4: 30, Timeframe.D1: 60, Timeframe.W1: 730}
_MINUTE_DAYS: Final = 5


class Format(StrEnum):
    """The format in which bars are written."""

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
        int | None, typer.Option(help="The last N days, today included. Default: enough to show recent bars.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="First local day, YYYY-MM-DD, or a time such as 2024-01-02T14:30:00Z.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Last local day, inclusive, or a time, exclusive. Default: today.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Adjust for the splits up to this day. Default: today.", metavar="DAY"),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Prices as they were traded, not adjusted.")] = False,
    regular_hours: Annotated[
        bool,
        typer.Option("--regular-hours", help="Only intraday bars from 09:30 to 16:00 in New York."),
    ] = False,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Default: by the file extension, otherwise table."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead (- for stdout).")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw candles and volume to this PNG, and print nothing.")
    ] = None,
) -> None:
    """Show stored bars, split-adjusted, without fetching any. Times are the opens, in UTC.

    A long table shows only its beginning and end; in a pipe, every bar is a tab-separated line. What is missing from the
    range, and the command that fetches it, goes to standard error.
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.domain.calendar import calendar_of
    from marketdata_assets.domain.series import parse_symbol
    from marketdata_assets.queries import BarQuestion, read_bars
    from marketdata_assets.storage.symbols import find_symbol

    chosen = _choose_format(form, output, as_json=as_json)
    if plot is not None:
        _check_plot(plot, is_alone=output is None and form is None and not as_json)
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None:
            check_writable(option, path)
    given = Timeframe.parse(timeframe)
    name = parse_symbol(symbol)
    scale = None if as_of is None else parse_day("--as-of", as_of)
    if scale is not None and raw:
        message = "--as-of chooses the scale of adjusted prices, and --raw gives prices as traded: leave one of them out"
        raise ConfigurationError(message)
    if chosen is Format.PARQUET and _to_terminal(output):
        message = "parquet is not text for a terminal: give -o FILE.parquet, or use a pipe"
        raise ConfigurationError(message)
    with open_store() as store:
        tracked = find_symbol(store.database, name)
        name, calendar = tracked.symbol, calendar_of(tracked.asset_class)
        first, last = choose_range(days, start, end, given, calendar=calendar, now=datetime.now(UTC))
        question = BarQuestion(
            name, given, first, last, adjusted=not raw, as_of=scale, regular_hours=regular_hours
        )
        try:
            page = read_bars(store.database, question)
        except UnadjustableError as error:
            message = f"{error.reason}, or give --raw"
            raise ConfigurationError(message) from None
        drawn = None if plot is None else _draw(store.database, page)
    found = page.bars
    _report(page, f"{name}:{given} from {first} to {last}")
    if plot is not None:
        _plot(drawn, plot, found.height)
    elif chosen is not Format.TABLE:
        _write(found, chosen, output)
    elif output is not None and not is_stdout(output):
        write_bytes("--output", output, _format_lines(found).encode())
    else:
        show_bars(found)


def _report(page: BarPage, requested: str) -> None:
    """Print to standard error what ``page`` lacks; ``requested`` is the series and the range."""
    if page.bars.is_empty():
        closed = "" if page.holes else ": the market was closed, or the vendor has no bars"
        typer.echo(f"no bars of {requested}{closed}", err=True)
    if page.holes:
        typer.echo(page.holes.sentence(), err=True)


def _choose_format(form: Format | None, output: Path | None, *, as_json: bool) -> Format:
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
    message = f"unknown format .{ending}: use .csv, .json, .parquet or .txt, or give --format"
    raise ConfigurationError(message)


def _check_plot(path: Path, *, is_alone: bool) -> None:
    if not is_alone:
        message = "--plot draws a picture and writes no bars: leave --output, --format and --json out, or run it twice"
    elif not is_stdout(path) and path.suffix.lower() != ".png":
        message = f"--plot {path}: the picture is a PNG file: end the name with .png"
    else:
        return
    raise ConfigurationError(message)


def choose_range(
    days: int | None,
    start: str | None,
    end: str | None,
    timeframe: Timeframe,
    *,
    calendar: TradingCalendar,
    now: datetime,
) -> tuple[date | str, date | str]:
    """Return the first and last day, or moments, as :func:`marketdata_assets.bars` takes them.

    Without an end the last day is the market's own at ``now``.
    """
    from marketdata_assets.queries import EARLIEST, parse_edge

    today = calendar.local_day(now)
    check_number_of_days(days, start)
    if start is not None:
        for option, text in (("--start", start), ("--end", end)):
            edge = None if text is None else parse_edge(option, text)
            if isinstance(edge, datetime) and edge.tzinfo is None:
                message = f"{option} {text} has no time zone: end it with Z or an offset such as -05:00, or give a day"
                raise ConfigurationError(message)
        return start, end or today
    if end is not None and "T" in end:
        message = f"--end {end} is a time, which needs a --start: give both"
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


def _draw(database: Database, page: BarPage) -> bytes | None:
    """Return the picture of ``page``, with its gaps and quarantined rows, as PNG; None without a bar."""
    from marketdata_assets.cli.candles import Chart, candles
    from marketdata_assets.storage.gaps import list_gaps, quarantined_times

    if page.bars.is_empty():
        return None
    adjustment = ", split-adjusted" if page.scale is not None else ""
    if not adjustment and page.asset_class.can_split:
        adjustment = ", as traded"
    chart = Chart(
        page.series,
        page.asset_class,
        page.window,
        f"{page.series.symbol} {page.series.timeframe}{adjustment}",
        gaps=list_gaps(database, {page.series: page.window}),
        quarantined=quarantined_times(database, page.series, page.window),
        never_fetched=page.holes.windows,
    )
    return candles(page.bars, chart)


def _plot(picture: bytes | None, path: Path, count: int) -> None:
    if picture is None:
        raise typer.Exit(1)
    write_bytes("--plot", path, picture)
    if not is_stdout(path):
        typer.echo(f"written: {path}, {count:,} bars", err=True)


def _format_lines(found: pl.DataFrame) -> str:
    return _with_text_times(found).write_csv(separator="\t")


_COLUMNS: Final = ("time", "open", "high", "low", "close", "volume", "vwap", "transactions")
_WIDE: Final = 1_000
"""Characters, more than any table needs: the natural width of a table is measured in this room."""
_LEFT_OUT_FIRST: Final = ("transactions", "vwap", "volume", "open", "high", "low")
"""The columns that a narrow terminal leaves out, in this order. Time and close are always shown in full."""


def show_bars(found: pl.DataFrame) -> None:
    """Print ``found`` as a table; to a pipe, as lines."""
    from marketdata_assets.cli.console import out
    from marketdata_assets.domain.wording import counted

    if not out.is_terminal:
        typer.echo(_format_lines(found), nl=False)
        return
    if found.is_empty():
        return
    shown = list(_COLUMNS)
    for name in (None, *_LEFT_OUT_FIRST):
        if name is not None:
            shown.remove(name)
        table = bar_table(found, shown)
        if out.measure(table, options=out.options.update(width=_WIDE)).maximum <= out.width:
            break
    out.print(table)
    is_long = found.height > 2 * _HEAD
    more = f", {2 * _HEAD} of them shown: -o FILE.csv writes all" if is_long else ""
    typer.echo(f"{counted(found.height, 'bar')}{more}")
    if absent := [name for name in _COLUMNS if name not in shown]:
        typer.echo(f"too narrow for {', '.join(absent)}")


def bar_table(found: pl.DataFrame, columns: Sequence[str]) -> Table:
    """Return both ends of ``found`` (``BAR_SCHEMA``, at least one bar) as a table of ``columns``.

    The decimal points of a column are aligned. A day bar shows its local day, not the time of its open in UTC.
    """
    import polars as pl
    from rich.table import Table

    from marketdata_assets.cli.console import can_print
    from marketdata_assets.domain.bars import BAR_SCHEMA

    is_long = found.height > 2 * _HEAD
    rows = pl.concat([found.head(_HEAD), found.tail(_HEAD)]) if is_long else found
    is_intraday = Timeframe(found["timeframe"][0]).is_intraday
    table = Table(
        title=f"{found['symbol'][0]}:{found['timeframe'][0]}{', UTC' if is_intraday else ''}",
        title_justify="left",
    )
    cells = []
    prices = _decimals([rows[name] for name in ("open", "high", "low", "close")], price=True)
    for name in columns:
        table.add_column(name, justify="left" if name == "time" else "right", no_wrap=True)
        column = rows[name]
        if name == "time":
            zone = "UTC" if is_intraday else _zone(found)
            local = column.dt.convert_time_zone(zone)
            cells.append(local.dt.strftime("%Y-%m-%d %H:%M" if is_intraday else "%Y-%m-%d").to_list())
        elif BAR_SCHEMA[name].is_float():
            own = (
                prices
                if name in ("open", "high", "low", "close")
                else _decimals([column], price=name == "vwap")
            )
            cells.append(["" if value is None else f"{value:,.{own}f}" for value in column])
        else:
            cells.append(["" if value is None else f"{value:,}" for value in column])
    mark = "…" if can_print("…") else "..."
    for position, row in enumerate(zip(*cells, strict=True)):
        if is_long and position == _HEAD:
            table.add_row(*[mark] * len(columns))
        table.add_row(*row)
    return table


def _zone(found: pl.DataFrame) -> str:
    """Return the time zone in which every bar of ``found``, of days or weeks, opens at midnight."""
    return "UTC" if (found["time"].dt.hour() == 0).all() else "America/New_York"


def _decimals(columns: Sequence[pl.Series], *, price: bool) -> int:
    """Return how many decimals to show of ``columns``: as many as their numbers have, limited by their size.

    Prices have at least two decimals and at most six significant digits; other numbers have none from 100,000 on.
    """
    values = [abs(value) for column in columns for value in column if value is not None]
    largest = max(values, default=0.0)
    magnitude = math.floor(math.log10(largest)) if largest > 0 else 0
    cap = min(10, max(2, 6 - magnitude)) if price else min(10, max(0, 5 - magnitude))
    least = 2 if price else 0
    needed = max((len(f"{value:.{cap}f}".rstrip("0").partition(".")[2]) for value in values), default=least)
    return max(least, needed)
