"""The features asset: what it computes, what it leaves alone, and what it holds back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from dagster import AssetKey, AssetRecordsFilter
from polars.testing import assert_frame_equal

from marketdata_assets.cli.features import blocked_lines
from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.defs.resources.io_manager import ROW_COUNT
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.defs.runs.features import run_features
from marketdata_assets.defs.runs.gaps import scan_for_gaps
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.jobs import FEATURES_JOB
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.ranges import feature_runs
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.backfill import FeaturesOutcome
from marketdata_assets.pipeline.gates import blocked_since
from marketdata_assets.pipeline.idle import stale_days
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.storage.actions import stale_at, store_actions
from marketdata_assets.storage.bars import BarBatch, read_rows, write_batch
from marketdata_assets.storage.features import FeatureBatch, mark_stale, read_stale, write_features
from marketdata_assets.storage.merge import lock_series
from marketdata_assets.storage.tables import FEATURES, OHLCV
from marketdata_assets_tests.integration.platform import Platform, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dagster import AssetCheckEvaluation, Definitions, ExecuteInProcessResult, MetadataValue

FIRST, LAST = date(2023, 5, 22), date(2023, 7, 7)
WEDNESDAY = datetime(2023, 7, 5, 15, tzinfo=UTC)
EVER = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = ("SPY:1h", "SPY:1d")


@pytest.fixture
def platform(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch) as running:
        running.never_split("SPY", "QQQ")
        yield running


def definitions(platform: Platform) -> Definitions:
    return build_definitions(resources={"polygon": PolygonResource(**platform.polygon)})


def computed(
    platform: Platform,
    first: date = FIRST,
    last: date = LAST,
    keys: tuple[str, ...] = KEYS,
    *,
    force: bool = False,
) -> FeaturesOutcome:
    outcome = FeaturesOutcome()
    run = Rectangle(first, last, tuple(map(Series.parse, keys)))
    run_features(Runner(definitions(platform), platform.instance), [run], force=force, outcome=outcome)
    assert outcome.failures == []
    return outcome


def look(platform: Platform, *keys: str, repair: bool = True) -> None:
    run = Rectangle(FIRST, LAST, tuple(map(Series.parse, keys)))
    scan_for_gaps(Runner(definitions(platform), platform.instance), [run], repair=repair)


def one(platform: Platform, day: date, key: str) -> ExecuteInProcessResult:
    return (
        definitions(platform)
        .resolve_job_def(FEATURES_JOB)
        .execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            partition_key=partition_key(day, Series.parse(key)),
            instance=platform.instance,
            raise_on_error=False,
        )
    )


def shown(platform: Platform, key: str) -> Mapping[str, MetadataValue]:
    """The metadata of the latest materialization of a partition."""
    (record,) = platform.instance.fetch_materializations(
        AssetRecordsFilter(asset_key=AssetKey("features"), asset_partitions=[key]), limit=1
    ).records
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata


def latest(platform: Platform) -> tuple[str, Mapping[str, MetadataValue]]:
    """The partition, and its metadata, that Dagster shows as the latest materialization of the asset."""
    event = platform.instance.get_latest_materialization_event(AssetKey("features"))
    assert event is not None
    assert event.asset_materialization is not None
    return str(event.asset_materialization.partition), event.asset_materialization.metadata


def stored(platform: Platform, *keys: str) -> pl.DataFrame:
    rows = read_rows(platform.database, FEATURES, {Series.parse(key): [EVER] for key in keys})
    return rows.cast(FEATURES_SCHEMA)


def of_all_history(platform: Platform, *keys: str) -> pl.DataFrame:
    bars = read_rows(platform.database, OHLCV, {Series.parse(key): [EVER] for key in keys})
    return compute_features(bars, calendar_of(AssetClass.STOCK))


def same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert_frame_equal(found, expected, rel_tol=1e-9, abs_tol=1e-9 * 500)


def change(platform: Platform, key: str, time: datetime, factor: float) -> None:
    """The vendor revises the bar of ``key`` at ``time``."""
    bars = read_rows(
        platform.database, OHLCV, {Series.parse(key): [Window(time, time + timedelta(minutes=1))]}
    )
    assert bars.height == 1
    revised = bars.with_columns(pl.col("open", "high", "low", "close") * factor)
    write_batch(platform.database, BarBatch(revised))


def test_every_bar_has_the_features_of_its_whole_history(platform: Platform) -> None:
    platform.track(*KEYS)
    platform.run_range(FIRST, LAST, *KEYS)
    outcome = computed(platform)
    expected = of_all_history(platform, *KEYS)
    assert (outcome.totals.series_computed, outcome.totals.rows_written) == (2, expected.height)
    same(stored(platform, *KEYS), expected)
    assert read_stale(platform.database) == {}
    event = platform.instance.fetch_materializations(AssetKey("features"), limit=500)
    told = [
        one.asset_materialization.metadata for one in event.records if one.asset_materialization is not None
    ]
    assert (
        sum("chart" in metadata for metadata in told) == sum("columns" in metadata for metadata in told) == 1
    )
    key, charted = latest(platform)
    assert "data:image/png;base64" in str(charted["chart"].value)
    assert str(charted["chart"].value).startswith(f"![Close, ATR and volatility of {key.partition('|')[2]}]")
    assert len(str(charted["columns"].value).splitlines()) == 2 + 24
    joined = platform.database.read_frame(
        "select count(*) as n from market_data_v2 where gap_in_window is not null"
    )
    assert joined.item() == expected.height


def test_partitions_one_by_one_are_the_range(platform: Platform) -> None:
    platform.track("SPY:1h")
    platform.run_range(FIRST, LAST, "SPY:1h")
    for day in (date(2023, 7, 5), FIRST, date(2023, 5, 23), date(2023, 7, 6)):
        assert one(platform, day, "SPY:1h").success
    days = stored(platform, "SPY:1h")
    assert days["time"].dt.date().n_unique() >= 4
    expected = of_all_history(platform, "SPY:1h").join(days, on=["symbol", "timeframe", "time"], how="semi")
    same(days, expected)
    # The first of them is not the first bar: what lies before is still to be computed.
    assert read_stale(platform.database)[Series.parse("SPY:1h")].since.date() == date(2023, 5, 24)


def test_what_is_up_to_date_is_not_computed_again(platform: Platform) -> None:
    platform.track(*KEYS)
    platform.run_range(FIRST, LAST, *KEYS)
    computed(platform)
    before = platform.database.read_frame("select * from features order by symbol, timeframe, time")
    again = computed(platform)
    assert (again.totals.series_computed, again.totals.rows_written) == (0, 0)
    assert stale_days(platform.database, [Series.parse(key) for key in KEYS], FIRST, now=NOW) == {}
    assert platform.database.read_frame("select * from features order by symbol, timeframe, time").equals(
        before
    )
    assert computed(platform, force=True).totals.rows_written == before.height


def test_a_revised_bar_recomputes_from_there_to_the_end_and_nothing_else(platform: Platform) -> None:
    platform.track(*KEYS)
    platform.run_range(FIRST, LAST, *KEYS)
    computed(platform)
    stamps = "select timeframe, time, computed_at from features order by timeframe, time"
    before = platform.database.read_frame(stamps)
    change(platform, "SPY:1h", WEDNESDAY, 1.01)
    days = stale_days(platform.database, [Series.parse(key) for key in KEYS], FIRST, now=NOW)
    assert days == {Series.parse("SPY:1h"): (date(2023, 7, 5), date(2023, 7, 7))}
    (run,) = feature_runs(KEYS, days)
    outcome = computed(platform, run.first, run.last, ("SPY:1h",))
    assert outcome.totals.series_computed == 1
    same(stored(platform, *KEYS), of_all_history(platform, *KEYS))
    after = platform.database.read_frame(stamps)
    moved = after.filter(after["computed_at"] != before["computed_at"])
    assert set(moved["timeframe"]) == {"1h"}
    assert all(time >= datetime(2023, 7, 5, 4, tzinfo=UTC) for time in moved["time"])
    assert moved.height == outcome.totals.rows_written


def test_a_lost_hour_holds_its_day_back_until_it_is_filled(platform: Platform) -> None:
    platform.track("SPY:1m", "SPY:1h")
    keys = ("SPY:1m", "SPY:1h")
    fault = Fault(
        kind=FaultKind.LOST_HOURS,
        ticker="SPY",
        start=WEDNESDAY,
        end=WEDNESDAY + timedelta(hours=1),
        returns_after=2,
    )
    platform.simulator.set_faults(fault)
    platform.run_range(FIRST, LAST, *keys)
    look(platform, *keys, repair=False)
    outcome = computed(platform, keys=keys)
    assert outcome.totals.partitions_blocked == 2
    day = "(time at time zone 'America/New_York')::date"
    assert platform.count("features", f"{day} = '2023-07-05'") == 0
    flagged = platform.database.read_frame(
        f"select bool_and(gap_in_window) as all from features where timeframe = '1h' and {day} = '2023-07-06'"
    )
    assert flagged.item() is True
    assert platform.instance.get_materialized_partitions(AssetKey("features")) == {
        str(partition_key(FIRST + timedelta(days=number), Series.parse(key)))
        for key in keys
        for number in range((LAST - FIRST).days + 1)
    }
    blocked = partition_key(date(2023, 7, 5), Series.parse("SPY:1m"))
    assert "by no_gaps" in str(shown(platform, blocked)["blocked"].value)
    assert "blocked" not in shown(platform, partition_key(date(2023, 7, 6), Series.parse("SPY:1m")))
    assert one(platform, date(2023, 7, 5), "SPY:1m").success
    facts = shown(platform, blocked)
    assert (facts[ROW_COUNT].value, "by no_gaps" in str(facts["blocked"].value)) == (0, True)

    look(platform, *keys)
    assert platform.count("gap_report", "state = 'filled'") == 2
    days = stale_days(platform.database, [Series.parse(key) for key in keys], FIRST, now=NOW)
    assert {first for first, _ in days.values()} == {date(2023, 7, 5)}
    assert computed(platform, date(2023, 7, 5), LAST, keys).totals.partitions_blocked == 0
    same(stored(platform, *keys), of_all_history(platform, *keys))
    stored_rows = platform.count("features", f"timeframe = '1m' and {day} = '2023-07-05'")
    assert shown(platform, blocked)[ROW_COUNT].value == stored_rows > 0
    assert "blocked" not in shown(platform, blocked)


def test_a_change_while_features_are_computed_is_not_lost(platform: Platform) -> None:
    platform.track("SPY:1d")
    platform.run_range(FIRST, LAST, "SPY:1d")
    series = Series.parse("SPY:1d")
    version = read_stale(platform.database)[series].version
    features = of_all_history(platform, "SPY:1d")

    def overtake(connection: Any) -> None:  # noqa: ANN401 - psycopg's
        lock_series(connection, [series])
        mark_stale(connection, {series: WEDNESDAY}, "a bar came in between")

    platform.database.transaction(overtake)
    write_features(platform.database, FeatureBatch(features, {series: EVER}, {series: version}))
    left = read_stale(platform.database)[series]
    assert left.since < WEDNESDAY
    assert left.version > version
    write_features(platform.database, FeatureBatch(features, {series: EVER}, {series: left.version}))
    assert read_stale(platform.database) == {}


def test_a_computation_that_two_others_overtook_is_not_the_last_word(platform: Platform) -> None:
    platform.track("SPY:1d")
    platform.run_range(FIRST, LAST, "SPY:1d")
    series = Series.parse("SPY:1d")
    version = read_stale(platform.database)[series].version
    old = of_all_history(platform, "SPY:1d")
    computed(platform, keys=("SPY:1d",))
    change(platform, "SPY:1d", datetime(2023, 7, 5, 4, tzinfo=UTC), 1.01)
    computed(platform, keys=("SPY:1d",))
    assert read_stale(platform.database) == {}
    # What the others have computed since stands.
    write_features(platform.database, FeatureBatch(old, {series: EVER}, {series: version}))
    assert read_stale(platform.database) == {}
    same(stored(platform, "SPY:1d"), of_all_history(platform, "SPY:1d"))


@pytest.mark.parametrize("broken", ["close = 0", "volume = null"])
def test_a_broken_bar_holds_its_own_partition_back_and_no_other(platform: Platform, broken: str) -> None:
    platform.track("SPY:1d", "QQQ:1d")
    keys = ("SPY:1d", "QQQ:1d")
    platform.run_range(FIRST, LAST, *keys)
    platform.execute(f"update ohlcv set {broken} where symbol = 'SPY' and time = '2023-06-14 04:00Z'")
    outcome = computed(platform, keys=keys)
    assert outcome.totals.partitions_blocked == 1
    assert outcome.totals.rows_written == platform.count("ohlcv") - 1
    after = platform.database.read_frame(
        "select gap_in_window from features where symbol = 'SPY' and time = '2023-06-15 04:00Z'"
    )
    assert after.item() is True


def test_new_bars_put_nothing_before_them_out_of_date(platform: Platform) -> None:
    platform.track("SPY:1d")
    platform.run_range(FIRST, date(2023, 6, 30), "SPY:1d")
    computed(platform, FIRST, date(2023, 6, 30), ("SPY:1d",))
    platform.run_range(date(2023, 7, 1), LAST, "SPY:1d", correction_sessions=0)
    days = stale_days(platform.database, [Series.parse("SPY:1d")], FIRST, now=NOW)
    assert days == {Series.parse("SPY:1d"): (date(2023, 7, 3), date(2023, 7, 7))}


def split_on(platform: Platform, day: str, *, known: date) -> None:
    """The vendor lists a split of SPY, two for one on ``day``, asked for on the date ``known``."""
    rows = pl.DataFrame(
        {
            "symbol": ["SPY"],
            "execution_date": [date.fromisoformat(day)],
            "split_from": [1.0],
            "split_to": [2.0],
        }
    )
    schema = SCHEMAS[ActionKind.SPLITS]
    frame = rows.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in rows.columns
    ).select(schema.names())
    store_actions(
        platform.database,
        ActionKind.SPLITS,
        frame.cast(schema),
        symbols=["SPY"],
        endpoint="/stocks/v1/splits",
        today=known,
    )


def test_a_split_recomputes_all_of_its_symbol_on_the_day_that_it_takes_effect(platform: Platform) -> None:
    platform.track("SPY:1d", "QQQ:1d")
    platform.run_range(FIRST, LAST, "SPY:1d", "QQQ:1d")
    computed(platform, keys=("SPY:1d", "QQQ:1d"))
    before = stored(platform, "SPY:1d")
    split_on(platform, "2023-06-20", known=date(2023, 6, 1))
    assert read_stale(platform.database) == {}, "announced, not executed"
    split_on(platform, "2023-06-20", known=date(2023, 7, 10))
    assert set(read_stale(platform.database)) == {Series.parse("SPY:1d")}
    outcome = computed(platform, keys=("SPY:1d", "QQQ:1d"))
    assert (outcome.totals.series_computed, outcome.totals.rows_written) == (1, before.height)
    after = stored(platform, "SPY:1d")
    earlier = pl.col("time") < datetime(2023, 6, 20, tzinfo=UTC)
    halved = (
        (after["true_range"] / before["true_range"]).filter(before.select(earlier).to_series()).drop_nulls()
    )
    assert halved.len() > 0
    assert halved.to_list() == pytest.approx([0.5] * halved.len())
    split_on(platform, "2023-06-20", known=date(2023, 7, 11))
    assert read_stale(platform.database) == {}, "nothing new"


def test_an_announced_split_takes_effect_on_its_day_by_itself(platform: Platform) -> None:
    platform.track("SPY:1d", "QQQ:1d")
    platform.run_range(FIRST, LAST, "SPY:1d", "QQQ:1d")
    computed(platform, keys=("SPY:1d", "QQQ:1d"))
    split_on(platform, "2023-08-15", known=date(2023, 8, 1))
    series = [Series.parse(key) for key in ("SPY:1d", "QQQ:1d")]
    eve = datetime(2023, 8, 15, 3, 59, tzinfo=UTC)  # still the 14th in New York
    assert stale_at(platform.database, eve, series) == {}
    assert set(stale_at(platform.database, eve + timedelta(minutes=1), series)) == {Series.parse("SPY:1d")}
    computed(platform, keys=("SPY:1d", "QQQ:1d"))
    assert stale_at(platform.database, eve + timedelta(days=9), series) == {}, "applied once"
    split_on(platform, "2023-08-15", known=date(2023, 8, 1))
    assert stale_at(platform.database, eve, series) == {}, "a clock that is behind takes nothing back"


def test_bars_before_the_first_partition_keep_no_mark(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.track("SPY:1d")
    platform.run_range(FIRST, LAST, "SPY:1d")
    later = date(2023, 6, 20)
    monkeypatch.setenv("MARKETDATA_START", later.isoformat())
    computed(platform, later, date(2023, 6, 27), keys=("SPY:1d",))
    days = stale_days(platform.database, [Series.parse("SPY:1d")], later, now=NOW)
    assert days == {Series.parse("SPY:1d"): (date(2023, 6, 28), LAST)}
    computed(platform, date(2023, 6, 28), LAST, keys=("SPY:1d",))
    assert read_stale(platform.database) == {}
    assert platform.count("features", "time < '2023-06-20'") == 0


def complete(
    platform: Platform, first: date = FIRST, last: date = LAST, keys: tuple[str, ...] = KEYS
) -> AssetCheckEvaluation:
    run = Rectangle(first, last, tuple(map(Series.parse, keys)))
    result = (
        definitions(platform)
        .resolve_job_def(FEATURES_JOB)
        .execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags=run.tags,
            instance=platform.instance,
            raise_on_error=False,
        )
    )
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_features_are_complete_until_somebody_touches_them(platform: Platform) -> None:
    platform.track(*KEYS)
    platform.run_range(FIRST, LAST, *KEYS)
    assert complete(platform).passed
    for statement in (
        "delete from features where timeframe = '1h' and time = '2023-07-05 15:00Z'",
        "update features set atr_14 = null where timeframe = '1d' and time >= '2023-07-06'",
        "insert into features (symbol, timeframe, time, gap_in_window) values ('SPY', '1h', '2023-07-04 15:00Z', false)",
    ):
        platform.execute(statement)
    found = complete(platform)
    assert not found.passed
    table = str(found.metadata["worst"].value)
    for said in ("no_features | 1", "unexpected_null | 1", "atr_14", "no_bar | 1", "SPY:1h | 2023-07-04"):
        assert said in table, table
    assert found.metadata["failing_partitions"].value == 4


def test_what_is_held_back_is_not_incomplete(platform: Platform) -> None:
    platform.track(*KEYS)
    fault = Fault(
        kind=FaultKind.LOST_HOURS, ticker="SPY", start=WEDNESDAY, end=WEDNESDAY + timedelta(hours=1)
    )
    platform.simulator.set_faults(fault)
    platform.run_range(FIRST, LAST, *KEYS)
    look(platform, *KEYS)
    found = complete(platform)
    assert found.passed
    assert found.metadata["partitions_held_back"].value == 1
    partitions = 2 * ((LAST - FIRST).days + 1)
    assert found.description == f"{partitions - 1} partitions pass, 1 blocked."
    assert "| SPY:1h | 2023-07-05 | blocked by no_gaps: unfilled | 1 |" in str(found.metadata["worst"].value)
    series = list(map(Series.parse, KEYS))
    lost = ("SPY", "1h", date(2023, 7, 5), "no_gaps")
    assert blocked_since(platform.database, series, FIRST).rows() == [lost]
    assert blocked_since(platform.database, series, date(2023, 7, 6)).is_empty()
    platform.execute("delete from ohlcv where timeframe = '1d' and time = '2023-06-30 04:00Z'")
    platform.execute(
        "insert into ohlcv_quarantine (symbol, timeframe, time, rule, vendor_row) values"
        " ('SPY', '1d', '2023-06-30 04:00Z', 'volume_negative', '{}')"
    )
    invalid = ("SPY", "1d", date(2023, 6, 30), "ohlcv_valid")
    assert blocked_since(platform.database, series, FIRST).rows() == [invalid, lost]
    (line,) = blocked_lines(blocked_since(platform.database, series, FIRST))
    assert line.startswith(
        "2 days without features, blocked: 1 by no_gaps (`marketdata gaps --start 2023-07-05`"
    )
    assert "; 1 by ohlcv_valid (" in line


def test_what_waits_for_splits_is_not_incomplete(platform: Platform) -> None:
    keys = ("AAPL:1d", "SPY:1d")
    platform.track(*keys)
    platform.run_range(FIRST, LAST, *keys)
    found = complete(platform, LAST, LAST, keys)
    assert found.passed
    assert found.description == "1 partition pass, 1 blocked."
    said = "| AAPL:1d | 2023-07-07 | blocked by splits: never fetched | 1 |"
    assert said in str(found.metadata["worst"].value)


def test_a_stock_whose_splits_were_never_asked_for_gets_no_features_until_they_are(
    platform: Platform,
) -> None:
    platform.track("AAPL:1d", "SPY:1d", "BTC-USD:1d")
    keys = ("AAPL:1d", "SPY:1d", "BTC-USD:1d")
    platform.run_range(FIRST, LAST, *keys)
    days = (LAST - FIRST).days + 1
    outcome = computed(platform, keys=keys)
    assert (outcome.totals.series_computed, outcome.totals.partitions_blocked) == (2, days)
    assert platform.count("features", "symbol = 'AAPL'") == 0
    reason = "splits of the symbol were never fetched: run `marketdata actions`"
    assert reason in str(shown(platform, partition_key(LAST, Series.parse("AAPL:1d")))["blocked"].value)
    assert "blocked" not in shown(platform, partition_key(LAST, Series.parse("SPY:1d")))
    key, charted = latest(platform)
    series = key.partition("|")[2]
    shown_series = {"SPY:1d", "BTC-USD:1d"} if series == "AAPL:1d" else {series}
    assert any(f"volatility of {name}]" in str(charted["chart"].value) for name in shown_series)
    assert set(read_stale(platform.database)) == {Series.parse("AAPL:1d")}
    assert computed(platform, keys=("AAPL:1d",), force=True).totals.rows_written == 0
    assert one(platform, LAST, "AAPL:1d").success

    platform.never_split("AAPL")
    outcome = computed(platform, keys=keys)
    assert (outcome.totals.series_computed, outcome.totals.partitions_blocked) == (1, 0)
    same(stored(platform, "AAPL:1d"), of_all_history(platform, "AAPL:1d"))


def test_a_series_without_a_bar_is_not_computed_and_its_partitions_say_why(platform: Platform) -> None:
    platform.track("SPY:1d", "QQQ:1d")
    platform.run_range(FIRST, LAST, "SPY:1d")
    weekend = date(2023, 5, 27)
    outcome = computed(platform, weekend, LAST, ("SPY:1d", "QQQ:1d"), force=True)
    assert (outcome.totals.series_computed, outcome.totals.partitions_blocked) == (
        1,
        (LAST - weekend).days + 1,
    )
    closed = shown(platform, partition_key(weekend, Series.parse("SPY:1d")))
    assert "blocked" not in closed, "a day without a session is complete"
    facts = shown(platform, partition_key(LAST, Series.parse("QQQ:1d")))
    assert facts[ROW_COUNT].value == 0
    assert "the series has no bars: fetch some with `marketdata backfill`" in str(facts["blocked"].value)
