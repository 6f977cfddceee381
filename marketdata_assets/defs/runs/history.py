"""The runs in Dagster's instance: the latest of each job, the next ticks, and whether the daemon is alive."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dagster import DagsterEventType, RunsFilter

from marketdata_assets.defs.instance.internals import next_tick, running_schedules
from marketdata_assets.domain.jobs import JOBS, UI_JOB, is_only_a_failed_check, may_leave_gaps
from marketdata_assets.domain.monitoring import JobRun, NextTick, Runs
from marketdata_assets.domain.run_tags import PURPOSE_TAG

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun, RunRecord


def runs_of(instance: DagsterInstance, now: datetime) -> Runs:
    """Read the latest runs, the next ticks and the daemon's heartbeat from ``instance`` at ``now``.

    Schedules are those that the daemon has seen switched on; they tick only while the daemon is alive.
    """
    return Runs(
        tuple(_list_latest(instance)), tuple(_list_next_ticks(instance, now)), _read_heartbeat(instance)
    )


def is_a_gap_that_stays(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether the failed ``run`` did everything it could, and only the check failed that reports missing bars."""
    if not may_leave_gaps(run.job_name, run.tags):
        return False
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE).records
    events = [record.event_log_entry.dagster_event for record in records]
    errors = [event.step_failure_data.error for event in events if event is not None]
    return is_only_a_failed_check([error and error.cls_name for error in errors])


def _list_latest(instance: DagsterInstance) -> list[JobRun]:
    """List the latest run of each of this platform's jobs that ran, newest first."""
    found = []
    for job in JOBS:
        records = instance.get_run_records(RunsFilter(job_name=job), limit=1)
        found += [_job_run(instance, record) for record in records]
    return sorted(found, key=lambda run: run.created, reverse=True)


def _job_run(instance: DagsterInstance, record: RunRecord) -> JobRun:
    run = record.dagster_run
    return JobRun(
        job=run.job_name,
        run_id=run.run_id,
        status=run.status.value,
        created=record.create_timestamp.astimezone(UTC),
        started=_to_datetime(record.start_time),
        ended=_to_datetime(record.end_time),
        purpose=run.tags.get(PURPOSE_TAG),
        by_hand=run.job_name == UI_JOB,
        gap_stays=run.is_failure and is_a_gap_that_stays(instance, run),
    )


def _list_next_ticks(instance: DagsterInstance, now: datetime) -> list[NextTick]:
    schedules = running_schedules(instance)
    ticks = [NextTick(name, next_tick(cron, now)) for name, cron in schedules.items()]
    return sorted(ticks, key=lambda tick: (tick.at, tick.schedule))


def _read_heartbeat(instance: DagsterInstance) -> datetime | None:
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    return _to_datetime(max(beats, default=None))


def _to_datetime(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
