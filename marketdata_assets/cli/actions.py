"""``marketdata actions``: splits, dividends and earnings of what is tracked, brought up to date."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from marketdata_assets.automation.actions import ActionsReport


def actions(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array for a machine.")] = False,
) -> None:
    """Bring splits, dividends and, where the plan has them, earnings of every active stock and ETF up to date.

    Adjusted prices follow at once: they are made when they are read.
    """
    from marketdata_assets.automation.actions import refresh_actions
    from marketdata_assets.cli.session import open_instance, open_store
    from marketdata_assets.definitions import build_definitions

    with open_store() as store, open_instance(store) as (instance, command):
        reports = refresh_actions(build_definitions(), instance, tags=command.tags)
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], indent=2))
        return
    for report in reports:
        typer.echo(_line(report))


def _line(report: ActionsReport) -> str:
    from marketdata_assets.assets.corporate_actions import NOT_IN_PLAN

    if not report.in_plan:
        return f"{report.kind}: {NOT_IN_PLAN}"
    requests = f"{report.requests:,} request{'' if report.requests == 1 else 's'}"
    return (
        f"{report.kind}: {report.stored:,} stored; {report.inserted:,} inserted, {report.changed:,} changed,"
        f" {report.unchanged:,} unchanged, {report.withdrawn:,} withdrawn ({requests})"
    )
