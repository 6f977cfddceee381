"""``matrix_after_gaps``: the matrix follows a scan for gaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from marketdata_assets.defs.assets.completeness_matrix import GAP_REPORT, latest_report
from marketdata_assets.defs.jobs import matrix_job
from marketdata_assets.defs.metadata import integer_of
from marketdata_assets.domain.run_tags import Purpose

REPORT_TAG: Final = "marketdata/gap_report"
"""On a run that the sensor asked for: the event of the ``gap_report`` that it was asked for after."""

_SECONDS: Final = 30
_PAUSE: Final = timedelta(minutes=10)
"""Between a run that failed and the next one after the same report."""
_WAITING: Final = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
_ENDED: Final = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


def matrix_sensor() -> SensorDefinition:
    """Asks for a run of ``completeness_matrix`` when ``gap_report`` is newer than what it summed up."""

    @sensor(
        name="matrix_after_gaps",
        job=matrix_job,
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Sums up how whole each series is after a scan for gaps; several such runs are one sum.",
    )
    def matrix_after_gaps(context: SensorEvaluationContext) -> RunRequest | SkipReason:
        report = latest_report(context.instance)
        if report <= _summed_up(context.instance):
            return SkipReason("the matrix holds the latest gap_report")
        # No run key: Dagster would never ask again with the key of a run that failed.
        requested = context.instance.get_run_records(
            RunsFilter(job_name=matrix_job.name, tags={REPORT_TAG: str(report)}), limit=1
        )
        if requested and requested[0].dagster_run.status not in _ENDED:
            return SkipReason(f"run {requested[0].dagster_run.run_id} is under way")
        # It reads the store when it begins, and finds this report, too.
        waiting = context.instance.get_run_records(
            RunsFilter(job_name=matrix_job.name, statuses=_WAITING), limit=1
        )
        if waiting:
            return SkipReason(f"run {waiting[0].dagster_run.run_id} has not begun yet")
        if (
            requested
            and datetime.now(UTC).timestamp() < (requested[0].end_time or 0) + _PAUSE.total_seconds()
        ):
            return SkipReason(f"run {requested[0].dagster_run.run_id} failed: another follows after {_PAUSE}")
        return RunRequest(tags={**Purpose.MATRIX.tags, REPORT_TAG: str(report)})

    return matrix_after_gaps


def _summed_up(instance: DagsterInstance) -> int:
    """The latest ``gap_report`` that the matrix holds, -1 when it holds none."""
    records = instance.fetch_materializations(AssetKey("completeness_matrix"), limit=1).records
    made = records[0].asset_materialization if records else None
    told = made.metadata.get(GAP_REPORT) if made else None
    return -1 if told is None else integer_of(told)
