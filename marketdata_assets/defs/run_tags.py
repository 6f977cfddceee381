"""The runs with given tags, such as those of a purpose, that are queued or under way in Dagster's instance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dagster import DagsterRunStatus, RunsFilter

from marketdata_assets.domain.partitions import RANGE_START
from marketdata_assets.domain.run_tags import PURPOSE_TAG

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun, RunRecord

    from marketdata_assets.domain.run_tags import Purpose

REQUEST_TAG: Final = "marketdata/request"
"""On a run that a row of ``initial_backfill`` waits for: the value of its column ``request``."""

WILL_RETRY_TAG: Final = "dagster/will_retry"
"""On a failed run: whether Dagster will retry it."""

_RETRIED_AS_TAG: Final = "dagster/auto_retry_run_id"
_UNFINISHED: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def unfinished(instance: DagsterInstance, **tags: str) -> list[DagsterRun]:
    """List the runs with ``tags`` that are queued or under way."""
    return list(instance.get_runs(RunsFilter(statuses=_UNFINISHED, tags=tags)))


def under_way(instance: DagsterInstance, purpose: Purpose) -> list[DagsterRun]:
    """List the runs of ``purpose`` that are queued or under way."""
    return unfinished(instance, **{PURPOSE_TAG: purpose.value})


def unfinished_ranges(instance: DagsterInstance) -> list[DagsterRun]:
    """List the range runs of any origin that are queued or under way: they depend on the order of the series."""
    return [run for run in unfinished(instance) if RANGE_START in run.tags]


def is_unfinished(run: DagsterRun) -> bool:
    """Whether ``run`` is queued or under way, or Dagster is about to retry it."""
    awaits_retry = (
        run.status is DagsterRunStatus.FAILURE
        and run.tags.get(WILL_RETRY_TAG) == "true"
        and _RETRIED_AS_TAG not in run.tags
    )
    return awaits_retry or run.status in _UNFINISHED


def ended_at(record: RunRecord) -> datetime | None:
    """Return when the run of ``record`` ended, UTC; None if it has not ended."""
    return None if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)
