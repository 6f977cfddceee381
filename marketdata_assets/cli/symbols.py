"""``marketdata symbols …``: the tracked symbols and their timeframes."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Final

import typer

from marketdata_assets.cli.completion import complete_symbol, complete_timeframes
from marketdata_assets.cli.files import decode_text
from marketdata_assets.cli.options import JsonArray
from marketdata_assets.domain.errors import AnotherInstrumentError, ConfigurationError, DoubtfulSymbolError
from marketdata_assets.domain.series import parse_symbol
from marketdata_assets.domain.tickers import is_index
from marketdata_assets.domain.timeframe import parse_timeframes
from marketdata_assets.domain.wording import name_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from marketdata_assets.cli.session import Store
    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.storage.symbols import TrackedSymbol, WantedSymbol

_NAMED: Final = 5
"""The most symbols that one line names."""

app = typer.Typer(
    no_args_is_help=True,
    help="Choose what is collected: symbols, their asset classes and timeframes.",
    epilog="Example: marketdata symbols add NFLX --timeframes 1m,1h,1d",
)

_Json = Annotated[
    bool,
    typer.Option("--json", help="Print the resulting rows of these symbols as a JSON array for a machine."),
]


_Confirmed = Annotated[
    bool,
    typer.Option("--yes", help="Accept a new symbol that is not spelt as the vendor spells it."),
]


@app.command("list", epilog="Example: marketdata symbols list --json")
def list_(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Include deactivated symbols.")] = False,
    as_json: JsonArray = False,
) -> None:
    """List the tracked symbols in the order in which they were added."""
    from rich.table import Table

    from marketdata_assets.cli.console import out
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.symbols import list_symbols

    with open_store() as store:
        tracked = list_symbols(store.database, active_only=not everything)
    if as_json:
        _print_json(tracked)
    elif not out.is_terminal:
        typer.echo("symbol\tclass\ttimeframes\tname")
        for symbol in tracked:
            typer.echo(
                "\t".join((symbol.symbol, symbol.asset_class, ",".join(symbol.timeframes), symbol.name or ""))
            )
    else:
        table = Table("symbol", "class", "timeframes", "vendor ticker", "calendar", "name")
        for symbol in tracked:
            table.add_row(
                symbol.symbol if symbol.active else f"[dim]{symbol.symbol} (inactive)[/dim]",
                symbol.asset_class,
                " ".join(symbol.timeframes),
                symbol.vendor_ticker,
                symbol.calendar,
                symbol.name or "",
            )
        out.print(table)
    if not tracked and not as_json:
        typer.echo("no symbol is tracked: `marketdata symbols add` adds one", err=True)


@app.command(epilog="Example: marketdata symbols add NFLX --timeframes 1m,1h,1d")
def add(
    symbols: Annotated[
        list[str],
        typer.Argument(help="Symbols such as NFLX, BACpL or SOL-USD, separated by spaces or commas."),
    ],
    *,
    asset_class: Annotated[
        str | None,
        typer.Option(
            "--class", help="stock, etf, crypto or index. Default: crypto for BASE-QUOTE, otherwise stock."
        ),
    ] = None,
    timeframes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated. Default: 1h,1d, or what a known symbol had.",
            autocompletion=complete_timeframes,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The name of the company, fund, pair or index.")] = None,
    confirmed: _Confirmed = False,
    as_json: _Json = False,
) -> None:
    """Start collecting symbols, or resume deactivated ones.

    Symbols are case-sensitive: BACpL is a preferred share. An all-lowercase symbol means the tracked symbol with these
    letters, otherwise the one in capitals.
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.symbols import WantedSymbol, parse_asset_class

    given_class = None if asset_class is None else parse_asset_class(asset_class)
    given = None if timeframes is None else parse_timeframes(timeframes)
    wanted = [WantedSymbol(symbol, given_class, name, given) for symbol in _parse_symbols(symbols)]
    with open_store() as store:
        try:
            _write(store, wanted, is_careful=not confirmed, as_json=as_json)
        except DoubtfulSymbolError as error:
            message = f"{error.question} {option_for(error, given_class)}--yes tracks it all the same; nothing was added"
            raise ConfigurationError(message) from None


