"""The one Definitions object of the platform."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dagster as dg

from marketdata_assets.config import load_settings
from marketdata_assets.defs.assets.completeness_matrix import completeness_matrix_asset
from marketdata_assets.defs.assets.corporate_actions import corporate_action_assets
from marketdata_assets.defs.assets.features import features_asset
from marketdata_assets.defs.assets.gap_report import gap_report_asset
from marketdata_assets.defs.assets.ohlcv import ohlcv_asset
from marketdata_assets.defs.checks.bars import bar_checks
from marketdata_assets.defs.checks.features import feature_checks
from marketdata_assets.defs.checks.gaps import gap_checks
from marketdata_assets.defs.checks.series import completeness_check, freshness_check
from marketdata_assets.defs.clock import read_utc_now
from marketdata_assets.defs.jobs import (
    bars_job,
    corporate_actions_job,
    features_job,
    freshness_job,
    gaps_job,
    history_job,
    matrix_job,
)
from marketdata_assets.defs.partitions import day_by_series
from marketdata_assets.defs.resources.io_manager import PostgresIOManager
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.retention import retention_job
from marketdata_assets.defs.schedules import platform_schedules
from marketdata_assets.defs.sensors import platform_sensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.defs.clock import Clock


def build_definitions(
    *,
    resources: Mapping[str, Any] | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
    clock: Clock = read_utc_now,
) -> dg.Definitions:
    """Assets, checks, jobs, schedules, sensors and resources; ``resources`` replace those of the same name (test doubles).

    ``executor`` says where the steps of a run go. Within one process a step costs 0.3 s, in a process of its own
    8 s; any executor will do, because steps hand on their results through Postgres. ``clock`` is
    what the sensors and the matrix go by; runs go by this machine's, which is compared with the database's.
    """
    start = load_settings().start
    partitions = day_by_series(start)
    with warnings.catch_warnings():
        # What is beta there has been measured on the version that constraints.txt pins.
        warnings.simplefilter("ignore", dg.BetaWarning)
        assets = dg.with_source_code_references(
            [
                ohlcv_asset(partitions),
                gap_report_asset(partitions),
                completeness_matrix_asset(clock),
                features_asset(partitions, earliest=start),
                *corporate_action_assets(),
            ]
        )
    postgres = PostgresResource()
    return dg.Definitions(
        assets=assets,
        asset_checks=[
            bar_checks(),
            freshness_check(),
            gap_checks(),
            completeness_check(),
            feature_checks(),
        ],
        jobs=[
            bars_job,
            gaps_job,
            history_job,
            features_job,
            matrix_job,
            corporate_actions_job,
            freshness_job,
            retention_job(),
        ],
        schedules=platform_schedules(),
        sensors=platform_sensors(clock),
        resources={
            "polygon": PolygonResource(),
            "postgres": postgres,
            "io_manager": PostgresIOManager(postgres=postgres),
            **(resources or {}),
        },
        executor=executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return what ``workspace.yaml`` loads."""
    return build_definitions()
