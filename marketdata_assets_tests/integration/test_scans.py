"""Which series are scanned for gaps again, and backfills that have nothing to do."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString

import pytest

from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.pipeline.gaps import report_gaps
from marketdata_assets.pipeline.scans import series_to_scan
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.gaps import read_stored_bars, write_gaps
from marketdata_assets.storage.partition_windows import partition_windows_of
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.integration.frames import joined, run_of
from marketdata_assets_tests.integration.platform import command_environment, run_command
from marketdata_assets_tests.simulator import KEY, running_simulator

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.domain.gap_scan import ScanResult
    from marketdata_assets.storage.connection import Database

MINUTES, HOURS, DAYS = map(Series.parse, ("AAPL:1m", "AAPL:1h", "AAPL:1d"))
CLASSES = {"AAPL": AssetClass.STOCK}
TUESDAY, FRIDAY = date(2024, 1, 2), date(2024, 1, 5)
NOW = datetime(2024, 1, 8, 12, tzinfo=UTC)
INSERT = (
    "insert into ohlcv (symbol, timeframe, time, open, high, low, close, base_bars)"
    " values ('AAPL', '1h', '{}', 1, 1, 1, 1, 1)"
)


def to_scan(
    database: Database, *, first: date = TUESDAY, last: date = FRIDAY, now: datetime = NOW
) -> set[Series]:
    windows = partition_windows_of(database, (MINUTES, HOURS, DAYS), first, last)
    return series_to_scan(database, windows, CLASSES, now)


def scan(database: Database, *, last: date = FRIDAY, now: datetime = NOW) -> None:
    days = [TUESDAY + timedelta(days=offset) for offset in range((last - TUESDAY).days + 1)]
    report_gaps(database, None, dict.fromkeys((MINUTES, HOURS, DAYS), days), now=now, run_id=None)


def execute(database: Database, statement: LiteralString) -> None:
    database.transaction(lambda connection: connection.execute(statement))


@pytest.fixture
def scanned(database: Database) -> Database:
    """A store with a scan of AAPL from Tuesday to Friday, an hour after its bars were stored."""
    add_symbols(
        database,
        [
            TrackedSymbol(
                "AAPL", AssetClass.STOCK, timeframes=(MINUTES.timeframe, HOURS.timeframe, DAYS.timeframe)
            )
        ],
    )
    opens = [datetime(2024, 1, day, 14, 30, tzinfo=UTC) for day in (2, 3, 4, 5)]
    midnights = [datetime(2024, 1, day, 5, tzinfo=UTC) for day in (2, 3, 4, 5)]
    bars = [
        *(run_of("AAPL:1m", 390, start=each) for each in opens),
        *(run_of("AAPL:1h", 7, start=each - timedelta(minutes=30)) for each in opens),
        *(run_of("AAPL:1d", 1, start=each) for each in midnights),
    ]
    write_batch(database, BarBatch(joined(bars)))
    execute(database, "update ohlcv set stored_at = now() - interval '1 hour'")
    scan(database)
    return database


def test_what_was_scanned_whole_and_has_not_changed_is_not_scanned_again(scanned: Database) -> None:
    assert to_scan(scanned) == set()
    assert to_scan(scanned, first=date(2024, 1, 3), last=date(2024, 1, 3)) == set()
    # A weekend behind it expects nothing.
    assert to_scan(scanned, last=date(2024, 1, 7)) == set()


def test_a_day_that_was_not_scanned_or_not_over_is_scanned(scanned: Database) -> None:
    assert to_scan(scanned, last=date(2024, 1, 8), now=NOW + timedelta(hours=3)) == {MINUTES, HOURS}
    monday = date(2024, 1, 8)
    scan(scanned, last=monday, now=NOW + timedelta(hours=5))
    execute(scanned, "delete from completeness_daily where timeframe = '1d' and day = '2024-01-03'")
    assert DAYS in to_scan(scanned)
    assert {MINUTES, HOURS} <= to_scan(scanned, last=monday, now=NOW + timedelta(hours=8))


def test_what_is_stored_while_a_scan_reads_is_seen_by_the_next(
    scanned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_late(database: Database, result: ScanResult) -> None:
        # As a scan that took an hour to read and was written now, with a writer right after it had begun.
        execute(
            scanned,
            "update ohlcv set stored_at = now() - interval '59 minutes'"
            " where timeframe = '1h' and time = '2024-01-03 15:00+00'",
        )
        assert result.begun is not None
        write_gaps(database, result._replace(begun=result.begun - timedelta(hours=1)))

    execute(scanned, "update ohlcv set stored_at = now() - interval '2 hours'")
    execute(scanned, "update schema_migrations set applied_at = now() - interval '3 hours'")
    monkeypatch.setattr("marketdata_assets.pipeline.gaps.write_gaps", write_late)
    scan(scanned)
    assert to_scan(scanned) == {MINUTES, HOURS}


def test_a_scan_is_of_the_time_at_which_it_began_to_read(
    scanned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[datetime] = []

    def read_late(*arguments: Any) -> Any:  # noqa: ANN401 - passed on
        times.append(scanned.read_frame("select clock_timestamp() as t").item())
        return read_stored_bars(*arguments)

    monkeypatch.setattr("marketdata_assets.pipeline.gaps.read_stored_bars", read_late)
    scan(scanned)
    latest = scanned.read_frame("select max(checked_at) as t from completeness_daily").item()
    assert latest < max(times)
    assert scanned.read_frame("select count(distinct checked_at) as n from completeness_daily").item() == len(
        times
    )


def test_days_of_the_widened_window_count_as_far_as_they_were_asked_for(scanned: Database) -> None:
    narrow = partition_windows_of(scanned, [DAYS], TUESDAY, date(2024, 1, 4))
    widened = partition_windows_of(scanned, [DAYS], date(2023, 12, 31), date(2024, 1, 6))

    def found() -> set[Series]:
        return series_to_scan(scanned, narrow, CLASSES, NOW, widened=widened)

    assert found() == set()
    execute(
        scanned, "update ohlcv set stored_at = now() where timeframe = '1d' and time = '2024-01-05 05:00+00'"
    )
    assert found() == {DAYS}
    execute(scanned, "update ohlcv set stored_at = now() - interval '1 hour'")
    execute(scanned, "delete from completeness_daily where day = '2024-01-05'")
    assert found() == set()
    write_batch(
        scanned,
        BarBatch(
            run_of("AAPL:1d", 1, start=datetime(2024, 1, 5, 5, tzinfo=UTC)), covered={DAYS: [widened[DAYS]]}
        ),
    )
    assert found() == {DAYS}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "update ohlcv set stored_at = now() where timeframe = '1h' and time = '2024-01-03 15:00+00'",
            {MINUTES, HOURS},
        ),
        # Evidence: weeks before the window.
        (INSERT.format("2023-12-04 15:00+00"), {MINUTES, HOURS}),
        (INSERT.format("2023-06-01 15:00+00"), set()),
        (
            (
                "insert into ohlcv_quarantine (symbol, timeframe, time, rule, vendor_row)"
                " values ('AAPL', '1m', '2024-01-03 15:00+00', 'rule', '{}')"
            ),
            {MINUTES, HOURS, DAYS},
        ),
        (
            (
                "insert into fetch_log (id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries,"
                " duration_seconds, waited_seconds) values (gen_random_uuid(), 'AAPL', '1d', '2023-11-01', '2023-11-02',"
                " '{1d}', 'ok', 1, 0, 0, 0, 0)"
            ),
            {DAYS},
        ),
        # Older history, which bars were fetched of: what the series does is evidence wherever it lies.
        (
            (
                "insert into fetch_log (id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries,"
                " duration_seconds, waited_seconds) values (gen_random_uuid(), 'AAPL', '1m', '2020-11-02', '2020-11-03',"
                " '{1m,1h}', 'ok', 1, 5, 0, 0, 0)"
            ),
            {MINUTES, HOURS},
        ),
        ("update schema_migrations set applied_at = now() + interval '1 second'", {MINUTES, HOURS, DAYS}),
    ],
    ids=["bar", "evidence", "before-evidence", "quarantined", "empty-answer", "older-history", "migration"],
)
def test_what_changed_is_scanned_again_with_the_others_of_its_base(
    scanned: Database, statement: LiteralString, expected: set[Series]
) -> None:
    execute(scanned, statement)
    assert to_scan(scanned) == expected


def test_nothing_is_expected_before_a_first_bar_that_comes_later(scanned: Database) -> None:
    execute(scanned, "delete from ohlcv where time < '2024-01-03'")
    assert to_scan(scanned) == set()


# slow: whole processes
@pytest.mark.slow
def test_a_backfill_and_a_scan_with_nothing_to_do_start_no_run_and_one_with_something_does(
    tmp_path: Path, database_url: str, database: Database
) -> None:
    days = ("--start", "2024-01-01", "--end", "2024-01-07")
    chosen = ("--symbols", "AAPL", "--timeframes", "1h,1d", *days)
    with running_simulator() as simulator:
        environment = command_environment(
            tmp_path, database_url, POLYGON_API_KEY=KEY, POLYGON_BASE_URL=simulator.url
        )

        def runs() -> int:
            return int(database.read_frame("select count(*) as n from dagster.runs").item())

        def backfill(*options: str) -> dict[str, object]:
            done = run_command(environment, tmp_path, "backfill", *chosen, *options, "--json", "-")
            assert done.returncode == 0, done.stderr
            summary = json.loads(done.stdout)["summary"]
            assert isinstance(summary, dict)
            return summary | {"stderr": done.stderr}

        first = backfill()
        assert first["rows_inserted"] != 0
        execute(database, "update ohlcv set stored_at = stored_at - interval '1 hour'")
        known = runs()
        again = backfill()
        assert (runs(), again["runs"], again["requests"], again["gaps_found"]) == (
            known,
            [],
            0,
            first["gaps_found"],
        )
        assert str(again["stderr"]).splitlines()[:5] == [
            f"{position}/5 {stage}: nothing to do"
            for position, stage in enumerate(("bars", "gaps", "repair", "features", "matrix"), 1)
        ]
        history = database.read_frame("select status, finished_at from backfill_history order by started_at")
        assert (history["status"].to_list(), history["finished_at"].null_count()) == (["ok", "ok"], 0)
        looked = run_command(environment, tmp_path, "gaps", *chosen)
        assert (looked.returncode, runs()) == (0, known)
        assert "no bar has changed since the last scan" in looked.stderr

        execute(database, "update ohlcv set stored_at = now() where timeframe = '1h'")
        assert backfill()["runs"] != []
        execute(database, "update ohlcv set stored_at = now() - interval '1 hour'")
        known = runs()
        run_command(environment, tmp_path, "gaps", *chosen, "--force")
        assert runs() > known
        assert backfill("--force")["requests"] != 0
