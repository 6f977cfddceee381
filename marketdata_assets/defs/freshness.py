"""The hourly check that each series is fresh, which depends on no other run."""

from __future__ import annotations

from typing import Final

from dagster import DefaultScheduleStatus, ScheduleDefinition

from marketdata_assets.defs.jobs import freshness_job
from marketdata_assets.domain.run_tags import Purpose

HOURLY_FRESHNESS: Final = "hourly_freshness"


def freshness_schedule() -> ScheduleDefinition:
    """Return the schedule of ``bars_fresh`` at 20 past every hour, which finds late bars without a run of ``ohlcv``."""
    return ScheduleDefinition(
        name=HOURLY_FRESHNESS,
        job=freshness_job,
        cron_schedule="20 * * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Checks every hour whether every active series has the bars that are due.",
        tags=Purpose.FRESHNESS.tags,
    )
