"""``marketdata doctor``: list or remove the rows that a clock far ahead has left in the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.options import JsonArray

if TYPE_CHECKING:
    from marketdata_assets.storage.clock import Leftover


def doctor(
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Remove the records found.")] = False,
    as_json: JsonArray = False,
) -> None:
    """List future-dated records that a wrong clock left in the store.

    It looks at coverage, gaps, completeness, matrix rows and logged requests; bars and revisions are never touched.
    Without --repair nothing is changed, and the exit code is 1 when something is found.
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.clock import future_rows, remove_future_rows, require_right_clock

    with open_store() as store:
        # When the clocks of this machine and the database disagree, it is unclear which rows lie in the future.
        require_right_clock(store.database, is_repair=True)
        found = remove_future_rows(store.database) if repair else future_rows(store.database)
    if as_json:
        typer.echo(json.dumps([{**leftover._asdict(), "removed": repair} for leftover in found], indent=2))
    else:
        for leftover in found:
            typer.echo(_line(leftover, repaired=repair))
        if not found:
            typer.echo("nothing is recorded for future days")
        elif not repair:
            typer.echo("remove it with: marketdata doctor --repair")
    if found and not repair:
        raise typer.Exit(1)


def _line(leftover: Leftover, *, repaired: bool) -> str:
    return f"{leftover.table}: {'repaired' if repaired else 'found'} {leftover.rows:,} {leftover.what}"
