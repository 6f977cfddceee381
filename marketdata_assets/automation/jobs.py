"""Jobs: named selections of assets that runs, schedules and people start."""

from __future__ import annotations

from typing import Final

from dagster import define_asset_job

BARS_JOB: Final = "bars"

bars_job = define_asset_job(
    BARS_JOB,
    selection=["ohlcv"],
    description="Bring bars: what is missing from the store, and the latest sessions again.",
)
