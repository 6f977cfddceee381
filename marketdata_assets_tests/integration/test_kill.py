"""A backfill that is killed, and two at once: what a crash or a careless operator can do to the store."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING

import pytest

from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.simulator import FaultKind
from marketdata_assets_tests.integration.platform import command, command_environment, run_command, wait_until
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from marketdata_assets.storage.connection import Database

# slow: whole processes, killed and run again
pytestmark = pytest.mark.slow

FIRST, LAST = date(2023, 1, 1), date(2023, 8, 31)
ARGUMENTS = (
    "backfill",
    "--no-features",
    *("--symbols", "SPY", "--timeframes", "1m,1h", "--start", FIRST.isoformat(), "--end", LAST.isoformat()),
)


@pytest.fixture
def simulator() -> Iterator[SimulatorHandle]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, database_url: str, simulator: SimulatorHandle) -> dict[str, str]:
    return command_environment(tmp_path, database_url, POLYGON_API_KEY=KEY, POLYGON_BASE_URL=simulator.url)


@contextmanager
def started(environment: dict[str, str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command(*ARGUMENTS), env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def count(database: Database, query: str) -> int:
    return int(database.read_frame(f"select count(*) as n from {query}").item())


def minutes(database: Database) -> pl.DataFrame:
    return database.read_frame(
        "select time, open, high, low, close, volume, vwap, transactions from ohlcv where timeframe = '1m'"
        " order by time"
    )


def vendors_own(simulator: SimulatorHandle, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    resource = PolygonResource(base_url=simulator.url, requests_per_minute=0)
    return resource.fetch_range("SPY", Timeframe.M1, FIRST, LAST)


def advisory_locks(database: Database) -> int:
    return count(
        database,
        "pg_locks where locktype = 'advisory'"
        " and database = (select oid from pg_database where datname = current_database())",
    )


def test_a_killed_backfill_leaves_whole_days_and_the_next_one_finishes(
    environment: dict[str, str],
    tmp_path: Path,
    database: Database,
    simulator: SimulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulator.fail(FaultKind.TIMEOUT, skip=2, seconds=300)  # the third page never comes
    with started(environment, tmp_path, "killed") as process:
        wait_until(lambda: count(database, "ohlcv") > 0, "the first rows are committed")
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: advisory_locks(database) == 0, "advisory locks go with their connection", 10)
    simulator.set_faults()
    whole = vendors_own(simulator, monkeypatch)
    kept = minutes(database)
    assert 0 < kept.height < whole.height
    # What was committed is a prefix of the truth, cut at a local midnight.
    assert kept.equals(whole[: kept.height])
    last, following = (whole["time"][place] for place in (kept.height - 1, kept.height))
    assert last.date() < following.date()
    assert count(database, "backfill_history where status = 'running'") == 1
    assert count(database, "fetch_log where status = 'partial'") == 1

    requested = len(simulator.requests)
    done = run_command(environment, tmp_path, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    assert "1 earlier command(s) whose process is gone: their runs were marked as failed" in done.stderr
    assert minutes(database).equals(whole)
    assert (
        count(database, "(select from ohlcv group by symbol, timeframe, time having count(*) > 1) as twice")
        == 0
    )
    assert count(database, "ohlcv_revision") == 0
    assert (
        int(database.read_frame("select sum(base_bars) from ohlcv where timeframe = '1h'").item())
        == whole.height
    )
    # What was committed before the kill is not paid for twice.
    assert len([one for one in simulator.requests[requested:] if one.path.startswith("/v2/aggs/")]) == 1
    assert advisory_locks(database) == 0
    history = database.read_frame(
        "select status, finished_at is not null as ended from backfill_history order by started_at"
    )
    assert history.rows() == [("failed", True), ("ok", True)]
    runs = database.read_frame("select status from dagster.runs order by id")
    assert [runs["status"][0], *set(runs["status"][1:])] == ["FAILURE", "SUCCESS"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_backfill_stops_at_once_and_goes_on_later(
    environment: dict[str, str],
    tmp_path: Path,
    database: Database,
    simulator: SimulatorHandle,
    number: signal.Signals,
) -> None:
    simulator.fail(FaultKind.TIMEOUT, skip=2, seconds=300)  # the third page never comes
    with started(environment, tmp_path, "interrupted") as process:
        wait_until(lambda: count(database, "ohlcv") > 0, "the first rows are committed")
        process.send_signal(number)
        assert process.wait(timeout=30) == 130
    said = (tmp_path / "interrupted.log").read_text().splitlines()
    assert "interrupted" in said[-1]
    assert not [line for line in said if "Error" in line or "Traceback" in line]
    assert advisory_locks(database) == 0
    assert count(database, "backfill_history where status = 'failed'") == 1
    assert count(database, "fetch_log") > 0
    told = database.read_frame("select (summary->>'requests')::int as requests from backfill_history").item()
    assert told == count(database, "fetch_log")
    simulator.set_faults()
    assert run_command(environment, tmp_path, *ARGUMENTS).returncode == 0


def test_two_backfills_of_the_same_series_at_once(
    environment: dict[str, str],
    tmp_path: Path,
    database: Database,
    simulator: SimulatorHandle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with started(environment, tmp_path, "one") as one, started(environment, tmp_path, "two") as two:
        for process in (one, two):
            process.wait(timeout=120)
    said = "".join((tmp_path / f"{name}.log").read_text() for name in ("one", "two"))
    assert (one.returncode, two.returncode) == (0, 0), said
    assert "gone" not in said
    whole = vendors_own(simulator, monkeypatch)
    assert minutes(database).equals(whole)
    assert count(database, "ohlcv_revision") == 0
    assert count(database, "coverage") == 2
    assert advisory_locks(database) == 0
    assert count(database, "backfill_history where status = 'ok'") == 2
