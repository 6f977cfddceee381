"""``marketdata backfill`` whole: bars, gaps, repair, matrix, and what it says of them.

The first test runs it as a process of its own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets_tests.integration.platform import command_environment, run_command, run_in_process
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

    Backfill = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]

WEDNESDAY = datetime(2023, 7, 5, 15, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEKS = ("--start", "2023-06-19", "--end", "2023-07-07")


@pytest.fixture
def simulator() -> Iterator[SimulatorHandle]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, database_url: str, simulator: SimulatorHandle) -> dict[str, str]:
    return command_environment(tmp_path, database_url, POLYGON_API_KEY=KEY, POLYGON_BASE_URL=simulator.url)


@pytest.fixture
def backfill(tmp_path: Path, environment: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Backfill:
    """Runs the command with ``--json``; returns how it ended, and what it wrote."""

    def backfill(*arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        written = ("--json", "results.json")
        done = run_in_process(environment, tmp_path, capfd, "backfill", *arguments, *written)
        return done, json.loads((tmp_path / "results.json").read_text())

    return backfill


def lost(
    start: datetime, *, ticker: str, returns_after: int | None = None, length: timedelta = HOUR
) -> Fault:
    return Fault(
        kind=FaultKind.LOST_HOURS,
        ticker=ticker,
        start=start,
        end=start + length,
        returns_after=returns_after,
    )


def counts(results: dict[str, Any]) -> dict[str, int]:
    summary = results["summary"]
    return {name: summary[f"gaps_{name}"] for name in ("found", "filled", "no_trades", "unfilled", "open")}


# slow: a whole process
@pytest.mark.slow
def test_a_lost_hour_that_comes_back_is_found_and_filled_in_one_backfill(
    environment: dict[str, str], tmp_path: Path, simulator: SimulatorHandle
) -> None:
    simulator.set_faults(lost(WEDNESDAY, ticker="SPY", returns_after=2))
    chosen = ("--symbols", "SPY", "--timeframes", "1m,1h", *WEEKS)
    done = run_command(environment, tmp_path, "backfill", *chosen, "--json", "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == 0, done.stderr
    headings = [line for line in done.stderr.splitlines() if line[1:2] == "/"]
    assert [line.split(":")[0] for line in headings] == [
        f"{place}/5 {stage}"
        for place, stage in enumerate(("bars", "gaps", "repair", "features", "matrix"), 1)
    ]
    # What the repair brought counts as inserted, too.
    assert results["summary"]["features_written"] == results["summary"]["rows_inserted"]
    assert counts(results) == {"found": 2, "filled": 2, "no_trades": 0, "unfilled": 0, "open": 0}
    assert {gap["missing_bars"] for gap in results["gaps_detected"]} == {60, 1}
    assert "gaps: 2 found, 2 filled, 0 no_trades, 0 unfilled, 0 open" in done.stdout.splitlines()
    minutes, hours = results["series"]
    assert (minutes["symbol"], minutes["timeframe"], minutes["status"]) == ("SPY", "1m", "whole")
    # Three weeks less two holidays, one of the sessions a half day.
    assert minutes["expected_bars"] == minutes["present_bars"] == 12 * 390 + 210
    assert (hours["gaps"]["filled"], hours["failure"]) == (1, None)


# slow: a backfill, twice
@pytest.mark.slow
def test_an_hour_that_never_comes_back_is_unfilled_and_not_asked_for_again(
    backfill: Backfill, simulator: SimulatorHandle
) -> None:
    simulator.set_faults(lost(WEDNESDAY, ticker="SPY"))
    arguments = ("--symbols", "SPY", "--timeframes", "1m", "--no-features", *WEEKS)
    done, results = backfill(*arguments)
    assert done.returncode == 1
    assert "4/4 matrix" in done.stderr.splitlines()
    # The hour bars are stored along, so they are scanned, asked for and counted along.
    assert counts(results) == {"found": 2, "filled": 0, "no_trades": 0, "unfilled": 2, "open": 0}
    minutes, hour = [line for line in done.stderr.splitlines() if line.startswith("unfilled: ")]
    assert "SPY:1m from 2023-07-05 15:00 until 2023-07-05 16:00 UTC: 60 minutes missing" in minutes
    assert "SPY:1h from 2023-07-05 15:00 until 2023-07-05 16:00 UTC: 1 bar (60 minutes) missing" in hour
    assert len(simulator.requests) == 3  # once for the bars, and two attempts

    again, results = backfill(*arguments)
    assert again.returncode == 1
    assert counts(results)["unfilled"] == 2
    assert results["summary"]["requests"] == 0
    assert len(simulator.requests) == 3


# slow: a backfill, twice or more
@pytest.mark.slow
def test_a_thin_fund_is_whole_until_it_loses_a_session(
    backfill: Backfill, simulator: SimulatorHandle
) -> None:
    arguments = ("--symbols", "DBB", "--timeframes", "1m", "--no-features")
    done, results = backfill(*arguments, "--start", "2023-06-19", "--end", "2023-07-04")
    assert done.returncode == 0, done.stderr
    (series,) = results["series"]
    assert series["present_bars"] < 0.3 * series["expected_bars"]
    assert (series["status"], series["missing_bars"]) == ("whole", 0)

    simulator.set_faults(lost(WEDNESDAY - timedelta(hours=15), ticker="DBB", length=DAY))
    done, results = backfill(*arguments, "--start", "2023-07-05", "--end", "2023-07-07")
    assert done.returncode == 1
    alarms = [gap for gap in results["gaps_detected"] if gap["state"] == "unfilled"]
    assert [(gap["timeframe"], gap["day"]) for gap in alarms] == [("1m", "2023-07-05"), ("1h", "2023-07-05")]
    alarm = alarms[0]
    assert alarm["missing_bars"] in range(390, 480)  # with the quiet minutes on both sides of the session


# slow: a backfill, twice or more
@pytest.mark.slow
def test_what_was_never_asked_for_is_no_gap(backfill: Backfill, database: Database) -> None:
    arguments = ("--symbols", "DBB", "--timeframes", "1m", "--no-features")
    backfill(*arguments, "--start", "2023-06-20", "--end", "2023-06-20")
    done, results = backfill(*arguments, "--start", "2023-07-05", "--end", "2023-07-05")
    assert done.returncode == 0, done.stderr
    assert {gap["day"] for gap in results["gaps_detected"]} == {"2023-07-05"}
    first = database.read_frame("select min(gap_start) from gap_report where day > '2023-06-20'").item()
    assert first >= datetime(2023, 7, 5, 13, 30, tzinfo=UTC)


# slow: a backfill, twice or more
@pytest.mark.slow
def test_a_symbol_that_fails_keeps_its_attempts(
    backfill: Backfill, simulator: SimulatorHandle, database: Database
) -> None:
    arguments = ("--symbols", "AAPL,MSFT", "--timeframes", "1d", "--no-features")
    backfill(*arguments, "--start", "2023-07-03", "--end", "2023-07-03")
    simulator.set_faults(Fault(kind=FaultKind.NOT_AUTHORIZED, ticker="MSFT", status=403))
    done, results = backfill(*arguments, "--start", "2023-07-05", "--end", "2023-07-07")
    assert done.returncode == 1
    assert list(results["summary"]["failures"]) == ["MSFT"]
    assert (results["summary"]["symbols"], results["summary"]["successes"]) == (2, 1)
    assert counts(results)["open"] == 1
    gap = database.read_frame("select symbol, attempts from gap_report").row(0)
    assert gap == ("MSFT", 0)
    assert [one["failure"] is None for one in results["series"]] == [True, False]

    simulator.set_faults()
    done, results = backfill(*arguments, "--start", "2023-07-05", "--end", "2023-07-07")
    assert done.returncode == 0, done.stderr
    assert counts(results) == {"found": 1, "filled": 1, "no_trades": 0, "unfilled": 0, "open": 0}


# slow: a backfill, twice or more
@pytest.mark.slow
def test_features_are_computed_by_a_command_of_their_own(
    backfill: Backfill,
    database: Database,
    tmp_path: Path,
    environment: dict[str, str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_in_process(environment, tmp_path, capfd, *arguments)

    arguments = ("--symbols", "SPY", "--timeframes", "1h", "--start", "2023-07-03", "--end", "2023-07-07")
    backfill(*arguments, "--no-features")
    raw = run("features", "--symbols", "SPY")
    assert raw.stdout == "features: 0 series computed, 0 rows written, 5 partitions blocked\n"
    assert "the splits of 1 symbol (SPY) were never fetched" in raw.stderr
    requested = run("actions")
    assert requested.stdout.endswith("features of 1 series are stale: run `marketdata features`\n")
    # The one that computes is a process of its own.
    done = run_command(environment, tmp_path, "features", "--symbols", "SPY")
    assert done.returncode == 0, done.stderr
    bars = database.read_frame("select count(*) as n from ohlcv").item()
    assert done.stdout == f"features: 1 series computed, {bars} rows written, 0 partitions blocked\n"
    again = run("features")
    assert again.stdout == "features: 0 series computed, 0 rows written, 0 partitions blocked\n"
    wrong = run("features", "--days", "3")
    assert wrong.returncode == 2
    assert "--force" in wrong.stderr
