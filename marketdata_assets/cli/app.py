"""The root of the command line: the commands, and how their errors are reported."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli import (
    actions,
    backfill,
    bars,
    database,
    demo,
    doctor,
    features,
    gaps,
    keys,
    matrix,
    prune,
    serve,
    simulate,
    status,
    symbols,
    up,
)
from marketdata_assets.cli.console import ConsoleHandler, make_streams_forgiving
from marketdata_assets.cli.helping import lay_out_help
from marketdata_assets.cli.interrupts import INTERRUPTED, report_interrupt
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.wording import one_line
from marketdata_assets.storage.failures import explain_failure, is_driver_error

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    name="marketdata",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=(
        "OHLCV market data in Postgres, collected and checked by Dagster.\n\n"
        "Begin with `demo`, which needs no key. Then choose symbols, fetch their history with `backfill`, inspect it with"
        " `status`, `matrix` and `bars`, and let `up` keep it up to date."
    ),
    epilog=(
        "Example: marketdata symbols add NFLX --timeframes 1m,1d && marketdata backfill --symbols NFLX --days 30\n\n"
        "Details of a command: marketdata backfill --help. Shell completion: marketdata --install-completion"
    ),
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
    # Multi-partition backfill policies are beta in Dagster; the user of a command can do nothing about it.
    warnings.filterwarnings("ignore", message=".*is currently in beta.*")
    logging.basicConfig(level=logging.WARNING, handlers=[ConsoleHandler()])
    # psycopg warns when a lost transaction cannot be rolled back; the cause of the loss is reported anyway.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    # The limiter logs at INFO how long a run waits for the vendor's limit.
    logging.getLogger("marketdata_assets.polygon.limiter").setLevel(logging.INFO)


_START, _COLLECT, _INSPECT = "Get started", "Fetch and repair", "Inspect"
_STORE, _SERVE, _DEVELOP = "Maintain", "Serve", "Develop"
"""The headings under which the help of `marketdata` lists its commands."""


def _command(heading: str, example: str, function: Callable[..., None]) -> None:
    app.command(rich_help_panel=heading, epilog=f"Example: {example}")(function)


_command(_START, "marketdata demo", demo.demo)
_command(_START, "marketdata up --simulate", up.up)
app.add_typer(symbols.app, name="symbols", rich_help_panel=_START)
_command(_COLLECT, "marketdata backfill --symbols AAPL,SPY --timeframes 1h,1d --days 30", backfill.backfill)
_command(_COLLECT, "marketdata gaps --symbols SPY --days 30 --repair", gaps.gaps)
_command(_COLLECT, "marketdata features --symbols AAPL --timeframes 1m,1h", features.features)
_command(_COLLECT, "marketdata actions", actions.actions)
_command(_INSPECT, "marketdata status", status.status)
_command(_INSPECT, "marketdata bars AAPL 1m --days 2 --plot aapl.png", bars.bars)
_command(_INSPECT, "marketdata matrix --refresh --html matrix.html", matrix.matrix)
_command(_STORE, "marketdata prune --timeframes 1m --older-than 60 --dry-run", prune.prune)
_command(_STORE, "marketdata doctor --repair", doctor.doctor)
_command(_STORE, "marketdata migrate --check", database.migrate)
app.add_typer(database.app, name="db", rich_help_panel=_STORE)
_command(_SERVE, "marketdata serve --port 8000", serve.serve)
app.add_typer(keys.app, name="keys", rich_help_panel=_SERVE)
app.command(rich_help_panel=_DEVELOP)(simulate.simulate)
lay_out_help(app)


def main() -> None:
    """Run the command line inside another process, such as a test: signal handlers stay as they are."""
    sys.exit(run())


def run() -> int:
    """Run the command line and return its exit code; every expected error is one line on standard error."""
    make_streams_forgiving()
    try:
        code = app(prog_name="marketdata", standalone_mode=False)
    except typer.TyperException as error:
        # Without a command there is no error to report, because the help has been printed.
        if text := error.format_message():
            typer.echo(f"marketdata: {text.rstrip('.')}; see --help", err=True)
        code = error.exit_code
    except typer.Abort:
        code = 1
    except Exception as error:
        # Dagster wraps the errors of its storage, so the error of the store may be the cause of another one.
        expected = error if isinstance(error, MarketDataError) else explain_failure(error)
        if expected is not None:
            typer.echo(f"marketdata: {expected}", err=True)
            code = expected.exit_code
        elif is_driver_error(error) or isinstance(error, OSError):
            why = one_line(str(error))
            typer.echo(f"marketdata: {type(error).__name__}: {why}; see `marketdata db status`", err=True)
            code = 1
        else:
            raise
    if code == INTERRUPTED:
        report_interrupt()
    return code or 0
