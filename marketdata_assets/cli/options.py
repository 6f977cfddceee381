"""The options that several commands share, as types of their parameters."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from marketdata_assets.cli.completion import complete_symbols, complete_timeframes
from marketdata_assets.cli.selection import DEFAULT_DAYS

Symbols: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Comma-separated. Default: every active symbol.", autocompletion=complete_symbols),
]
Timeframes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated, from 1m 5m 15m 30m 1h 4h 1d 1w. Default: each symbol's own.",
        autocompletion=complete_timeframes,
    ),
]
Days: TypeAlias = Annotated[
    int | None, typer.Option(help=f"The last N days, today included. Default: {DEFAULT_DAYS}.")
]
Start: TypeAlias = Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD.")]
End: TypeAlias = Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD, inclusive. Default: today.")]
JsonArray: TypeAlias = Annotated[bool, typer.Option("--json", help="Print a JSON array for a machine.")]
JsonObject: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object for a machine.")]
