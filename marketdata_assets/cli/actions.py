"""``marketdata actions``: update the splits, dividends and earnings of the tracked symbols."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from marketdata_assets.cli.options import JsonArray

if TYPE_CHECKING:
    from marketdata_assets.defs.runs.actions import ActionsReport


def actions(
    *,
    as_json: JsonArray = False,
) -> None:
    """Update splits and, if the plan includes them, dividends and earnings of every active stock and ETF.

    Adjusted prices change at once, because they are computed on reading. For features, run `marketdata features`.
    """
    from marketdata_assets.cli.session import open_instance, open_store, require_vendor_of
    from marketdata_assets.definitions import build_definitions
    from marketdata_assets.defs.runs.actions import refresh_actions
    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.pipeline.idle import stale_days
    from marketdata_assets.storage.symbols import list_symbols

    with open_store() as store:
        require_vendor_of(store)
        with open_instance(store, "actions") as (instance, command):
            reports = refresh_actions(Runner(build_definitions(), instance, command.tags))
        adjustable = [
            series
            for symbol in list_symbols(store.database, active_only=True)
            if symbol.asset_class.can_split
            for series in symbol.series
        ]
        stale = stale_days(store.database, adjustable, store.settings.start, now=datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], indent=2))
        return
    for report in reports:
        typer.echo(_line(report))
    if stale:
        typer.echo(f"features of {len(stale):,} series are stale: run `marketdata features`")


def _line(report: ActionsReport) -> str:
    from marketdata_assets.defs.assets.corporate_actions import NOT_IN_PLAN
    from marketdata_assets.domain.wording import counted

    if not report.in_plan:
        return f"{report.kind}: {NOT_IN_PLAN}"
    requests = counted(report.requests, "request")
    return (
        f"{report.kind}: {report.stored:,} stored; {report.inserted:,} inserted, {report.changed:,} changed,"
        f" {report.unchanged:,} unchanged, {report.withdrawn:,} withdrawn ({requests})"
    )
