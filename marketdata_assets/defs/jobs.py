"""Jobs: named selections of assets and their checks, which commands, schedules, sensors and people start."""

from __future__ import annotations

from dagster import AssetCheckKey, AssetKey, AssetSelection, define_asset_job

from marketdata_assets.defs.checks.series import FRESH
from marketdata_assets.domain.jobs import (
    BARS_JOB,
    CORPORATE_ACTIONS_JOB,
    FEATURES_JOB,
    FRESHNESS_JOB,
    GAPS_JOB,
    HISTORY_JOB,
    MATRIX_JOB,
)

bars_job = define_asset_job(
    BARS_JOB,
    selection=["ohlcv"],
    description="Fetch bars: those that are not stored, and the latest sessions again.",
)

history_job = define_asset_job(
    HISTORY_JOB,
    selection=["ohlcv", "gap_report"],
    description="Fetch bars, then scan for gaps. The daily run is a run of this job.",
)

gaps_job = define_asset_job(
    GAPS_JOB,
    selection=["gap_report"],
    description="Scan for gaps, refetch them, and record why the remaining ones are missing.",
)

matrix_job = define_asset_job(
    MATRIX_JOB,
    selection=["completeness_matrix"],
    description="Sum up how complete each series is over the scanned days.",
)

corporate_actions_job = define_asset_job(
    CORPORATE_ACTIONS_JOB,
    selection=["splits", "dividends", "earnings"],
    description="Fetch splits, dividends and, if the plan includes them, earnings.",
)

features_job = define_asset_job(
    FEATURES_JOB,
    selection=["features"],
    description="Compute the features that bars, gaps or splits have made stale.",
)

freshness_job = define_asset_job(
    FRESHNESS_JOB,
    selection=AssetSelection.checks(AssetCheckKey(AssetKey("ohlcv"), FRESH)),
    description="Check whether every active series has the bars that are due; fetches nothing.",
)
