"""Runs as processes of this machine, and how it is seen that one is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psutil
from dagster import DefaultRunLauncher

from marketdata_assets.storage.dagster_internals import (
    CheckRunHealthResult,
    WorkerStatus,
    launched_here,
    worker_process,
)

if TYPE_CHECKING:
    from dagster import DagsterRun

_CLOCKS: Final = timedelta(seconds=2)
"""How far a process' start, which the kernel counts in ticks since its own, may seem to lie after its first event."""


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, and a look at the process of a run.

    The code server that started a run notices its end, unless it has ended itself: after a restart of the
    machine nobody would, and the run would count as under way, and hold its places in the queue, for ever.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks about each run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of ``run`` lives. Of what runs elsewhere nothing is known, so nothing is said."""
        if not launched_here(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not started by a code server of this machine")
        told = worker_process(self._instance, run)
        if told is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its process has not reported yet")
        pid, since = told
        if is_alive(pid, since):
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(pid))
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"process {pid} of this run is gone", run_worker_id=str(pid)
        )


def is_alive(pid: int, since: datetime) -> bool:
    """Whether the process that had the id ``pid`` at ``since`` lives; another one that has it by now does not count."""
    try:
        process = psutil.Process(pid)
        started = datetime.fromtimestamp(process.create_time(), UTC)
        return process.status() != psutil.STATUS_ZOMBIE and started <= since + _CLOCKS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