@app.command("set-timeframes", epilog="Example: marketdata symbols set-timeframes AAPL 1m,5m,1h,1d")
def set_timeframes(
    symbol: Annotated[str, typer.Argument(help="A tracked symbol.", autocompletion=complete_symbol)],
    timeframes: Annotated[
        str,
        typer.Argument(
            help="Comma-separated; replaces the current timeframes.", autocompletion=complete_timeframes
        ),
    ],
    *,
    as_json: _Json = False,
) -> None:
    """Change the timeframes in which a symbol is collected. Stored bars stay."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage import symbols

    chosen, name = parse_timeframes(timeframes), parse_symbol(symbol)
    with open_store() as store:
        changed = symbols.set_timeframes(store.database, name, chosen)
    if as_json:
        _print_json([changed])
        return
    typer.echo(f"{changed.symbol}: {', '.join(chosen)}")


@app.command(epilog="Example: marketdata symbols deactivate TSLA NFLX")
def deactivate(
    symbol: Annotated[
        list[str],
        typer.Argument(
            help="Tracked symbols, separated by spaces or commas.", autocompletion=complete_symbol
        ),
    ],
    *,
    as_json: _Json = False,
) -> None:
    """Stop collecting symbols; if one is not tracked, change none. Their bars stay; `symbols add` resumes collecting."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage import symbols

    names = _parse_symbols(symbol)
    with open_store() as store:
        stopped = symbols.deactivate(store.database, *names)
    if as_json:
        _print_json(stopped)
        return
    for tracked in stopped:
        typer.echo(f"{tracked.symbol}: no longer collected")


@app.command(epilog="Example: marketdata symbols clear")
def clear(*, as_json: _Json = False) -> None:
    """Stop collecting every symbol. Their bars stay; `symbols add` resumes collecting."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.symbols import deactivate_all

    with open_store() as store:
        stopped = deactivate_all(store.database)
    if as_json:
        _print_json([])
        return
    typer.echo(f"{stopped} no longer collected; their bars stay, and `marketdata symbols add` adds others")


@app.command("import", epilog="Example: marketdata symbols import universe.csv")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="CSV with the header symbol,asset_class,name,timeframes; timeframes separated by spaces or commas."
        ),
    ],
    *,
    confirmed: _Confirmed = False,
    as_json: _Json = False,
) -> None:
    """Start collecting every symbol of a CSV file; if a line is wrong, change none."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.symbols import read_lines

    try:
        text = decode_text(path.read_bytes(), str(path))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}; give a CSV file in UTF-8"
        raise ConfigurationError(message) from None
    lines = read_lines(text, str(path))
    with open_store() as store:
        try:
            _write(store, [symbol for _, symbol in lines], is_careful=not confirmed, as_json=as_json)
        except (AnotherInstrumentError, DoubtfulSymbolError) as error:
            line = find_line(lines, error.symbol)
            remedy = ""
            if isinstance(error, DoubtfulSymbolError):
                remedy = " --yes tracks it all the same; nothing was imported"
            column = "symbol" if remedy else "asset_class"
            message = f"{path}, line {line}, column {column}: {error}{remedy}"
            raise ConfigurationError(message) from None


def find_line(lines: Sequence[tuple[int, WantedSymbol | TrackedSymbol]], symbol: str) -> int:
    """Return the number of the line of ``symbol``: the line with that spelling, else one with other capitals."""
    for line, wanted in lines:
        if wanted.symbol == symbol:
            return line
    return next(line for line, wanted in lines if wanted.symbol.lower() == symbol.lower())


def option_for(error: DoubtfulSymbolError, given_class: AssetClass | None) -> str:
    """Return the part of a remedy that names the option for an index, if ``error`` may be about one; else nothing."""
    is_without_class = given_class is None and is_index(error.symbol)
    return "`--class index` tracks the index, " if is_without_class else ""


def _parse_symbols(texts: Iterable[str]) -> list[str]:
    """Return the symbols of ``texts``, each of which may be a list with commas, in order and without duplicates."""
    names = [parse_symbol(name) for text in texts for name in text.replace(",", " ").split() or [text]]
    return list(dict.fromkeys(names))


def _write(
    store: Store, wanted: Sequence[WantedSymbol | TrackedSymbol], *, is_careful: bool, as_json: bool
) -> None:
    from marketdata_assets.storage.symbols import Outcome, add_symbols

    tracked = add_symbols(store.database, wanted, is_careful=is_careful)
    if as_json:
        _print_json(symbol for symbol, _ in tracked)
        return
    for symbol, outcome in tracked:
        if outcome is not Outcome.UNCHANGED:
            typer.echo(f"tracked: {symbol.symbol} ({symbol.asset_class})")
    unchanged = [symbol.symbol for symbol, outcome in tracked if outcome is Outcome.UNCHANGED]
    if unchanged:
        typer.echo(f"already tracked like this: {name_first(unchanged, _NAMED)}", err=True)


def _print_json(symbols: Iterable[TrackedSymbol]) -> None:
    typer.echo(json.dumps([symbol.facts for symbol in symbols], indent=2))
