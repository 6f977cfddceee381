"""Clocks that are far off: what they may not write, and how what one has written is removed."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from marketdata_assets.cli.app import main
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.errors import ClockError
from marketdata_assets.storage.clock import future_rows, remove_future_rows, require_right_clock
from marketdata_assets.storage.connection import Database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from marketdata_assets.storage.rows import Session

    Run = Callable[..., subprocess.CompletedProcess[str]]


def move_database_clock(url: str, by: timedelta) -> str:
    """A URL of the same database whose clock is ``by`` ahead: a function of its own hides Postgres'."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "create or replace function public.clock_timestamp() returns timestamptz language sql as"
            f" $$ select pg_catalog.clock_timestamp() + interval '{by.total_seconds()} seconds' $$"
        )
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Dpublic,pg_catalog"


@pytest.fixture
def run_marketdata(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Runs ``marketdata`` in this process with arguments, on the database of ``url``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETDATA_HOME", str(tmp_path))
    monkeypatch.setenv("POLYGON_API_KEY", "x")
    monkeypatch.setenv("POLYGON_BASE_URL", "http://127.0.0.1:9")

    def run_marketdata(*arguments: str, url: str = database_url) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["marketdata", *arguments])
        monkeypatch.setenv("DATABASE_URL", url)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out, err)

    return run_marketdata


WRITING = [
    ("backfill", "--symbols", "AAPL", "--days", "5"),
    ("gaps", "--symbols", "AAPL", "--days", "5"),
    ("features", "--symbols", "AAPL"),
    ("actions",),
    ("matrix", "--refresh"),
    ("prune",),
    ("doctor", "--repair"),
]


@pytest.mark.parametrize("away", [timedelta(days=-365), timedelta(days=3)], ids=str)
def test_no_command_writes_by_a_clock_that_is_not_the_databases(
    run_marketdata: Run, database_url: str, away: timedelta
) -> None:
    run_marketdata("symbols", "list")
    moved = move_database_clock(database_url, away)
    for command in WRITING:
        done = run_marketdata(*command, url=moved)
        assert done.returncode == 2, command
        # `features` says before what it looked at.
        assert done.stderr.splitlines()[-1].startswith("marketdata: the clock of this machine says"), command
        assert "Traceback" not in done.stderr
    with psycopg.connect(database_url) as connection:
        for table in (
            "fetch_log",
            "coverage",
            "gap_report",
            "completeness_history",
            "backfill_history",
            "vendor",
        ):
            assert connection.execute(f"select count(*) from {table}").fetchone() == (0,), table
    # To look does no harm.
    assert run_marketdata("symbols", "list", url=moved).returncode == 0


