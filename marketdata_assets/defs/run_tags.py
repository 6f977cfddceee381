"""Purposes: what the daemon's runs are for, as a tag of each, and which of them are under way."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dagster import DagsterRunStatus, RunsFilter

from marketdata_assets.defs.partitions import RANGE_START

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun, RunRecord

PURPOSE_TAG: Final = "marketdata/purpose"
"""On every run that a schedule or a sensor asks for: a :class:`Purpose`; on a command's: what was typed."""

REQUEST_TAG: Final = "marketdata/request"
"""On a run whose end somebody waits for: what it is known by in the table that waits."""

WILL_RETRY_TAG: Final = "dagster/will_retry"
"""On a failed run: whether Dagster starts it again."""

_RETRIED_AS_TAG: Final = "dagster/auto_retry_run_id"
_PRIORITY_TAG: Final = "dagster/priority"
_UNFINISHED: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


class Purpose(StrEnum):
    """What a run of the daemon is for."""

    DAILY_BARS = "daily_bars"
    DAILY_FEATURES = "daily_features"
    CORPORATE_ACTIONS = "corporate_actions"
    INTRADAY_BARS = "intraday_bars"
    INITIAL_BACKFILL = "initial_backfill"
    GAP_REPAIR = "gap_repair"
    MATRIX = "matrix"
    FRESHNESS = "freshness"
    RETENTION = "retention"

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its runs. In the queue, what brings new bars goes before old history."""
        patient = {_PRIORITY_TAG: "-1"} if self in _PATIENT else {}
        return {PURPOSE_TAG: self.value, **patient}


_PATIENT: Final = (Purpose.INITIAL_BACKFILL, Purpose.GAP_REPAIR)


def unfinished(instance: DagsterInstance, **tags: str) -> list[DagsterRun]:
    """The runs with ``tags`` that are queued or under way."""
    return list(instance.get_runs(RunsFilter(statuses=_UNFINISHED, tags=tags)))


def under_way(instance: DagsterInstance, purpose: Purpose) -> list[DagsterRun]:
    """The runs of ``purpose`` that are queued or under way."""
    return unfinished(instance, **{PURPOSE_TAG: purpose.value})


def unfinished_ranges(instance: DagsterInstance) -> list[DagsterRun]:
    """The range runs, whoever started them, that are queued or under way: they go by the order of the series."""
    return [run for run in unfinished(instance) if RANGE_START in run.tags]


def is_unfinished(run: DagsterRun) -> bool:
    """Whether ``run`` is queued or under way, or Dagster is about to start it again."""
    awaits_retry = (
        run.status is DagsterRunStatus.FAILURE
        and run.tags.get(WILL_RETRY_TAG) == "true"
        and _RETRIED_AS_TAG not in run.tags
    )
    return awaits_retry or run.status in _UNFINISHED


def ended_at(record: RunRecord) -> datetime | None:
    """When the run of ``record`` ended, UTC; None when it has not."""
    return None if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)
