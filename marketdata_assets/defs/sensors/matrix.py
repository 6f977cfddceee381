"""``matrix_after_gaps``: the refresh of the matrix after a scan for gaps."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

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
from marketdata_assets.defs.clock import read_utc_now
from marketdata_assets.defs.jobs import matrix_job
from marketdata_assets.defs.metadata import integer_of
from marketdata_assets.domain.run_tags import Purpose

if TYPE_CHECKING:
    from marketdata_assets.defs.clock import Clock

REPORT_TAG: Final = "marketdata/gap_report"
"""On a run that the sensor requested: the event of the ``gap_report`` that caused the request."""

_SECONDS: Final = 30
_PAUSE: Final = timedelta(minutes=10)
"""The pause between a failed run and the next run for the same report."""
_WAITING: Final = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
_ENDED: Final = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


def matrix_sensor(clock: Clock = read_utc_now) -> SensorDefinition:
    """Return the sensor that requests a run of ``completeness_matrix`` when ``gap_report`` is newer than its sums."""

    @sensor(
        name="matrix_after_gaps",
        job=matrix_job,
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Updates the completeness matrix after a scan for gaps; several scans lead to one update.",
    )
    def matrix_after_gaps(context: SensorEvaluationContext) -> RunRequest | SkipReason:
        report = latest_report(context.instance)
        if report <= _read_latest_summed_report(context.instance):
            return SkipReason("the matrix includes the latest gap_report")
        # Without a run key: Dagster would never repeat a request with the key of a run that failed.
        requested = context.instance.get_run_records(
            RunsFilter(job_name=matrix_job.name, tags={REPORT_TAG: str(report)}), limit=1
        )
        if requested and requested[0].dagster_run.status not in _ENDED:
            return SkipReason(f"run {requested[0].dagster_run.run_id} is under way")
        # A waiting run reads the store when it begins, so it will include this report.
        waiting = context.instance.get_run_records(
            RunsFilter(job_name=matrix_job.name, statuses=_WAITING), limit=1
        )
        if waiting:
            return SkipReason(f"run {waiting[0].dagster_run.run_id} has not begun yet")
        if requested and clock().timestamp() < (requested[0].end_time or 0) + _PAUSE.total_seconds():
            return SkipReason(
                f"run {requested[0].dagster_run.run_id} failed: the next one follows after {_PAUSE}"
            )
        return RunRequest(tags={**Purpose.MATRIX.tags, REPORT_TAG: str(report)})

    return matrix_after_gaps


def _read_latest_summed_report(instance: DagsterInstance) -> int:
    """Return the event of the latest ``gap_report`` that the matrix includes, -1 when it includes none."""
    records = instance.fetch_materializations(AssetKey("completeness_matrix"), limit=1).records
    materialization = records[0].asset_materialization if records else None
    report = materialization.metadata.get(GAP_REPORT) if materialization else None
    return -1 if report is None else integer_of(report)
