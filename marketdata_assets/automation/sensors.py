"""Sensors: what follows by itself when something has happened."""

from __future__ import annotations

from typing import Final

from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from marketdata_assets.automation.jobs import matrix_job

_GAPS, _MATRIX = AssetKey("gap_report"), AssetKey("completeness_matrix")
_SECONDS: Final = 30


def matrix_sensor() -> SensorDefinition:
    """Asks for a run of ``completeness_matrix`` when ``gap_report`` is newer."""

    @sensor(
        name="matrix_after_gaps",
        job=matrix_job,
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Sums up how whole each series is once gaps were looked for; several such runs are one sum.",
    )
    def matrix_after_gaps(context: SensorEvaluationContext) -> RunRequest | SkipReason:
        report, matrix = _latest(context.instance, _GAPS), _latest(context.instance, _MATRIX)
        if report <= matrix:
            return SkipReason("the matrix is newer than the latest gap_report")
        # The key keeps a second run from being asked for while the first is under way.
        return RunRequest(run_key=f"gap_report {report}")

    return matrix_after_gaps


def _latest(instance: DagsterInstance, key: AssetKey) -> int:
    """The position of the latest materialization in the event log, -1 without one."""
    records = instance.fetch_materializations(key, limit=1).records
    return records[0].storage_id if records else -1
