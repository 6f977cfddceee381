"""``marketdata prune``: remove bars that are older than the retention of their timeframe."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.completion import complete_timeframes
from marketdata_assets.cli.options import JsonArray
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.retention import DEFAULT_RETENTION, first_kept_days, kept_days
from marketdata_assets.domain.timeframe import parse_timeframes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.config import Settings
    from marketdata_assets.domain.retention import Pruned
    from marketdata_assets.domain.timeframe import Timeframe


def prune(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be removed, but remove nothing.")
    ] = False,
    timeframes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated. Default: those of MARKETDATA_RETENTION, otherwise 1m.",
            autocompletion=complete_timeframes,
        ),
    ] = None,
    older_than: Annotated[
        int | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            help="Days to keep. Default: as in MARKETDATA_RETENTION, otherwise 30 for 1m.",
        ),
    ] = None,
    as_json: JsonArray = False,
) -> None:
    """Remove old bars of every symbol, with their features. Default: 1m bars older than 30 days.

    Bars of other timeframes stay, even those rolled up from removed bars. Ctrl-C at any moment is safe.
    """
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.pipeline.retention import prunable
    from marketdata_assets.pipeline.retention import prune as remove
    from marketdata_assets.storage.clock import require_right_clock

    with open_store() as store:
        require_right_clock(store.database)
        first_kept = first_kept_days(_choose_days(store.settings, timeframes, older_than), datetime.now(UTC))
        pruned = prunable(store.database, first_kept) if dry_run else remove(store.database, first_kept)
    if as_json:
        typer.echo(json.dumps([{**_facts(removed), "dry_run": dry_run} for removed in pruned], indent=2))
        return
    for removed in pruned:
        typer.echo(_line(removed, dry_run=dry_run))


def _choose_days(
    settings: Settings, timeframes: str | None, older_than: int | None
) -> Mapping[Timeframe, int]:
    kept = settings.retention or DEFAULT_RETENTION
    chosen = tuple(kept) if timeframes is None else parse_timeframes(timeframes)
    if older_than is not None:
        return dict.fromkeys(chosen, kept_days(older_than))
    if unlimited := [timeframe.value for timeframe in chosen if timeframe not in kept]:
        message = f"{unlimited[0]} bars are kept forever: give --older-than DAYS, or set MARKETDATA_RETENTION"
        raise ConfigurationError(message)
    return {timeframe: kept[timeframe] for timeframe in chosen}


def _facts(pruned: Pruned) -> dict[str, object]:
    return {
        "timeframe": pruned.timeframe.value,
        "first_day_kept": pruned.before.isoformat(),
        "bars": pruned.bars,
        "features": pruned.features,
        "bytes_returned": pruned.bytes_returned,
        "bytes_reusable": pruned.bytes_reusable,
    }


def _line(pruned: Pruned, *, dry_run: bool) -> str:
    verb = "would remove" if dry_run else "removed"
    return (
        f"{pruned.timeframe} before {pruned.before}: {verb} {pruned.bars:,} bars and {pruned.features:,} rows of"
        f" features; {_megabytes(pruned.bytes_returned)} back to the disk, about"
        f" {_megabytes(pruned.bytes_reusable)} for later bars"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
