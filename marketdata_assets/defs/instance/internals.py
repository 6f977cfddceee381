"""What this project needs of Dagster that its public API does not offer. Every private import stands here.

``test_dagster_internals`` notices when a release of Dagster moves what is used here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from functools import cache
from io import TextIOBase
from typing import TYPE_CHECKING, Final

from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    EventLogEntry,
    OutputContext,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.instance import types as instance_types
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._serdes import deserialize_value
from dagster._utils.schedules import schedule_execution_time_iterator
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy import func, select

from marketdata_assets.defs.metadata import integer_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from dagster import AssetExecutionContext, DagsterRun

__all__ = [
    "CheckRunHealthResult",
    "RangeRunEventLog",
    "WorkerStatus",
    "add_partition_metadata",
    "is_storage_retry",
    "latest_partition",
    "launched_here",
    "next_tick",
    "open_instance_of_commands",
    "passing_storage",
    "record_only",
    "running_schedules",
    "worker_process",
]


class _Discarded(TextIOBase):
    """A stream that keeps nothing of what is written to it."""

    def write(self, text: str, /) -> int:
        return len(text)


class _QuietSys:
    """The module ``sys`` with a standard error that keeps nothing."""

    stderr: Final = _Discarded()

    def __getattr__(self, name: str) -> object:
        return getattr(sys, name)


_QUIET_SYS: Final = _QuietSys()


def open_instance_of_commands(home: Path) -> DagsterInstance:
    """Open the instance of the folder ``home`` for runs in this process, without copies of what their steps print.

    Dagster makes the copies with four processes for each step, which belong to the terminal like the command itself:
    Ctrl-C ends them with tracebacks, and starting them costs more than many a step. Steps print nothing.
    """
    # Dagster prints what its event log raises before it raises it: dozens of lines, with the statement.
    instance_types.sys = _QUIET_SYS  # type: ignore[assignment,attr-defined]
    manager = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides={"compute_logs": manager}))


def is_storage_retry(record: logging.LogRecord) -> bool:
    """Whether ``record`` is Dagster's note that it connects to its storage again; the last attempt raises."""
    return record.name == "root" and record.funcName == "retry_pg_connection_fn"


class RangeRunEventLog(PostgresEventLogStorage):
    """Dagster's event log, which knows the partitions of a range run that failed or is in progress.

    Dagster writes one event for all partitions that a range run plans
    (``DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS``), and finds failed and running partitions by the events of
    single partitions alone (github.com/dagster-io/dagster/pull/29288). An event for each partition would cost as many
    bytes again as the materializations.
    """

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: AssetKey, after_storage_id: int | None = None
    ) -> dict[str, tuple[str, int]]:
        """Return the run and the event id of each partition's latest plan that no materialization has followed.

        Only plans of runs that did not succeed, with an event id above ``after_storage_id``.
        """
        attempts = dict(
            super().get_latest_asset_partition_materialization_attempts_without_materializations(
                asset_key, after_storage_id
            )
        )
        events, runs = SqlEventLogStorageTable.c, RunsTable.c
        of_asset = events.asset_key == asset_key.to_string()
        planned = (
            select(events.id, events.run_id, events.event)
            .join(RunsTable, runs.run_id == events.run_id)
            .where(
                of_asset,
                events.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
                events.partition.is_(None),
                events.id > (after_storage_id or 0),
                runs.status != DagsterRunStatus.SUCCESS.value,
            )
            .order_by(events.id)
        )
        planned = self._add_assets_wipe_filter_to_query(
            planned, self._get_assets_details([asset_key]), [asset_key]
        )
        with self.index_connection() as connection:
            rows = connection.execute(planned).all()
            if not rows:
                return attempts
            materialized = (
                select(events.partition, func.max(events.id))
                .where(
                    of_asset,
                    events.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
                    events.partition.is_not(None),
                    events.id > rows[0].id,
                )
                .group_by(events.partition)
            )
            latest = {row[0]: row[1] for row in connection.execute(materialized)}
        for row in rows:
            event = deserialize_value(row.event, EventLogEntry).get_dagster_event()
            subset = event.asset_materialization_planned_data.partitions_subset
            for partition in () if subset is None else subset.get_partition_keys():
                if latest.get(partition, 0) < row.id and attempts.get(partition, ("", 0))[1] < row.id:
                    attempts[partition] = (row.run_id, row.id)
        return attempts


@cache
def _passing_folder() -> tempfile.TemporaryDirectory[str]:
    # Kept until the process ends: an instance holds the parts of its storage, not the storage.
    return tempfile.TemporaryDirectory(prefix="marketdata-dagster-")


def passing_storage() -> DagsterSqliteStorage:
    """Return a storage that ends with the process, for commands that need an instance and store nothing of worth."""
    return DagsterSqliteStorage.from_local(_passing_folder().name)


def add_partition_metadata(
    context: OutputContext | AssetExecutionContext, metadata: Mapping[str, Mapping[str, object]]
) -> None:
    """Attach metadata to the materialization of each partition, given by partition key.

    ``context.add_asset_metadata(partition_key=...)`` checks the key against the whole range and copies all
    earlier metadata on every call: quadratic in the partitions of a run. Adding them in one go is linear.
    """
    step = (
        context.step_context if isinstance(context, OutputContext) else context.get_step_execution_context()
    )
    collected = dict(step._metadata_accumulator.per_output_metadata)  # noqa: SLF001 - no public way
    for key, values in metadata.items():
        handle = AssetMetadataHandle(asset_key=context.asset_key, partition_key=key)
        collected[handle] = {**collected.get(handle, {}), **values}
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=collected)  # noqa: SLF001 - same


def latest_partition(context: AssetExecutionContext) -> str:
    """Return the partition of the run whose materialization Dagster writes last, and shows as the asset's latest.

    ``context.partition_keys`` lists the same partitions in another order.
    """
    step = context.get_step_execution_context()
    output = step.get_output_context(StepOutputHandle(step.step.key))
    return str(output.asset_partition_keys[-1])


def record_only(context: OutputContext, keys: Collection[str]) -> None:
    """Let the run record only the partitions ``keys`` of its range as materialized; the others stay what they are.

    The public way, an ``AssetMaterialization`` for each partition, writes them to the event log one by one.
    """
    context._asset_partitions_subset = context.asset_partitions_def.subset_with_partition_keys(keys)  # noqa: SLF001 - no public way


def launched_here(run: DagsterRun) -> bool:
    """Whether a code server of this machine started the process of ``run``."""
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return "socket" in server or server.get("host") in ("localhost", "127.0.0.1")


def worker_process(instance: DagsterInstance, run: DagsterRun) -> tuple[int, datetime] | None:
    """Return the process id that ``run`` logged when its process started, and when (UTC); None before that."""
    for record in reversed(instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)):
        event = record.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None:
            return integer_of(pid), datetime.fromtimestamp(record.timestamp, UTC)
    return None


def next_tick(cron: str | Sequence[str], after: datetime) -> datetime:
    """Return the first moment after ``after`` that ``cron`` names, in UTC."""
    moments = schedule_execution_time_iterator(after.timestamp(), cron, "UTC")
    return next(moment.astimezone(UTC) for moment in moments if moment > after)


def running_schedules(instance: DagsterInstance) -> dict[str, str | Sequence[str]]:
    """Return the cron strings of the schedules that the daemon has seen switched on, by name."""
    return {
        state.instigator_name: state.instigator_data.cron_schedule
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        if state.status is not InstigatorStatus.STOPPED
        and isinstance(state.instigator_data, ScheduleInstigatorData)
    }