def test_a_run_of_the_daemon_writes_nothing_by_it_either(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", move_database_clock(database_url, timedelta(days=-365)))
    with pytest.raises(ClockError), PostgresResource().database():
        pass


def test_a_clock_before_the_newest_request_is_refused_until_the_record_is_repaired(
    run_marketdata: Run, database: Database
) -> None:
    spoil(database)
    with pytest.raises(ClockError, match="newest request on record"):
        require_right_clock(database)
    assert run_marketdata("prune").returncode == 2
    assert run_marketdata("doctor", "--repair").returncode == 0
    require_right_clock(database)
    assert run_marketdata("prune", "--dry-run").returncode == 0


SPOILT = (
    (
        "insert into coverage (symbol, timeframe, covered) values"
        " ('AAPL', '1h', '{[2024-01-01, 2024-02-01)}'),"
        " ('BTC-USD', '1h', tstzmultirange('[2024-01-01, 2024-02-01)', tstzrange(now() + '300 days', now() + '302 days'))),"
        " ('ETH-USD', '1h', tstzmultirange(tstzrange(now() + '300 days', now() + '302 days')))"
    ),
    (
        "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
        " select 'AAPL', '1m', at::date, at, at + interval '2 minutes', 2, 'unfilled', 2, 'x'"
        " from unnest(array[now() - interval '9 days', now() + interval '300 days']) as at"
    ),
    (
        "insert into completeness_daily (symbol, timeframe, day, expected_bars, present_bars, no_trade_bars,"
        " missing_bars, completeness, status) select 'AAPL', '1m', at::date, 2, 0, 0, 2, 0, 'empty'"
        " from unnest(array[now() - interval '9 days', now() + interval '300 days']) as at"
    ),
    (
        "insert into completeness_history (symbol, timeframe, expected_bars, present_bars, no_trade_bars, missing_bars,"
        " completeness, status, as_of) select 'AAPL', '1m', 2, 0, 0, 2, 0, 'empty', at::date"
        " from unnest(array[now() - interval '9 days', now() + interval '300 days']) as at"
    ),
    (
        "insert into fetch_log (id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries,"
        " duration_seconds, waited_seconds, requested_at, finished_at)"
        " select gen_random_uuid(), 'AAPL', '1m', start, start + interval '1 day', '{1m}', 'ok', 1, 1, 0, 0, 0, at, at"
        " from (values (now() - interval '9 days', now() - interval '8 days'),"
        "  (now() - interval '9 days', now() + interval '300 days'),"
        "  (now() + interval '299 days', now() + interval '300 days')) as made(start, at)"
    ),
    (
        "insert into rate_limit (bucket, grants, position, paced_until) values"
        " ('good', array[now()], 1, now()), ('bad', array[now() + interval '300 days'], 1, now())"
    ),
)
FOUND = {
    "coverage": 2,
    "gap_report": 1,
    "completeness_daily": 1,
    "completeness_history": 1,
    "fetch_log": 2,
    "rate_limit": 1,
}


def spoil(database: Database) -> None:
    """Fill the store with rows of the past, and beside them those that a clock a year ahead leaves."""

    def work(connection: Session) -> None:
        for statement in SPOILT:
            connection.execute(statement.encode())

    database.transaction(work)


def totals(database: Database) -> dict[str, int]:
    return {table: database.read_frame(f"select count(*) as n from {table}").item() for table in FOUND}


def by_table(found: list[dict[str, object]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in found:
        counts[str(one["table"])] = counts.get(str(one["table"]), 0) + int(str(one["rows"]))
    return counts


def test_the_doctor_lists_what_is_of_the_future_and_removes_it_once(
    run_marketdata: Run, database: Database
) -> None:
    clean = run_marketdata("doctor")
    assert (clean.returncode, clean.stdout) == (0, "nothing is recorded for future days\n")
    spoil(database)
    before = totals(database)
    looked = run_marketdata("doctor", "--json")
    assert looked.returncode == 1
    assert by_table(json.loads(looked.stdout)) == FOUND
    assert {one["removed"] for one in json.loads(looked.stdout)} == {False}
    said = run_marketdata("doctor")
    assert said.returncode == 1
    assert (
        "coverage: found 2 series with future days that are recorded as answered" in said.stdout.splitlines()
    )
    assert said.stdout.splitlines()[-1] == "remove it with: marketdata doctor --repair"
    assert totals(database) == before
    repaired = run_marketdata("doctor", "--repair", "--json")
    assert repaired.returncode == 0
    assert by_table(json.loads(repaired.stdout)) == FOUND
    assert {one["removed"] for one in json.loads(repaired.stdout)} == {True}
    # What is of the past stays, and so does a request about the past, with another time.
    assert totals(database) == {
        "coverage": 2,
        "gap_report": 1,
        "completeness_daily": 1,
        "completeness_history": 1,
        "fetch_log": 2,
        "rate_limit": 1,
    }
    kept = database.read_frame("select distinct covered::text as covered from coverage").to_series().to_list()
    assert len(kept) == 1
    assert "2024-01-01" in kept[0]
    assert run_marketdata("doctor", "--repair").stdout == "nothing is recorded for future days\n"


def test_a_second_removal_finds_nothing(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        spoil(database)
        assert future_rows(database) == remove_future_rows(database)
        assert future_rows(database) == remove_future_rows(database) == []
