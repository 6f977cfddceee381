"""Looking every hour whether each series is fresh, whatever else runs or has stopped running."""

from __future__ import annotations

from typing import Final

from dagster import DefaultScheduleStatus, ScheduleDefinition

from marketdata_assets.defs.jobs import freshness_job
from marketdata_assets.domain.run_tags import Purpose

HOURLY_FRESHNESS: Final = "hourly_freshness"


def freshness_schedule() -> ScheduleDefinition:
    """Runs ``bars_fresh`` at 20 past every hour: an alarm that needs no run of ``ohlcv`` to ring."""
    return ScheduleDefinition(
        name=HOURLY_FRESHNESS,
        job=freshness_job,
        cron_schedule="20 * * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Checks every hour whether every active series has the bars that are due.",
        tags=Purpose.FRESHNESS.tags,
    )
