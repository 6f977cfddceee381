"""Jobs: named selections of assets, their checks included, that runs, schedules and people start."""

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
    description="Bring bars: what is missing from the store, and the latest sessions again.",
)

history_job = define_asset_job(
    HISTORY_JOB,
    selection=["ohlcv", "gap_report"],
    description="Bring bars, then scan for missing ones: what the platform does by itself every night.",
)

gaps_job = define_asset_job(
    GAPS_JOB,
    selection=["gap_report"],
    description="Scan for missing bars, ask for them again, and say why what is still missing is missing.",
)

matrix_job = define_asset_job(
    MATRIX_JOB,
    selection=["completeness_matrix"],
    description="Sum up how whole each series is, from the days that were scanned.",
)

corporate_actions_job = define_asset_job(
    CORPORATE_ACTIONS_JOB,
    selection=["splits", "dividends", "earnings"],
    description="Bring the vendor's lists of splits, dividends and, where the plan has them, earnings.",
)

features_job = define_asset_job(
    FEATURES_JOB,
    selection=["features"],
    description="Compute the features that bars, gaps or splits have put out of date.",
)

freshness_job = define_asset_job(
    FRESHNESS_JOB,
    selection=AssetSelection.checks(AssetCheckKey(AssetKey("ohlcv"), FRESH)),
    description="Look whether every active series holds the bars that should be there by now; fetches nothing.",
)
