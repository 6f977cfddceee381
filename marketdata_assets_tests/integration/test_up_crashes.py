"""What ``marketdata up`` makes of crashes: of a run, of its own processes, of Postgres, of itself."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from datetime import date
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml

from marketdata_assets.defs.instance.environment import BATCHING
from marketdata_assets.domain.jobs import BARS_JOB
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import Series
from marketdata_assets.simulator import FaultKind
from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets_tests.integration.platform import command, command_environment, free_port, wait_until
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# slow: whole processes, killed and started again
pytestmark = pytest.mark.slow

DAYS = date(2024, 3, 11), date(2024, 3, 15)
LAUNCH = """
mutation($run: ExecutionParams!) {
  launchRun(executionParams: $run) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status parentRunId tags { key value } } } } }"
SECONDS = 150
"""For anything to happen on a machine that is busy with other tests."""


class Up:
    """A running ``marketdata up``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._url = f"http://127.0.0.1:{port}/graphql"

    def child(self, name: str) -> psutil.Process:
        """The webserver or the daemon that runs now."""
        (found,) = [
            one for one in psutil.Process(self.process.pid).children() if name in " ".join(one.cmdline())
        ]
        return found

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        answer = httpx.post(self._url, json={"query": query, "variables": variables}, timeout=60)
        data: dict[str, Any] = answer.json()["data"]
        return data

    def answers(self) -> bool:
        """Whether the UI answers from the database."""
        with suppress(httpx.HTTPError, KeyError, TypeError, ValueError):
            return "results" in self.graphql(RUNS)["runsOrError"]
        return False

    def launch(self, run: Rectangle) -> str:
        """Launch ``run`` as the UI does; returns its id."""
        parameters = {
            "selector": {
                "repositoryLocationName": "marketdata_assets",
                "repositoryName": "__repository__",
                "pipelineName": BARS_JOB,
            },
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {
                "tags": [{"key": name, "value": value} for name, value in run.tags.items()]
            },
        }
        run_id: str = self.graphql(LAUNCH, run=parameters)["launchRun"]["run"]["runId"]
        return run_id

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.graphql(RUNS)["runsOrError"]["results"]
        return found

    def status(self, run_id: str) -> str:
        return next(str(one["status"]) for one in self.runs() if one["runId"] == run_id)

    def retry_of(self, run_id: str) -> str | None:
        """The run that was started because ``run_id`` crashed."""
        return next((one["runId"] for one in self.runs() if one["parentRunId"] == run_id), None)

    def workers(self) -> list[psutil.Process]:
        """Processes that execute a run."""
        return [
            one
            for one in psutil.Process(self.process.pid).children(recursive=True)
            if "spawn_main" in " ".join(one.cmdline())
        ]


@pytest.fixture
def simulator() -> Iterator[SimulatorHandle]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, simulator: SimulatorHandle) -> Iterator[dict[str, str]]:
    """A home with a Postgres of its own: one that may be killed."""
    variables = command_environment(tmp_path, None, POLYGON_API_KEY=KEY, POLYGON_BASE_URL=simulator.url)
    settings = yaml.safe_load((tmp_path / "dagster.yaml").read_text())
    settings["run_monitoring"]["poll_interval_seconds"] = 2
    settings["run_launcher"]["config"]["grace_seconds"] = 30
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    yield variables
    EmbeddedServer(tmp_path / "home").stop()


@contextmanager
def up(environment: dict[str, str], folder: Path, name: str) -> Iterator[Up]:
    port = free_port()
    log = folder / f"{name}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command("up", "--port", str(port)),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or "Dagster at" in log.read_text(), f"{log}: ready", SECONDS
        )
        assert process.poll() is None, log.read_text()
        yield Up(process, port, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_crashes_end_runs_and_processes_but_not_the_platform(
    environment: dict[str, str], tmp_path: Path, simulator: SimulatorHandle
) -> None:
    one_week = Rectangle(*DAYS, tuple(map(Series.parse, ("SPY:1h", "SPY:1d"))))
    simulator.fail(FaultKind.TIMEOUT, seconds=300)  # a run that asks the vendor stays where it is
    with up(environment, tmp_path, "first") as first:
        # A run whose process is killed, and the code server that would have told.
        crashed = first.launch(one_week)
        simulator.wait_for_requests(1, SECONDS)
        (worker,) = first.workers()
        processes = [psutil.Process(first.process.pid), *psutil.Process(first.process.pid).children(True)]
        python = [one for one in processes if "python" in one.name() and one.ppid() != worker.pid]
        assert len(python) >= 5  # up, code server, webserver, daemon, the run
        for process in python:
            if process.pid != first.process.pid:
                assert BATCHING.items() <= process.environ().items(), process.cmdline()
        code_server = psutil.Process(worker.ppid())
        simulator.set_faults()
        code_server.kill()
        worker.kill()
        wait_until(lambda: first.status(crashed) == "FAILURE", f"{first.log}: the run is over", SECONDS)
        wait_until(lambda: first.retry_of(crashed) is not None, f"{first.log}: it is started again", SECONDS)
        again = first.retry_of(crashed)
        assert again is not None
        wait_until(lambda: first.status(again) == "SUCCESS", f"{first.log}: the bars are there", SECONDS)

        # Both children, then Postgres: all of it comes back, and the store with it.
        before = [first.child(name) for name in ("dagster_webserver", "dagster._daemon")]
        for process in before:
            process.kill()
        wait_until(lambda: first.log.read_text().count("is started again") == 3, f"{first.log}: both again")
        postmaster = EmbeddedServer(tmp_path / "home").status().pid
        assert postmaster is not None
        os.kill(postmaster, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(postmaster), "the postmaster is gone")
        wait_until(first.answers, f"{first.log}: the UI answers", SECONDS)
        assert first.status(again) == "SUCCESS"
        assert EmbeddedServer(tmp_path / "home").status().pid != postmaster

        # Itself: what it leaves goes, and the next one starts at once.
        left = psutil.Process(first.process.pid).children()
        first.process.kill()
        first.process.wait()
        with up(environment, tmp_path, "second") as second:
            assert not [one for one in left if one.is_running()]
            assert second.status(again) == "SUCCESS"
