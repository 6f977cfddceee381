"""Runs as processes of this machine, and the detection of runs whose process is gone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

import psutil
from dagster import DefaultRunLauncher, Field

from marketdata_assets.defs.instance.internals import (
    CheckRunHealthResult,
    WorkerStatus,
    launched_here,
    worker_process,
)

if TYPE_CHECKING:
    from dagster import DagsterRun

_CLOCKS: Final = timedelta(seconds=2)
"""How much later than its first event a process may seem to have started: the kernel counts in ticks since boot."""

_STEP: Final = timedelta(minutes=15)
"""How far the clock may have been set forward since the start: the start of every process moves with it."""

_FORGET_SECONDS: Final = 3600.0
"""The time after which the code server has ended a run that was seen without its process."""


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, with a check of whether the process of a run is alive.

    The code server that started a run notices its end, unless the code server has ended too: after a restart of the
    machine, the run would count as under way, and occupy its slots of the queue, forever.

    Dagster tries once to resume a crashed run, which fails while no code server answers. A code server that has ended
    with its runs has ``grace_seconds`` to come back before the runs count as failed.
    """

    def __init__(self, inst_data: Any = None, grace_seconds: int = 60) -> None:  # noqa: ANN401 - Dagster's signature
        super().__init__(inst_data)
        self._grace_seconds = grace_seconds
        self._gone_since: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the schema of the configuration: ``grace_seconds``, 60 by default."""
        return {"grace_seconds": Field(int, is_required=False, default_value=60)}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Self:  # noqa: ANN401 - Dagster's signature
        """Return the launcher of an instance."""
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring checks each run: always."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Check whether the process of ``run`` is alive. A run on another machine counts as running: its state is unknown."""
        if not launched_here(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not started by a code server of this machine")
        process = worker_process(self._instance, run)
        if process is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its process has not reported yet")
        pid, since = process
        if is_alive(pid, since):
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(pid))
        gone = f"process {pid} of this run is gone"
        now = time.monotonic()
        forget = now - self._grace_seconds - _FORGET_SECONDS
        self._gone_since = {run_id: since for run_id, since in self._gone_since.items() if since > forget}
        if now - self._gone_since.setdefault(run.run_id, now) < self._grace_seconds:
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, f"{gone}; its code server may still report the end of the run"
            )
        del self._gone_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, gone, run_worker_id=str(pid))


def _is_python(process: psutil.Process) -> bool:
    """Whether ``process`` may be a run: a code server starts runs as Python processes."""
    return any("python" in word for word in process.cmdline()[:1])


def is_alive(pid: int, since: datetime) -> bool:
    """Whether the process that had the id ``pid`` at ``since`` is alive; a later process with the same id does not count."""
    try:
        process = psutil.Process(pid)
        started = datetime.fromtimestamp(process.create_time(), UTC)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started <= since + _CLOCKS or (started <= since + _STEP and _is_python(process))
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
