from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl
import psycopg
import pytest

from marketdata_assets.domain.bars import QUARANTINE_SCHEMA
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage import bars as bars_store
from marketdata_assets.storage.bars import (
    BarBatch,
    FetchLogEntry,
    bars_by_series,
    count_by_day,
    count_rows,
    read_coverage,
    read_rows,
    write_batch,
)
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.failures import LostServerError
from marketdata_assets.storage.merge import MergeCounts, merge
from marketdata_assets.storage.migrations import migrate, sql_folder
from marketdata_assets.storage.tables import OHLCV, FrameError
from marketdata_assets_tests.integration.frames import OPEN, bar, frame, joined, rows_of, run_of

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.storage.rows import Session

AAPL = Series("AAPL", Timeframe.H1)
HOUR = timedelta(hours=1)
TABLES = ("ohlcv", "ohlcv_quarantine", "coverage", "fetch_log", "ohlcv_revision")


def entry(**values: object) -> FetchLogEntry:
    made = FetchLogEntry(
        symbol="AAPL",
        base=Timeframe.M1,
        window=Window(OPEN, OPEN + HOUR),
        timeframes=(Timeframe.H1,),
        status="partial",
        requested_at=OPEN,
    )
    return replace(made, **values)  # type: ignore[arg-type]  # fields by name


def quarantined(*rules: str) -> pl.DataFrame:
    rows = [{**bar("AAPL:1m", OPEN, high=1.0), "rule": rule} for rule in rules]
    return pl.DataFrame(rows, schema=QUARANTINE_SCHEMA)


def batch(**values: object) -> BarBatch:
    whole = BarBatch(
        bars=joined([run_of("AAPL:1h", 2), run_of("AAPL:1m", 3)]),
        quarantined=quarantined("high_below_body"),
        covered={AAPL: [Window(OPEN, OPEN + 2 * HOUR)]},
        fetches=[entry()],
    )
    return replace(whole, **values)  # type: ignore[arg-type]  # fields by name


def counts(database: Database) -> dict[str, int]:
    return {table: int(database.read_frame(f"select count(*) as n from {table}").item()) for table in TABLES}


def test_a_batch_is_written_whole_and_repeating_it_adds_nothing(database: Database) -> None:
    written = {"ohlcv": 5, "ohlcv_quarantine": 1, "coverage": 1, "fetch_log": 1, "ohlcv_revision": 0}
    assert write_batch(database, batch()) == MergeCounts(inserted=5)
    assert counts(database) == written
    one = batch()
    write_batch(database, one)
    assert write_batch(database, one) == MergeCounts(unchanged=5)
    assert count_rows(database) == 5
    assert sum(bars_by_series(database).values()) == 5
    assert counts(database) == {**written, "fetch_log": 2}


