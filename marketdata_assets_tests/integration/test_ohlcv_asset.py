from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
from dagster import AssetIn, AssetKey, DagsterInstance, asset, materialize
from psycopg import sql

from marketdata_assets.defs.assets.ohlcv import FAILED_SYMBOLS, FAILURE_REASONS, ohlcv_asset
from marketdata_assets.defs.partitions import day_by_series, partition_key
from marketdata_assets.defs.resources.io_manager import PostgresIOManager
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.defs.runs.execution import failure_metadata
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.pipeline import idle
from marketdata_assets.polygon.planner import PAGE_BARS
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.integration.platform import START, Platform, open_platform, reason_of
from marketdata_assets_tests.simulator import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl
    from dagster import ExecuteInProcessResult

    from marketdata_assets.storage.rows import Session

# A week around Independence Day: Monday is a half day, Tuesday a holiday.
MONDAY, HOLIDAY, WEDNESDAY = date(2023, 7, 3), date(2023, 7, 4), date(2023, 7, 5)
SATURDAY = date(2023, 7, 8)


@pytest.fixture
def platform(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch) as opened:
        yield opened


def metadata_of(result: ExecuteInProcessResult, day: date, key: str) -> dict[str, Any]:
    wanted = partition_key(day, Series.parse(key))
    for event in result.get_asset_materialization_events():
        if event.partition == wanted:
            return {name: value.value for name, value in event.materialization.metadata.items()}
    raise AssertionError(wanted)


