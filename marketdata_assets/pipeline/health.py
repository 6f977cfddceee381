"""The health of the platform: the facts that ``domain.monitoring`` judges.

Bars are read only of series without a recent bar, as ``pipeline.freshness`` needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.domain.monitoring import StaleSeries, Vitals
from marketdata_assets.pipeline.freshness import freshness_of, stale_rows
from marketdata_assets.storage.monitoring import (
    count_losses,
    disk_of,
    failed_fetches,
    slow_queries,
    vendor_use,
)

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from marketdata_assets.config import Settings
    from marketdata_assets.domain.monitoring import Runs
    from marketdata_assets.storage.connection import Database


def vitals(
    database: Database,
    settings: Settings,
    now: datetime,
    *,
    freshness: pl.DataFrame | None = None,
    runs: Runs | None = None,
) -> Vitals:
    """Read the facts that ``domain.monitoring`` judges, as of ``now``.

    ``freshness`` is ``freshness_of(database, now)`` if the caller has read it already. ``runs`` come from Dagster's instance,
    which this package does not read.
    """
    return Vitals(
        vendor=vendor_use(database, settings.polygon_requests_per_minute, now),
        stale=stale_series(freshness_of(database, now) if freshness is None else freshness),
        slow=slow_queries(database),
        disk=disk_of(settings),
        failed_fetches=tuple(failed_fetches(database, now)),
        gaps=count_losses(database),
        runs=runs,
    )


def stale_series(freshness: pl.DataFrame) -> tuple[StaleSeries, ...]:
    """Return the series of ``freshness`` (``pipeline.freshness.FRESHNESS_SCHEMA``) that are not fresh, the most late first."""
    return tuple(
        StaleSeries(f"{row['symbol']}:{row['timeframe']}", row["reason"], row["late"])
        for row in stale_rows(freshness).iter_rows(named=True)
    )
