"""The root of the command line: the commands, and what becomes of their errors."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import psycopg
import typer

from marketdata_assets.cli import (
    actions,
    backfill,
    database,
    demo,
    features,
    gaps,
    matrix,
    prune,
    simulate,
    status,
    symbols,
    up,
)
from marketdata_assets.cli.console import ConsoleHandler
from marketdata_assets.domain.errors import MarketDataError

app = typer.Typer(
    name="marketdata",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="OHLCV market data in Postgres, collected and checked by Dagster.",
    epilog="Start with: marketdata demo",
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        typer.echo(f"marketdata_assets {version('marketdata_assets')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Multi-partition backfill policies are beta in Dagster; whoever runs a command cannot do anything about it.
    warnings.filterwarnings("ignore", message=".*is currently in beta.*")
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()])
    # How long a run waits for the vendor's limit is worth a line.
    logging.getLogger("marketdata_assets.polygon.limiter").setLevel(logging.INFO)


app.command(epilog="Example: marketdata demo")(demo.demo)
app.command(epilog="Example: marketdata up")(up.up)
app.command(epilog="Example: marketdata backfill --symbols AAPL,SPY --timeframes 1h,1d --days 30")(
    backfill.backfill
)
app.command(epilog="Example: marketdata gaps --symbols SPY --days 30 --repair")(gaps.gaps)
app.command(epilog="Example: marketdata matrix --refresh --html matrix.html")(matrix.matrix)
app.command(epilog="Example: marketdata status --json")(status.status)
app.command(epilog="Example: marketdata features --symbols AAPL --timeframes 1m,1h")(features.features)
app.command(epilog="Example: marketdata actions")(actions.actions)
app.command(epilog="Example: marketdata prune --timeframes 1m --older-than 60 --dry-run")(prune.prune)
app.add_typer(symbols.app, name="symbols")
app.add_typer(database.app, name="db")
app.command(epilog="Example: marketdata migrate")(database.migrate)
app.command()(simulate.simulate)


_INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or SIGTERM ended, as shells have it."""


def main() -> None:
    """Run the command line; every expected error is one line on standard error."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(prog_name="marketdata", standalone_mode=False)
    except MarketDataError as error:
        typer.echo(f"marketdata: {error}", err=True)
        code = error.exit_code
    except typer.TyperException as error:
        # Without a command there is no error to tell: the help has been printed.
        if text := error.format_message():
            typer.echo(f"marketdata: {text.rstrip('.')}; see --help", err=True)
        code = error.exit_code
    except typer.Abort:
        code = 1
    except (psycopg.Error, OSError) as error:
        why = " ".join(str(error).split())
        typer.echo(f"marketdata: {type(error).__name__}: {why}; see `marketdata db status`", err=True)
        code = 1
    if code == _INTERRUPTED:
        typer.echo(
            "marketdata: interrupted; what is stored stays, and the same command goes on from there", err=True
        )
    sys.exit(code or 0)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
