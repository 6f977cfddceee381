"""The pipeline over Celery: two workers, a real broker, one Postgres."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    JobDefinition,
    define_asset_job,
    execute_job,
    reconstructable,
)

from deploy.celery.definitions import defs
from deploy.settings import FOLDER
from marketdata_assets.domain.jobs import CORPORATE_ACTIONS_JOB
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import Series
from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.integration.platform import free_port, open_platform, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dagster import JobExecutionResult

# slow: a broker, two workers, and every step loads the definitions anew
pytestmark = pytest.mark.slow

SERIES = ("AAPL:1m", "AAPL:1h", "AAPL:1d")
FIRST, LAST = date(2024, 3, 11), date(2024, 3, 13)
MINUTES_OF_A_SESSION = 390


def pipeline() -> JobDefinition:
    """One run from bars to features. A worker finds it by this function's name."""
    job = define_asset_job("pipeline", selection=["ohlcv", "gap_report", "features"])
    return Definitions.merge(defs(), Definitions(jobs=[job])).resolve_job_def("pipeline")


def corporate_actions() -> JobDefinition:
    """Three steps that wait for nothing."""
    return defs().resolve_job_def(CORPORATE_ACTIONS_JOB)


@contextmanager
def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    """``process`` and its children, ended with the block."""
    try:
        yield process
    finally:
        os.killpg(process.pid, number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    log = (tmp_path / "redis.log").open("wb")
    with ended(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True), signal.SIGTERM):
        wait_until(lambda: answers(port), "the broker answers")
        yield f"redis://127.0.0.1:{port}/0"


def answers(port: int) -> bool:
    try:
        return bool(redis.Redis(port=port).ping())
    except redis.ConnectionError:
        return False


@contextmanager
def worker(name: str, folder: Path) -> Iterator[Path]:
    """A worker for one step at a time, as docs/deploy.md starts it; what it says is in the file."""
    programs = Path(sys.executable).parent
    command = [
        *(str(programs / "dagster-celery"), "worker", "start", "--app", "dagster_celery.app"),
        *(
            "--name",
            name,
            "--config-yaml",
            str(FOLDER / "celery" / "worker.yaml"),
            "--",
            "--concurrency",
            "1",
        ),
    ]
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    said = folder / f"{name}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    with ended(process, signal.SIGTERM):
        yield said


def workers_of(instance: DagsterInstance, result: JobExecutionResult) -> dict[str, str]:
    """Which worker took each step."""
    taken = {}
    for record in instance.all_logs(result.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = record.dagster_event
        if event is not None and (told := event.engine_event_data.metadata.get("Celery worker")) is not None:
            taken[str(event.step_key)] = str(told.value).split("@")[0]
    return taken


def execute(
    instance: DagsterInstance, job: Callable[[], JobDefinition], tags: dict[str, str]
) -> JobExecutionResult:
    with execute_job(reconstructable(job), instance, tags=tags) as result:
        return result


def test_a_range_run_and_parallel_steps_go_over_two_workers(
    broker: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CELERY_BROKER_URL", broker)
    monkeypatch.setenv("CELERY_RESULT_URL", broker)
    with ExitStack() as stack:
        instance = stack.enter_context(DagsterInstance.get())
        platform = stack.enter_context(open_platform(database_url, monkeypatch, instance=instance))
        platform.track(*SERIES)
        logs = [stack.enter_context(worker(name, tmp_path)) for name in ("one", "two")]
        for log in logs:
            wait_until(lambda log=log: " ready." in log.read_text(), f"{log} says ready", 120)  # type: ignore[misc]

        # A worker holds two at most, one at work and one in hand.
        lists = execute(instance, corporate_actions, {})
        assert lists.success
        assert set(workers_of(instance, lists).values()) == {"one", "two"}

        run = Rectangle(FIRST, LAST, tuple(map(Series.parse, SERIES)))
        bars = execute(instance, pipeline, run.tags)
        assert bars.success
        taken = workers_of(instance, bars)
        assert {"ohlcv", "gap_report", "features"} <= set(taken)
        recorded = instance.get_materialized_partitions(AssetKey("features"))

        regular = (
            "symbol = 'AAPL' and timeframe = '1m'"
            " and (time at time zone 'America/New_York')::time >= '09:30'"
            " and (time at time zone 'America/New_York')::time < '16:00'"
        )
        assert platform.count("ohlcv", regular) == 3 * MINUTES_OF_A_SESSION
        assert platform.count("ohlcv", "timeframe = '1d'") == 3
        assert platform.count("features") == platform.count("ohlcv")
        assert platform.count("gap_report", "state = 'open'") == 0
        assert len(recorded) == 3 * len(SERIES)
