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

from dagster import DagsterEventType, DagsterInstance, OutputContext
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator
from dagster._core.instance import types as instance_types
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._utils.schedules import schedule_execution_time_iterator

if TYPE_CHECKING:
    import logging
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from dagster import AssetExecutionContext, DagsterRun

__all__ = [
    "CheckRunHealthResult",
    "WorkerStatus",
    "add_partition_metadata",
    "is_storage_retry",
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


@cache
def _passing_folder() -> tempfile.TemporaryDirectory[str]:
    # Kept until the process ends: an instance holds the parts of its storage, not the storage.
    return tempfile.TemporaryDirectory(prefix="marketdata-dagster-")


def passing_storage() -> DagsterSqliteStorage:
    """A storage that goes with the process: for commands that need an instance and store nothing of worth."""
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
    """The process id that ``run`` told when its process started, and when it told it; None before that."""
    for record in reversed(instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)):
        event = record.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None:
            return int(str(pid.value)), datetime.fromtimestamp(record.timestamp, UTC)
    return None


def next_tick(cron: str | Sequence[str], after: datetime) -> datetime:
    """The first moment after ``after`` that ``cron`` names, in UTC."""
    moments = schedule_execution_time_iterator(after.timestamp(), cron, "UTC")
    return next(moment.astimezone(UTC) for moment in moments if moment > after)


def running_schedules(instance: DagsterInstance) -> dict[str, str | Sequence[str]]:
    """The cron strings of the schedules that the daemon has seen switched on, by name."""
    return {
        state.instigator_name: state.instigator_data.cron_schedule
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        if state.status is not InstigatorStatus.STOPPED
        and isinstance(state.instigator_data, ScheduleInstigatorData)
    }
