"""Whether the process of a run lives: what run monitoring is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import EngineEventData  # what a run's process reports

from marketdata_assets.defs.instance.internals import WorkerStatus
from marketdata_assets.defs.instance.launcher import LocalRunLauncher, is_alive

HERE = json.dumps({"host": "localhost", "socket": "/tmp/of-a-code-server"})  # noqa: S108 - a name, no file
ELSEWHERE = json.dumps({"host": "code", "port": 4000})


@pytest.fixture
def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def status(pid: int | None, server: str | None, grace_seconds: int = 0) -> WorkerStatus:
    """What the launcher says of a run that a code server at ``server`` started, and whose process told ``pid``."""
    with DagsterInstance.ephemeral() as instance:
        launcher = LocalRunLauncher(grace_seconds=grace_seconds)
        launcher.register_instance(instance)
        tags = {".dagster/grpc_info": server} if server else {}
        run = instance.add_run(
            DagsterRun(
                "bars",
                run_id="00000000-0000-4000-8000-000000000001",
                status=DagsterRunStatus.STARTED,
                tags=tags,
            )
        )
        instance.report_engine_event("launched", run)
        if pid is not None:
            instance.report_engine_event("started", run, EngineEventData.in_process(pid))
        instance.report_engine_event("something else", run)
        return launcher.check_run_worker_health(run).status


def test_a_run_lives_as_long_as_its_process(gone: int) -> None:
    assert status(os.getpid(), HERE) is WorkerStatus.RUNNING
    assert status(gone, HERE) is WorkerStatus.FAILED


def test_a_code_server_that_ended_with_its_run_is_given_time_to_come_back(gone: int) -> None:
    assert status(gone, HERE, grace_seconds=3600) is WorkerStatus.RUNNING


def test_nothing_is_said_of_runs_elsewhere_or_before_their_process_reports(gone: int) -> None:
    assert status(gone, ELSEWHERE) is WorkerStatus.RUNNING  # the same number is another process there
    assert status(gone, None) is WorkerStatus.RUNNING  # a command executes it in its own process
    assert status(None, HERE) is WorkerStatus.RUNNING


def test_another_process_with_the_same_id_does_not_count() -> None:
    born = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    assert is_alive(os.getpid(), born + timedelta(seconds=1))
    # the one that reported under this id did so before this process began
    assert not is_alive(os.getpid(), born - timedelta(hours=1))
    with subprocess.Popen(["sleep", "60"]) as other:  # noqa: S607 - wherever it is
        try:
            assert not is_alive(other.pid, datetime.now(UTC) - timedelta(minutes=1))
        finally:
            other.kill()


def test_a_clock_that_is_set_forward_ends_no_run() -> None:
    # The start of a process is counted from that of the machine, which moves with the clock.
    born = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    assert is_alive(os.getpid(), born - timedelta(minutes=10))


def test_runs_that_their_code_server_has_ended_are_forgotten(
    gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr("marketdata_assets.defs.instance.launcher.time.monotonic", lambda: clock[0])
    with DagsterInstance.ephemeral() as instance:
        launcher = LocalRunLauncher(grace_seconds=60)
        launcher.register_instance(instance)
        for number in range(3):
            tags = {".dagster/grpc_info": HERE}
            run = instance.add_run(
                DagsterRun("bars", run_id=f"00000000-0000-4000-8000-00000000000{number}", tags=tags)
            )
            instance.report_engine_event("started", run, EngineEventData.in_process(gone))
            assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
            clock[0] += 10_000
        assert len(launcher.__dict__["_gone_since"]) == 1


def test_a_process_that_nobody_has_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        assert not is_alive(process.pid, datetime.now(UTC))
    finally:
        process.wait()