def test_single_partitions_and_a_range_store_the_same_bars(
    platform: Platform, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["AAPL:1h", "AAPL:1d", "BTC-USD:4h"]
    platform.track(*keys)
    result = platform.run_range(MONDAY, WEDNESDAY, *keys)
    assert len(result.get_asset_materialization_events()) == 9
    ranged = platform.bars()
    assert {f"{row['symbol']}:{row['timeframe']}" for row in ranged} == set(keys)

    def empty(connection: Session) -> None:
        connection.execute("truncate ohlcv, ohlcv_revision, coverage, fetch_log")

    platform.database.transaction(empty)
    for key in keys:
        for day in (WEDNESDAY, MONDAY, HOLIDAY):
            platform.run_one(day, key)
    assert platform.bars() == ranged
    assert platform.count("ohlcv_revision") == 0


def test_a_symbol_that_the_vendor_does_not_have_fails_every_time_and_takes_no_other_with_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["AAPL:1d", "UNKNOWN:1d", "BRK-B:1d"]
    platform.track(*keys)
    result = platform.run_range(MONDAY, WEDNESDAY, *keys, sound=False)
    said = failure_metadata(result)
    assert said[FAILED_SYMBOLS].value == ["BRK-B", "UNKNOWN"]
    reasons = said[FAILURE_REASONS].value
    assert isinstance(reasons, dict)
    assert "the vendor has no bar of UNKNOWN in this range, and no such ticker" in reasons["UNKNOWN"]
    assert "is the symbol right?" in reasons["BRK-B"]
    assert {row["symbol"] for row in platform.bars()} == {"AAPL"}
    again = failure_metadata(platform.run_range(MONDAY, WEDNESDAY, *keys, sound=False))
    assert again[FAILED_SYMBOLS].value == ["BRK-B", "UNKNOWN"]
    # Stores of earlier versions hold its empty answers as coverage: then nothing is requested.
    platform.database.transaction(
        lambda connection: connection.execute(
            "insert into coverage (symbol, timeframe, covered)"
            " select 'UNKNOWN', '1d', covered from coverage where symbol = 'AAPL'"
        )
    )
    again = failure_metadata(platform.run_range(MONDAY, WEDNESDAY, *keys, sound=False))
    assert again[FAILED_SYMBOLS].value == ["BRK-B", "UNKNOWN"]
    monkeypatch.setattr(idle, "are_dagsters_tables_here", lambda _: True)
    monkeypatch.setattr(idle, "is_recorded", lambda *_: True)
    for symbol in ("AAPL", "UNKNOWN"):
        days = Rectangle(MONDAY, WEDNESDAY, (Series(symbol, Timeframe.D1),))
        is_current = idle.bars_are_current(platform.database, days, now=datetime.now(UTC))
        assert is_current == (symbol == "AAPL")
    kept = platform.run_range(MONDAY, WEDNESDAY, *keys, keep_going=True)
    assert {event.partition for event in kept.get_asset_materialization_events()} == {
        partition_key(day, Series.parse("AAPL:1d")) for day in (MONDAY, HOLIDAY, WEDNESDAY)
    }


@pytest.mark.parametrize(
    ("key", "first", "last"),
    [
        ("COIN:1d", date(2020, 3, 2), date(2020, 3, 4)),  # listed in 2021
        ("UNKNOWN:1d", SATURDAY, SATURDAY),  # nothing is asked for
    ],
)
def test_a_range_without_a_bar_does_not_fail_a_symbol_that_the_vendor_lists(
    platform: Platform, key: str, first: date, last: date
) -> None:
    platform.track(key)
    for _ in range(2):
        platform.run_range(first, last, key)
        assert platform.bars() == []


def test_a_symbol_with_stored_bars_or_a_directory_that_does_not_answer_is_not_unknown(
    platform: Platform,
) -> None:
    platform.track("DELIST:1d", "UNKNOWN:1d")
    platform.execute("insert into bar_counts values ('DELIST', '1d', 5)")
    directory = Fault(kind=FaultKind.NOT_AUTHORIZED, ticker="UNKNOWN", status=403, skip=1)
    platform.simulator.set_faults(directory)
    platform.run_range(WEDNESDAY, WEDNESDAY, "DELIST:1d", "UNKNOWN:1d")
    requested = [one.path for one in platform.simulator.requests if "reference" in one.path]
    assert requested == ["/v3/reference/tickers"]


def test_days_without_a_session_materialize_empty_and_ask_nothing(platform: Platform) -> None:
    platform.track("AAPL:1m", "AAPL:1w")
    for day, key in ((HOLIDAY, "AAPL:1m"), (SATURDAY, "AAPL:1m"), (WEDNESDAY, "AAPL:1w")):
        result = platform.run_one(day, key)
        assert metadata_of(result, day, key)["dagster/partition_row_count"] == 0
        assert metadata_of(result, day, key)["run_requests"] == 0
    assert platform.simulator.requests == []
    assert platform.bars() == []


def test_a_materialization_says_what_was_done(platform: Platform) -> None:
    platform.track("AAPL:1h", "AAPL:1d")
    platform.simulator.fail(FaultKind.SERVER_ERROR, count=1)
    result = platform.run_range(MONDAY, WEDNESDAY, "AAPL:1h", "AAPL:1d")
    facts = metadata_of(result, WEDNESDAY, "AAPL:1h")
    bars = len(platform.bars())
    requested = [record for record in platform.simulator.requests if record.status == 200]
    assert facts["dagster/table_name"] == "public.ohlcv"
    columns = {column.name: column.type for column in facts["dagster/column_schema"].columns}
    assert columns["time"] == "timestamptz"
    assert [*columns, "stored_at"] == platform.database.read_frame("select * from market_data").columns
    assert {name: facts[name] for name in facts if name.startswith("run_rows_")} == {
        "run_rows_fetched": sum(record.bars for record in requested),
        "run_rows_inserted": bars,
        "run_rows_changed": 0,
        "run_rows_unchanged": 0,
        "run_rows_quarantined": 0,
    }
    assert (facts["run_requests"], facts["run_pages"], facts["run_retries"]) == (2, len(requested), 1)
    assert facts["run_seconds_waited_for_limit"] == 0
    assert facts["dagster/row_count"] == bars
    for key, day in (("AAPL:1h", MONDAY), ("AAPL:1h", WEDNESDAY), ("AAPL:1d", HOLIDAY), ("AAPL:1d", MONDAY)):
        series = Series.parse(key)
        local = "(time at time zone 'America/New_York')::date"
        expected = platform.count(
            "ohlcv", f"symbol = '{series.symbol}' and timeframe = '{series.timeframe}' and {local} = '{day}'"
        )
        assert metadata_of(result, day, key)["dagster/partition_row_count"] == expected
    log = platform.database.read_frame("select base, status, pages, bars, retries, run_id from fetch_log")
    assert log["status"].to_list() == ["ok", "ok"]
    assert log["retries"].sum() == 1
    assert set(log["run_id"]) == {result.run_id}
    assert log["bars"].sum() == sum(record.bars for record in requested)


# slow: a year of minutes
@pytest.mark.slow
def test_a_year_of_minutes_costs_its_pages_and_the_timeframes_above_cost_nothing(platform: Platform) -> None:
    keys = [f"SPY:{timeframe}" for timeframe in ("1m", "5m", "15m", "30m", "1h", "4h")]
    platform.track("SPY:1m")
    first, last = date(2023, 1, 1), date(2023, 12, 31)
    platform.run_range(first, last, "SPY:1m")
    platform.track(*keys)
    alone = [record.status for record in platform.simulator.requests]
    minutes = platform.count("ohlcv")
    assert minutes > 150_000
    assert set(alone) == {200}
    assert len(alone) <= ceil(minutes / PAGE_BARS) + 1

    platform.run_range(date(2023, 3, 1), date(2023, 3, 31), *keys[:2])  # 5m, later: its minutes are stored
    assert len(platform.simulator.requests) == len(alone)
    stored = "time between '2023-03-01' and '2023-03-31' and timeframe"
    assert platform.count("ohlcv", f"{stored} = '5m'") > platform.count("ohlcv", f"{stored} = '1m'") / 6

    month = date(2023, 4, 1), date(2023, 4, 30)
    cost = []
    for chosen in (keys[:1], keys):
        before = len(platform.simulator.requests)
        platform.run_range(*month, *chosen, force=True)
        cost.append(len(platform.simulator.requests) - before)
    assert cost == [1, 1]
    found = platform.database.read_frame("select timeframe, count(*) as bars from ohlcv group by 1")
    assert set(found["timeframe"]) == {Series.parse(key).timeframe.value for key in keys}
    assert platform.count("ohlcv", "timeframe = '1m'") == minutes
    assert platform.count("ohlcv_revision") == 0
    assert {record.params["adjusted"] for record in platform.simulator.requests} == {"false"}
    assert {record.params["sort"] for record in platform.simulator.requests} == {"asc"}
    assert not any(record.key_in_url for record in platform.simulator.requests)


def test_a_second_run_outside_the_correction_window_asks_nothing(platform: Platform) -> None:
    platform.track("AAPL:1h", "AAPL:1d")
    platform.run_range(MONDAY, WEDNESDAY, "AAPL:1h", "AAPL:1d")
    requested, bars = len(platform.simulator.requests), platform.bars()
    result = platform.run_range(MONDAY, WEDNESDAY, "AAPL:1h", "AAPL:1d")
    assert len(platform.simulator.requests) == requested
    assert platform.bars() == bars
    assert metadata_of(result, MONDAY, "AAPL:1h")["run_rows_inserted"] == 0


def test_todays_bars_are_asked_for_again_and_unfinished_ones_are_not_stored(platform: Platform) -> None:
    platform.track("BTC-USD:1m", "BTC-USD:1h")
    now = datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    platform.run_range(yesterday, now.date(), "BTC-USD:1m", "BTC-USD:1h")
    first = len(platform.simulator.requests)
    platform.run_range(yesterday, now.date(), "BTC-USD:1m", "BTC-USD:1h")
    assert len(platform.simulator.requests) == 2 * first
    latest = platform.database.read_frame(
        "select max(time) as latest from ohlcv where timeframe = '1h'"
    ).item()
    assert latest + timedelta(hours=1) <= datetime.now(UTC)


def test_a_symbol_that_fails_does_not_stop_the_others(platform: Platform) -> None:
    keys = ["AAPL:1d", "MSFT:1d", "SPY:1d"]
    platform.track(*keys)
    platform.simulator.fail(FaultKind.SERVER_ERROR, ticker="MSFT", status=503)
    result = platform.run_range(MONDAY, WEDNESDAY, *keys, sound=False)
    assert {row["symbol"] for row in platform.bars()} == {"AAPL", "SPY"}
    line = reason_of(result)
    assert line.startswith("MSFT failed, every other symbol is stored: MSFT ")
    assert "\n" not in line
    assert "HTTP 503" in line
    states = platform.database.read_frame(
        "select distinct on (symbol) symbol, status, error from fetch_log where symbol <> 'stocks'"
        " order by symbol, requested_at desc"
    )
    assert states["status"].to_list() == ["ok", "failed", "ok"]
    assert "HTTP 503" in states["error"][1]
    platform.simulator.set_faults()
    requested = len(platform.simulator.requests)
    platform.run_range(MONDAY, WEDNESDAY, *keys)
    assert [record.ticker for record in platform.simulator.requests[requested:]] == ["MSFT"]
    assert len(platform.bars()) == 6


def test_a_wrong_key_stops_the_run_with_one_line(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "a-wrong-key-0123456789")
    platform.track("AAPL:1d")
    result = platform.run_range(MONDAY, WEDNESDAY, "AAPL:1d", sound=False)
    assert "set POLYGON_API_KEY" in reason_of(result)
    assert "a-wrong-key-0123456789" not in reason_of(result)
    assert platform.bars() == []
    assert platform.count("coverage") == 0


def test_a_storm_of_429_is_survived(platform: Platform) -> None:
    keys = ["AAPL:1d", "MSFT:1d", "SPY:1d"]
    platform.track(*keys)
    platform.polygon["max_attempts"] = 6
    platform.simulator.fail(FaultKind.RATE_LIMIT, count=4, retry_after=0)
    result = platform.run_range(MONDAY, WEDNESDAY, *keys)
    assert metadata_of(result, MONDAY, "AAPL:1d")["run_retries"] == 4
    assert len(platform.bars()) == 6


def test_invalid_bars_are_kept_out_and_kept(platform: Platform) -> None:
    platform.track("AAPL:1m", "AAPL:5m")
    platform.simulator.fail(FaultKind.INVALID_BARS, rate=0.1)
    result = platform.run_range(WEDNESDAY, WEDNESDAY, "AAPL:1m", "AAPL:5m")
    kept_out = platform.count("ohlcv_quarantine")
    assert kept_out > 20
    assert metadata_of(result, WEDNESDAY, "AAPL:1m")["run_rows_quarantined"] == kept_out
    sent = sum(record.bars for record in platform.simulator.requests)
    assert platform.count("ohlcv", "timeframe = '1m'") == sent - kept_out
    rules = platform.database.read_frame("select distinct rule from ohlcv_quarantine")["rule"]
    assert {"off_grid", "price_not_positive", "high_below_body", "volume_negative"} >= set(rules)
    assert len(rules) > 1
    # In the vendor's own words.
    assert (
        platform.count("ohlcv_quarantine", "vendor_row->>'t' is not null and vendor_row->>'time' is null")
        == kept_out
    )
    broken = (
        "not (high >= greatest(open, close, low) and low <= least(open, close) and low > 0 and volume >= 0)"
    )
    assert platform.count("ohlcv", broken) == 0
    platform.run_range(WEDNESDAY, WEDNESDAY, "AAPL:1m", "AAPL:5m", force=True)
    assert platform.count("ohlcv_quarantine", "times_seen = 2") == kept_out
    platform.simulator.set_faults()
    platform.run_range(WEDNESDAY, WEDNESDAY, "AAPL:1m", "AAPL:5m", force=True)
    assert platform.count("ohlcv", "timeframe = '1m'") == sent


def test_when_every_row_is_broken_nothing_is_stored_and_nothing_counts_as_answered(
    platform: Platform,
) -> None:
    platform.track("AAPL:1d", "SPY:1d")
    platform.simulator.fail(FaultKind.INVALID_BARS, ticker="AAPL")
    result = platform.run_range(MONDAY, WEDNESDAY, "AAPL:1d", "SPY:1d", sound=False)
    assert "all 2 rows that the vendor sent broke a rule" in reason_of(result)
    assert {row["symbol"] for row in platform.bars()} == {"SPY"}
    assert platform.count("ohlcv_quarantine", "symbol = 'AAPL'") == 2
    assert platform.count("coverage", "symbol = 'AAPL'") == 0
    platform.simulator.set_faults()
    platform.run_range(MONDAY, WEDNESDAY, "AAPL:1d", "SPY:1d")
    assert len(platform.bars()) == 4


def test_a_lost_hour_leaves_a_hole_that_a_forced_run_fills(platform: Platform) -> None:
    platform.track("SPY:1m", "SPY:1h")
    hour = datetime(2023, 7, 5, 15, tzinfo=UTC)
    platform.simulator.fail(FaultKind.LOST_HOURS, ticker="SPY", start=hour, end=hour + timedelta(hours=1))
    platform.run_range(WEDNESDAY, WEDNESDAY, "SPY:1m", "SPY:1h")
    inside = f"time >= '{hour}' and time < '{hour + timedelta(hours=1)}'"
    assert platform.bars(where=inside) == []
    around = platform.count("ohlcv")
    platform.simulator.set_faults()
    platform.run_range(WEDNESDAY, WEDNESDAY, "SPY:1m", "SPY:1h", force=True)
    assert len(platform.bars(where=inside)) == 61
    assert platform.count("ohlcv") == around + 61
    assert platform.count("ohlcv_revision") == 0


def test_a_refetch_that_lacks_minutes_takes_nothing_away(platform: Platform) -> None:
    platform.track("SPY:1m", "SPY:1h", "AAPL:1h")
    platform.run_range(WEDNESDAY, WEDNESDAY, "SPY:1m", "SPY:1h", "AAPL:1h")
    whole = platform.bars()
    half = datetime(2023, 7, 5, 15, tzinfo=UTC)
    # SPY's minutes are stored, AAPL's are not: the first is rolled up from the store, the second kept as it was.
    platform.simulator.fail(FaultKind.LOST_HOURS, start=half, end=half + timedelta(minutes=30))
    platform.run_range(WEDNESDAY, WEDNESDAY, "SPY:1m", "SPY:1h", "AAPL:1h", force=True)
    assert platform.bars() == whole
    assert platform.count("ohlcv_revision") == 0


def test_a_timeframe_that_nobody_asked_for_follows_its_base(platform: Platform) -> None:
    platform.track("SPY:1m", "SPY:1h")
    hour = datetime(2023, 7, 5, 15, tzinfo=UTC)
    platform.simulator.fail(FaultKind.LOST_HOURS, start=hour, end=hour + timedelta(minutes=30))
    platform.run_range(WEDNESDAY, WEDNESDAY, "SPY:1m", "SPY:1h")
    platform.simulator.set_faults()
    platform.run_range(WEDNESDAY, WEDNESDAY, "SPY:1m", force=True)
    (bar,) = platform.bars("base_bars", f"timeframe = '1h' and time = '{hour}'")
    assert bar["base_bars"] == 60


def test_a_history_that_the_plan_cuts_off_is_never_taken_for_empty(platform: Platform) -> None:
    platform.track("AAPL:1d")
    first, last = date(2022, 1, 3), date(2023, 7, 5)
    cut = datetime(2023, 1, 3, tzinfo=UTC)
    platform.simulator.fail(FaultKind.HISTORY_CUT, start=cut)
    for _ in range(2):
        platform.run_range(first, last, "AAPL:1d")
        covered = platform.database.read_frame("select lower(covered) as since from coverage").item()
        assert covered > datetime(2022, 12, 29, tzinfo=UTC)
    platform.simulator.set_faults()  # a larger plan
    platform.run_range(first, last, "AAPL:1d")
    assert platform.count("ohlcv", "time < '2022-12-29'") > 240


def test_an_absurd_time_stops_nothing(platform: Platform) -> None:
    platform.track("AAPL:1d", "SPY:1d")
    absurd = (
        '{"ticker":"AAPL","status":"OK","queryCount":1,"resultsCount":1,'
        '"results":[{"t":1704205800000000,"o":1,"h":1,"l":1,"c":1,"v":1}]}'
    )
    platform.simulator.set_faults(Fault(kind=FaultKind.SERVER_ERROR, ticker="AAPL", status=200, body=absurd))
    result = platform.run_range(MONDAY, WEDNESDAY, "AAPL:1d", "SPY:1d", sound=False)
    assert "time_missing 1" in reason_of(result)
    assert len(platform.bars(where="symbol = 'SPY'")) == 2


def test_a_downstream_asset_reads_its_partitions_with_columns_and_lookback(platform: Platform) -> None:
    platform.track("AAPL:1h", "AAPL:1d")
    platform.run_range(date(2023, 6, 29), date(2023, 7, 6), "AAPL:1h", "AAPL:1d")
    partitions = day_by_series(date.fromisoformat(START))
    seen: list[pl.DataFrame] = []

    @asset(
        partitions_def=partitions,
        ins={"ohlcv": AssetIn(metadata={"columns": ["time", "close"], "lookback_bars": 3})},
    )
    def narrow(ohlcv) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - Dagster would resolve annotations
        seen.append(ohlcv)

    @asset(partitions_def=partitions)
    def whole(ohlcv) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - same
        seen.append(ohlcv)

    for consumer in (narrow, whole):
        postgres = PostgresResource()
        materialize(
            [ohlcv_asset(partitions), consumer],
            selection=[AssetKey(consumer.key.path)],
            instance=platform.instance,
            partition_key=partition_key(WEDNESDAY, Series.parse("AAPL:1d")),
            resources={
                "io_manager": PostgresIOManager(postgres=postgres),
                "postgres": postgres,
                "polygon": PolygonResource(),
            },
        )
    expected = [row for row in platform.bars(where="timeframe = '1d'") if row["time"].day in (29, 30, 3, 5)]
    assert seen[0].to_dicts() == [{"time": row["time"], "close": row["close"]} for row in expected]
    assert seen[1].to_dicts() == expected[-1:]


def test_the_api_key_is_written_nowhere(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = tmp_path / "dagster"
    files.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", files)
    monkeypatch.setenv("DAGSTER_HOME", str(files))
    monkeypatch.setenv("DATABASE_URL", database_url)
    caplog.set_level("DEBUG")
    with (
        DagsterInstance.get() as instance,
        open_platform(database_url, monkeypatch, instance=instance) as platform,
    ):
        platform.track("AAPL:1d", "MSFT:1d", "SPY:1d")
        platform.simulator.set_faults(
            # A vendor that repeats the key in what it says must not bring it into the logs.
            Fault(
                kind=FaultKind.SERVER_ERROR,
                ticker="MSFT",
                status=400,
                body=f'{{"status":"ERROR","error":"key {KEY} is bad"}}',
            ),
            Fault(kind=FaultKind.SERVER_ERROR, ticker="SPY", body=f"<html>{KEY}</html>"),
        )
        platform.run_range(MONDAY, WEDNESDAY, "AAPL:1d", "MSFT:1d", "SPY:1d", sound=False)
        monkeypatch.setenv("POLYGON_API_KEY", f"{KEY}-wrong")
        platform.run_range(MONDAY, WEDNESDAY, "AAPL:1d", sound=False, force=True)

        def where(connection: Session) -> tuple[int, list[str]]:
            tables = connection.execute(
                "select schemaname, tablename from pg_tables where schemaname in ('public', 'dagster')"
            ).fetchall()
            found, rows = [], 0
            for schema, name in tables:
                table = sql.Identifier(str(schema), str(name))
                counted = connection.execute(
                    sql.SQL("select count(*), count(*) filter (where t::text like {}) from {} t").format(
                        f"%{KEY}%", table
                    )
                ).fetchone()
                assert counted is not None
                rows += int(str(counted[0]))
                if counted[1]:
                    found.append(f"{schema}.{name}")
            return rows, found

        rows, found = platform.database.transaction(where)
    assert rows > 50
    assert found == []
    assert caplog.records
    assert KEY not in caplog.text
    assert not [path for path in files.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