@pytest.mark.parametrize(
    ("spoilt", "error"),
    [
        (
            {"bars": run_of("AAPL:1h", 2).with_columns(open=pl.lit(None, pl.Float64))},
            psycopg.errors.NotNullViolation,
        ),
        ({"bars": run_of("AAPL:1h", 2).drop("vwap")}, FrameError),
        ({"fetches": [entry(status="no such status")]}, psycopg.errors.CheckViolation),
        (
            {"quarantined": quarantined("rule").with_columns(symbol=pl.lit(None, pl.String))},
            psycopg.errors.NotNullViolation,
        ),
    ],
    ids=["a null price", "a missing column", "the log", "the quarantine"],
)
def test_when_one_part_fails_nothing_is_written(
    database: Database, spoilt: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        write_batch(database, batch(**spoilt))
    assert set(counts(database).values()) == {0}
    write_batch(database, batch())
    assert counts(database)["ohlcv"] == 5


def test_coverage_adds_up(database: Database) -> None:
    def cover(*hours: tuple[int, int]) -> None:
        windows = [Window(OPEN + first * HOUR, OPEN + last * HOUR) for first, last in hours]
        write_batch(database, BarBatch(frame(), covered={AAPL: windows}))

    def covered() -> list[tuple[int, int]]:
        return [
            ((window.start - OPEN) // HOUR, (window.end - OPEN) // HOUR)
            for window in read_coverage(database, ["AAPL"]).get(AAPL, [])
        ]

    assert covered() == []
    cover((0, 2))
    cover((4, 6), (8, 9))
    assert covered() == [(0, 2), (4, 6), (8, 9)]
    cover((2, 4))
    assert covered() == [(0, 6), (8, 9)]
    cover((1, 3))
    assert covered() == [(0, 6), (8, 9)]
    write_batch(
        database, BarBatch(frame(), covered={Series("AAPL", Timeframe.D1): [Window(OPEN, OPEN + HOUR)]})
    )
    assert covered() == [(0, 6), (8, 9)]
    assert read_coverage(database, ["MSFT"]) == {}


def test_a_requests_log_row_carries_the_totals_so_far(database: Database) -> None:
    first = entry(pages=1, bars=50_000, retries=2, rate_limited=1, waited_seconds=1.5, request_id="a")
    write_batch(database, BarBatch(frame(), fetches=[first, entry(id=uuid.uuid4(), symbol="MSFT")]))
    row = "select status, pages, bars, retries, rate_limited, waited_seconds, request_id, finished_at from fetch_log"
    where = " where symbol = 'AAPL'"
    assert database.read_frame(row + where).row(0) == ("partial", 1, 50_000, 2, 1, 1.5, "a", None)
    done = replace(
        first,
        status="ok",
        pages=2,
        bars=60_000,
        retries=3,
        rate_limited=2,
        waited_seconds=2.0,
        request_id="b",
    )
    write_batch(database, BarBatch(frame(), fetches=[done]))
    after = database.read_frame(row + where)
    assert after.row(0)[:7] == ("ok", 2, 60_000, 3, 2, 2.0, "b")
    assert after["finished_at"][0] is not None
    assert counts(database)["fetch_log"] == 2


def test_a_quarantined_row_is_kept_once_and_counted(database: Database) -> None:
    for rules in (("off_grid", "off_grid"), ("off_grid",), ("volume_negative", "off_grid")):
        write_batch(database, BarBatch(frame(), quarantined=quarantined(*rules)))
    rows = database.read_frame(
        "select rule, times_seen, (vendor_row->>'high')::float8 as high, first_seen < last_seen as later"
        " from ohlcv_quarantine order by rule"
    )
    assert rows.rows() == [("off_grid", 3, 1.0, True), ("volume_negative", 1, 1.0, False)]


def test_a_quarantined_row_without_a_time_or_a_price_is_kept(database: Database) -> None:
    nothing = quarantined("time_missing").with_columns(
        time=pl.lit(None, pl.Datetime("us", "UTC")), close=pl.lit(float("nan")), open=pl.lit(float("inf"))
    )
    for _ in range(2):
        write_batch(database, BarBatch(frame(), quarantined=nothing))
    assert database.read_frame("select time, times_seen from ohlcv_quarantine").rows() == [(None, 2)]


def test_quarantine_keeps_every_byte_of_the_vendors_row(database: Database) -> None:
    text = '{"t": 1690790400000,"o":513.360,"v":1e400,"v":"12", "x":"\\u0000 \u00e9"}'
    rows = quarantined("wrong_type").with_columns(vendor_row=pl.lit(text))
    for _ in range(2):
        write_batch(database, BarBatch(frame(), quarantined=rows))
    found = database.read_frame("select vendor_row::text as kept, times_seen from ohlcv_quarantine")
    assert found.rows() == [(text, 2)]


def test_quarantined_rows_of_the_former_schema_are_kept(empty_database_url: str, tmp_path: Path) -> None:
    for file in sorted(sql_folder().glob("*.sql")):
        if file.name < "0013":
            shutil.copy(file, tmp_path)
    migrate(empty_database_url, tmp_path)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            "insert into ohlcv_quarantine (symbol, timeframe, time, rule, vendor_row, times_seen)"
            """ values ('AAPL', '1m', '2024-01-02 15:00Z', 'off_grid', '{"open": 1.50, "high": null}', 7)"""
        )
    migrate(empty_database_url)
    with Database(empty_database_url) as upgraded:
        rows = "select vendor_row::text as kept, (vendor_row->>'open')::float8 as open, times_seen from ohlcv_quarantine"
        assert upgraded.read_frame(rows).rows() == [('{"high": null, "open": 1.50}', 1.5, 7)]
        assert migrate(empty_database_url) == []
        write_batch(upgraded, BarBatch(frame(), quarantined=quarantined("off_grid")))
        assert upgraded.read_frame("select count(*) as n from ohlcv_quarantine").item() == 2


def test_reading_takes_the_windows_of_each_series(database: Database) -> None:
    bars = joined([run_of("AAPL:1h", 10), run_of("MSFT:1h", 10), run_of("AAPL:1m", 10)])
    write_batch(database, BarBatch(bars))
    windows = {
        Series("MSFT", Timeframe.H1): [Window(OPEN + 8 * HOUR, OPEN + 99 * HOUR)],
        AAPL: [Window(OPEN + 5 * HOUR, OPEN + 6 * HOUR), Window(OPEN, OPEN + 2 * HOUR)],
    }
    read = read_rows(database, OHLCV, windows)
    assert read.schema == OHLCV.schema
    expected = [(("AAPL"), 0), ("AAPL", 1), ("AAPL", 5), ("MSFT", 8), ("MSFT", 9)]
    assert read.select("symbol", "time").rows() == [
        (symbol, OPEN + place * HOUR) for symbol, place in expected
    ]
    assert read.to_dicts() == rows_of(read)
    assert read_rows(database, OHLCV, {}).schema == OHLCV.schema
    nothing = read_rows(database, OHLCV, {AAPL: [Window(OPEN - HOUR, OPEN)]})
    assert (nothing.height, nothing.schema) == (0, OHLCV.schema)


def test_reading_selects_columns_in_the_order_asked_for(database: Database) -> None:
    write_batch(database, BarBatch(run_of("AAPL:1h", 2)))
    window = {AAPL: [Window(OPEN, OPEN + 9 * HOUR)]}
    read = read_rows(database, OHLCV, window, columns=["close", "time"])
    assert read.rows() == [(10.0, OPEN), (10.0, OPEN + HOUR)]
    assert read_rows(database, OHLCV, {}, columns=["close"]).schema == {"close": pl.Float64}
    with pytest.raises(FrameError, match="no column 'clsoe'"):
        read_rows(database, OHLCV, window, columns=["clsoe"])


def test_lookback_counts_bars_however_long_ago(database: Database) -> None:
    days = [0, 1, 40, 41, 42, 90]
    opens = [OPEN + timedelta(days=day) for day in days]
    write_batch(
        database,
        BarBatch(
            frame(
                *(bar("AAPL:1h", moment) for moment in opens),
                *(bar("MSFT:1h", moment) for moment in opens[:5]),
            )
        ),
    )

    def read(*windows: tuple[int, int], lookback: int) -> list[int]:
        spans = [Window(OPEN + timedelta(days=first), OPEN + timedelta(days=last)) for first, last in windows]
        found = read_rows(database, OHLCV, {AAPL: spans}, columns=["time"], lookback_bars=lookback)
        return [(moment - OPEN).days for moment in found["time"]]

    assert read((42, 43), lookback=2) == [40, 41, 42]
    assert read((42, 43), lookback=4) == [0, 1, 40, 41, 42]
    assert read((90, 91), (41, 42), lookback=1) == [40, 41, 42, 90]
    assert read((41, 43), lookback=0) == [41, 42]
    assert read((0, 1), lookback=5) == [0]
    assert read((60, 61), lookback=1) == [42]


def test_bars_are_counted_by_the_local_date_of_their_open(database: Database) -> None:
    new_york = ZoneInfo("America/New_York")
    # The clock goes forward on 10 March 2024 (23 hours) and back on 3 November (25 hours).
    days = [date(2024, 3, 9), date(2024, 3, 10), date(2024, 3, 11), date(2024, 11, 3), date(2024, 11, 4)]
    windows = []
    for day in days:
        start, end = (
            datetime(one.year, one.month, one.day, tzinfo=new_york).astimezone(UTC)
            for one in (day, day + timedelta(days=1))
        )
        windows.append(Window(start, end))
        write_batch(database, BarBatch(run_of("AAPL:1h", (end - start) // HOUR, start=start)))
    counted = count_by_day(database, OHLCV, {AAPL: windows}, new_york)
    assert counted == {(day, AAPL): hours for day, hours in zip(days, [24, 23, 24, 25, 24], strict=True)}
    in_utc = count_by_day(database, OHLCV, {AAPL: windows[:1]}, ZoneInfo("UTC"))
    assert in_utc == {(date(2024, 3, 9), AAPL): 19, (date(2024, 3, 10), AAPL): 5}
    assert count_by_day(database, OHLCV, {}, new_york) == {}
    assert count_by_day(database, OHLCV, {Series("MSFT", Timeframe.H1): windows}, new_york) == {}


@pytest.mark.parametrize("losses", [1, 2])
def test_a_connection_lost_in_the_middle_costs_one_retry(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, losses: int
) -> None:
    merged: list[int] = []

    def merge_and_lose(connection: Session, *arguments: object, **options: object) -> MergeCounts:
        done = merge(connection, *arguments, **options)  # type: ignore[arg-type]  # handed on
        merged.append(connection.info.backend_pid)
        if len(merged) <= losses:
            with psycopg.connect(database_url) as killer:
                killer.execute("select pg_terminate_backend(%s, 5000)", [merged[-1]])
        return done

    monkeypatch.setattr(bars_store, "merge", merge_and_lose)
    if losses == 1:
        assert write_batch(database, batch()) == MergeCounts(inserted=5)
    else:
        with pytest.raises(LostServerError):
            write_batch(database, batch())
    assert len(set(merged)) == 2
    written = [5, 1, 1, 1, 0] if losses == 1 else [0] * 5
    assert list(counts(database).values()) == written


def test_requests_of_the_former_schema_stay_requests_of_their_own(
    empty_database_url: str, tmp_path: Path
) -> None:
    [shared] = sql_folder().glob("*_shared_answers.sql")
    for file in sorted(sql_folder().glob("*.sql")):
        if file.name < shared.name:
            shutil.copy(file, tmp_path)
    migrate(empty_database_url, tmp_path)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            "insert into fetch_log (id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries,"
            " duration_seconds, waited_seconds) values (gen_random_uuid(), 'AAPL', '1d', '2024-01-02 05:00Z',"
            " '2024-01-03 05:00Z', '{1d}', 'ok', 1, 1, 0, 0.1, 0)"
        )
    migrate(empty_database_url)
    with Database(empty_database_url) as upgraded:
        assert upgraded.read_frame("select symbol, shared from fetch_log").rows() == [("AAPL", False)]
