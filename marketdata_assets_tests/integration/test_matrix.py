"""The completeness matrix in Postgres and as an asset: summed up, kept by day, and shown."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from unittest.mock import Mock

import polars as pl
import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    MarkdownMetadataValue,
    MultiPartitionKey,
    MultiPartitionsDefinition,
    build_sensor_context,
)

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.assets import completeness_matrix as asset_module
from marketdata_assets.defs.instance.environment import sync_series
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.defs.runs.matrix import refresh_matrix
from marketdata_assets.defs.sensors.matrix import REPORT_TAG
from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.gap_scan import KNOWN_GAP_SCHEMA, ScanResult
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import parse_timeframes
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.completeness import (
    MATRIX_SCHEMA,
    read_matrix,
    read_recent,
    read_unchecked,
    write_matrix,
)
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.gaps import list_gaps, list_losses, write_gaps
from marketdata_assets.storage.merge import merge
from marketdata_assets.storage.migrations import migrate, sql_folder
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols, deactivate, set_timeframes
from marketdata_assets.storage.tables import OHLCV
from marketdata_assets_tests.integration.frames import run_of

if TYPE_CHECKING:
    from pathlib import Path

MONDAY = date(2024, 7, 1)
TODAY = date(2024, 7, 9)
A_WEEK = Window(datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 8, tzinfo=UTC))
COUNTS = ("symbol", "timeframe", "expected_bars", "present_bars", "no_trade_bars", "missing_bars", "status")


@pytest.fixture(autouse=True)
def _tracked(database: Database) -> None:
    """SPY in two timeframes, then BTC-USD: not in the order of the alphabet."""
    add_symbols(
        database,
        [
            TrackedSymbol("SPY", AssetClass.ETF, timeframes=parse_timeframes("5m,1h,1d")),
            TrackedSymbol("BTC-USD", AssetClass.CRYPTO, timeframes=parse_timeframes("1d")),
        ],
    )


def found(
    database: Database, key: str, day: date, expected: int, present: int, *, no_trades: int = 0
) -> None:
    """Write down what was found of a series on a day."""
    series = Series.parse(key)
    missing = expected - present - no_trades
    row = {
        "symbol": series.symbol,
        "timeframe": series.timeframe.value,
        "day": day,
        "expected_bars": expected,
        "present_bars": present,
        "no_trade_bars": no_trades,
        "missing_bars": missing,
        "completeness": 1 - missing / expected,
        "status": "gaps" if missing else "whole",
    }
    daily = pl.DataFrame([row], schema=DAILY_COMPLETENESS_SCHEMA)
    write_gaps(
        database, ScanResult({series: A_WEEK}, KNOWN_GAP_SCHEMA.to_frame(), {series: (day, day)}, daily)
    )


def counts(matrix: pl.DataFrame) -> list[tuple[object, ...]]:
    return matrix.select(COUNTS).rows()


def test_days_are_summed_up_and_those_nobody_looked_at_count_as_missing(database: Database) -> None:
    found(database, "SPY:1h", MONDAY, 7, 6, no_trades=1)
    found(database, "SPY:1h", MONDAY + timedelta(days=4), 7, 5)  # Tuesday, and the half day, are left out
    found(database, "BTC-USD:1d", MONDAY, 1, 1)
    bars = run_of("SPY:1h", 3, start=datetime(2024, 7, 1, 13, tzinfo=UTC))
    database.transaction(lambda connection: merge(connection, OHLCV, bars))

    matrix = write_matrix(database, TODAY)
    assert matrix.schema == MATRIX_SCHEMA
    assert counts(matrix) == [
        ("SPY", "5m", 0, 0, 0, 0, "unchecked"),
        ("SPY", "1h", 7 + 7 + 4 + 7, 11, 1, 13, "gaps"),
        ("SPY", "1d", 0, 0, 0, 0, "unchecked"),
        ("BTC-USD", "1d", 1, 1, 0, 0, "whole"),
    ]
    row = matrix.row(1, named=True)
    assert row["completeness"] == 12 / 25
    assert (row["first_bar"], row["last_bar"]) == (bars["time"][0], bars["time"][2])
    assert matrix["first_bar"].null_count() == 3
    assert read_matrix(database).equals(matrix)
    assert read_matrix(database, ["BTC-USD"]).equals(matrix.tail(1))


def test_days_that_were_never_scanned_are_named(database: Database) -> None:
    spy, bitcoin = Series.parse("SPY:1h"), Series.parse("BTC-USD:1d")
    found(database, "SPY:1h", MONDAY, 7, 7)
    found(database, "SPY:1h", MONDAY + timedelta(days=4), 7, 7)

    def named(*edges: date | None) -> list[tuple[str, date]]:
        return read_unchecked(database, [spy, bitcoin], *edges).select("symbol", "day").rows()

    tuesday, half_day, monday = (MONDAY + timedelta(days=days) for days in (1, 2, 7))
    assert named() == [("SPY", tuesday), ("SPY", half_day)]
    assert named(half_day) == [("SPY", half_day)]
    assert named(date(2020, 1, 1), monday + timedelta(days=1)) == [
        ("SPY", tuesday),
        ("SPY", half_day),
        ("SPY", monday),
    ]
    assert read_unchecked(database, [bitcoin]).is_empty()


def test_a_bar_outside_the_scanned_days_never_leaves_a_series_whole(database: Database) -> None:
    found(database, "SPY:1h", MONDAY, 7, 7)
    found(database, "BTC-USD:1d", MONDAY, 1, 1)
    starts = (datetime(2024, 6, 28, 13, tzinfo=UTC), datetime(2024, 7, 3, 13, tzinfo=UTC))
    bars = pl.concat([run_of("SPY:1h", 3, start=start) for start in starts])
    database.transaction(lambda connection: merge(connection, OHLCV, bars))
    friday, tuesday, half_day = (MONDAY + timedelta(days=days) for days in (-3, 1, 2))
    matrix = write_matrix(database, TODAY)
    hours = matrix.row(1, named=True)
    assert (hours["expected_bars"], hours["present_bars"], hours["status"]) == (7 + 7 + 7 + 4, 7, "gaps")
    assert (hours["first_scanned"], hours["last_scanned"]) == (MONDAY, MONDAY)
    assert matrix.row(3, named=True)["status"] == "whole"
    assert read_matrix(database).equals(matrix)
    spy = Series.parse("SPY:1h")
    assert read_unchecked(database, [spy])["day"].to_list() == [friday, tuesday, half_day]
    recent = read_recent(database)
    assert recent is not None
    assert recent.last == half_day
    assert recent.days.filter(symbol="SPY").select("day", "status").rows() == [
        (friday, "unchecked"),
        (MONDAY, "whole"),
        (tuesday, "unchecked"),
        (half_day, "unchecked"),
    ]


def test_a_store_of_the_version_before_keeps_its_matrix(empty_database_url: str, tmp_path: Path) -> None:
    files = sorted(sql_folder().glob("*.sql"))
    added = next(place for place, file in enumerate(files) if "scanned_days" in file.name)
    for file in files[:added]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    migrate(empty_database_url, tmp_path)
    with Database(empty_database_url) as store:
        store.transaction(
            lambda connection: connection.execute(
                "insert into tracked_symbols (symbol, asset_class, timeframes) values ('QQQ', 'etf', '{1h}');"
                "insert into completeness_history values ('QQQ', '1h', 7, 7, 0, 0, 1, 'whole', null, null, '2024-07-01')"
            )
        )
        migrate(empty_database_url)
        (row,) = read_matrix(store, ["QQQ"]).iter_rows(named=True)
        assert (row["status"], row["as_of"], row["last_scanned"]) == ("whole", MONDAY, None)
        found(store, "QQQ:1h", MONDAY, 7, 7)
        write_matrix(store, TODAY)
        (row,) = read_matrix(store, ["QQQ"]).iter_rows(named=True)
        assert (row["as_of"], row["last_scanned"]) == (TODAY, MONDAY)


def test_a_day_has_one_row_a_series_and_another_day_adds_its_own(database: Database) -> None:
    found(database, "SPY:1h", MONDAY, 7, 5)
    write_matrix(database, TODAY)
    found(database, "SPY:1h", MONDAY, 7, 7)
    write_matrix(database, TODAY)
    history = "select * from completeness_history where symbol = 'SPY' and timeframe = '1h' order by as_of"
    assert database.read_frame(history)["status"].to_list() == ["whole"]
    found(database, "SPY:1h", MONDAY, 7, 0)
    write_matrix(database, TODAY + timedelta(days=1))
    assert database.read_frame(history)["missing_bars"].to_list() == [0, 7]
    newest = database.read_frame(
        "select * from completeness_matrix where symbol = 'SPY' and timeframe = '1h'"
    )
    assert newest["as_of"].to_list() == [TODAY + timedelta(days=1)]
    assert read_matrix(database, ["SPY"]).filter(timeframe="1h")["missing_bars"].to_list() == [7]


def test_what_is_no_longer_collected_leaves_the_matrix_and_stays_in_the_history(database: Database) -> None:
    for key in ("SPY:1h", "SPY:1d", "BTC-USD:1d"):
        found(database, key, MONDAY, 1, 1)
    write_matrix(database, TODAY)
    set_timeframes(database, "SPY", parse_timeframes("1d,1w"))
    deactivate(database, "BTC-USD")
    assert counts(read_matrix(database)) == [
        ("SPY", "1d", 1, 1, 0, 0, "whole"),
        ("SPY", "1w", 0, 0, 0, 0, "unchecked"),
    ]
    assert read_matrix(database)["as_of"].to_list() == [TODAY, None]
    assert write_matrix(database, TODAY).height == 2
    recent = read_recent(database)
    assert recent is not None
    assert recent.days.select("symbol", "timeframe").rows() == [("SPY", "1d")]
    assert database.read_frame("select count(*) as n from completeness_history").item() == 5


def test_a_store_that_was_never_scanned(database: Database) -> None:
    assert read_recent(database) is None
    assert set(read_matrix(database)["status"]) == {"unchecked"}
    assert set(write_matrix(database, TODAY)["status"]) == {"unchecked"}
    for symbol in ("SPY", "BTC-USD"):
        deactivate(database, symbol)
    assert write_matrix(database, TODAY).is_empty()
    assert read_matrix(database).schema == MATRIX_SCHEMA


def test_the_last_sixty_days_end_with_the_last_that_was_scanned(database: Database) -> None:
    found(database, "BTC-USD:1d", MONDAY - timedelta(days=90), 1, 1)
    found(database, "BTC-USD:1d", MONDAY, 1, 1)
    found(database, "SPY:1d", MONDAY - timedelta(days=5), 1, 0)
    recent = read_recent(database)
    assert recent is not None
    assert (recent.last, (recent.last - recent.first).days) == (MONDAY, 59)
    assert recent.days.schema == DAILY_COMPLETENESS_SCHEMA
    bitcoin = recent.days.filter(symbol="BTC-USD")
    assert bitcoin["day"].to_list() == pl.date_range(recent.first, MONDAY, eager=True).to_list()
    assert bitcoin["status"].to_list() == ["unchecked"] * 59 + ["whole"]
    # Wednesday was scanned; Thursday and Friday were not, and on Monday nothing is due yet.
    spy = recent.days.filter(symbol="SPY").select("day", "status").rows()
    assert spy == [
        (date(2024, 6, 26), "gaps"),
        (date(2024, 6, 27), "unchecked"),
        (date(2024, 6, 28), "unchecked"),
    ]
    assert recent.days["symbol"].to_list() == ["SPY"] * 3 + ["BTC-USD"] * 60
    chosen = read_recent(database, ["SPY"])
    assert chosen is not None
    assert (chosen.first, chosen.last, chosen.days.height) == (recent.first, recent.last, 3)


def test_the_largest_lost_gaps_of_what_is_collected(database: Database) -> None:
    def gap(key: str, hour: int, bars: int, state: str) -> None:
        series, start = Series.parse(key), A_WEEK.start + timedelta(hours=hour)
        row = {
            "symbol": series.symbol,
            "timeframe": series.timeframe.value,
            "day": MONDAY,
            "gap_start": start,
            "gap_end": start + timedelta(minutes=5 * bars),
            "missing_bars": bars,
            "state": state,
            "attempts": 0,
            "reason": "told",
        }
        window = Window(start, start + timedelta(minutes=5 * bars))
        gaps, no_days = pl.DataFrame([row], schema=KNOWN_GAP_SCHEMA), DAILY_COMPLETENESS_SCHEMA.to_frame()
        write_gaps(database, ScanResult({series: window}, gaps, {series: (MONDAY, MONDAY)}, no_days))

    gap("SPY:5m", 1, 3, "open")
    gap("SPY:5m", 2, 5, "unfilled")
    gap("SPY:5m", 3, 9, "no_trades")
    gap("SPY:5m", 4, 8, "filled")
    gap("SPY:30m", 1, 7, "open")  # not tracked
    gap("BTC-USD:1d", 1, 4, "open")
    rows, count = list_losses(database, ["SPY", "BTC-USD"], 2)
    assert rows.schema == KNOWN_GAP_SCHEMA
    assert (rows["missing_bars"].to_list(), count) == ([5, 4], 3)
    assert list_losses(database, ["SPY"], 9)[0]["missing_bars"].to_list() == [5, 3]
    windows = {Series.parse("SPY:5m"): A_WEEK}
    assert list_gaps(database, windows)["missing_bars"].to_list() == [9, 8, 5, 3]
    assert list_gaps(database, windows, LOSSES)["state"].to_list() == ["unfilled", "open"]
    none, count = list_losses(database, ["QQQ"], 9)
    assert (none.schema, none.height, count) == (KNOWN_GAP_SCHEMA, 0, 0)


@pytest.fixture
def instance(database_url: str, monkeypatch: pytest.MonkeyPatch) -> DagsterInstance:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return DagsterInstance.ephemeral()


def test_the_asset_keeps_a_day_once_and_shows_a_table_and_two_pictures(
    database: Database, instance: DagsterInstance
) -> None:
    found(database, "SPY:1h", MONDAY, 7, 5)
    found(database, "BTC-USD:1d", MONDAY, 1, 1)
    write_matrix(database, TODAY - timedelta(days=1))
    runner = Runner(build_definitions(clock=lambda: datetime(2024, 7, 9, 12, tzinfo=UTC)), instance)
    refresh_matrix(runner)
    refresh_matrix(runner)
    days = database.read_frame("select as_of, count(*) as n from completeness_history group by 1 order by 1")
    assert days.rows() == [(TODAY - timedelta(days=1), 4), (TODAY, 4)]

    event = instance.get_latest_materialization_event(AssetKey("completeness_matrix"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    values = {name: value.value for name, value in metadata.items()}
    assert (values["series_whole"], values["series_gaps"], values["series_unchecked"]) == (1, 1, 2)
    assert (values["expected_bars"], values["missing_bars"], values["completeness"]) == (8, 2, 0.75)
    for name in ("heatmap", "heatmap_days"):
        picture = metadata[name]
        assert isinstance(picture, MarkdownMetadataValue)
        assert "](data:image/png;base64,iVBOR" in (picture.md_str or "")
    table = str(values["matrix"]).splitlines()
    assert len(table) == 2 + 4
    assert table[2].startswith("| SPY | 1h | 71.4% | 7 | 5 | 0 | 2 |")


def test_a_matrix_that_cannot_be_made_says_why(database: Database, instance: DagsterInstance) -> None:
    database.transaction(lambda connection: connection.execute("drop table completeness_history cascade"))
    with pytest.raises(
        MarketDataError, match=r"matrix could not be refreshed: .*completeness_history"
    ) as caught:
        refresh_matrix(Runner(build_definitions(), instance))
    assert "\n" not in str(caught.value)


def report_gaps(instance: DagsterInstance, day: int) -> None:
    partition = MultiPartitionKey({"day": f"2024-07-0{day}", "series": "SPY:1d"})
    instance.report_runless_asset_event(AssetMaterialization("gap_report", partition=partition))


def test_the_matrix_follows_a_scan_for_gaps_and_is_tried_again_when_it_fails(
    database: Database, instance: DagsterInstance
) -> None:
    later = timedelta(0)
    definitions = build_definitions(clock=lambda: datetime.now(UTC) + later)
    sensor = definitions.get_sensor_def("matrix_after_gaps")

    def requested() -> list[dict[str, str]]:
        with build_sensor_context(instance, definitions=definitions) as context:
            requests = sensor.evaluate_tick(context).run_requests or ()
        assert all(one.run_key is None for one in requests)  # Dagster runs a key once, though it failed
        return [{REPORT_TAG: one.tags[REPORT_TAG]} for one in requests]

    assert requested() == []
    for day in (1, 2):
        report_gaps(instance, day)
    [first] = requested()
    assert requested() == [first]
    # What Dagster makes of the request is under way, and then fails.
    run = instance.add_run(DagsterRun("matrix", status=DagsterRunStatus.STARTED, tags=first))
    assert requested() == []
    instance.report_run_failed(run)
    assert requested() == []
    later = timedelta(minutes=11)
    assert requested() == [first]
    # A newer report does not wait.
    later = timedelta(0)
    report_gaps(instance, 3)
    [second] = requested()
    assert second != first
    # A run that has not begun will read what came since, too.
    queued = instance.add_run(DagsterRun("matrix", status=DagsterRunStatus.NOT_STARTED, tags=second))
    report_gaps(instance, 4)
    assert requested() == []
    instance.report_run_canceled(queued)
    assert len(requested()) == 1
    refresh_matrix(Runner(definitions, instance))
    assert requested() == []


def test_a_report_that_is_written_while_the_matrix_reads_is_summed_up_again(
    database: Database, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = build_definitions()
    sensor = definitions.get_sensor_def("matrix_after_gaps")

    def overtaken(database: Database, day: date) -> pl.DataFrame:
        matrix = write_matrix(database, day)
        report_gaps(instance, 2)
        return matrix

    report_gaps(instance, 1)
    with monkeypatch.context() as patch:
        patch.setattr(asset_module, "write_matrix", overtaken)
        refresh_matrix(Runner(definitions, instance))
    with build_sensor_context(instance, definitions=definitions) as context:
        assert len(sensor.evaluate_tick(context).run_requests or ()) == 1
    refresh_matrix(Runner(definitions, instance))
    with build_sensor_context(instance, definitions=definitions) as context:
        assert not sensor.evaluate_tick(context).run_requests


def test_a_matrix_of_many_partitions_enumerates_none(
    database: Database, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_series(instance, database)
    instance.report_runless_asset_event(
        AssetMaterialization(
            "gap_report", partition=MultiPartitionKey({"day": "2024-07-01", "series": "SPY:1d"})
        )
    )
    enumerated = Mock(side_effect=AssertionError("every partition was enumerated"))
    monkeypatch.setattr(MultiPartitionsDefinition, "get_partition_keys", enumerated)
    refresh_matrix(Runner(build_definitions(), instance))
