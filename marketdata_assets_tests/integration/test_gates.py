"""Checks as gates: what they say of range runs, of single partitions and alone, and what they hold back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.checks.bars import IN_LINE, ON_GRID, judge_bars
from marketdata_assets.defs.checks.series import FRESH
from marketdata_assets.defs.checks.verdict import ALONE_DAYS, WORST
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.domain.series import Series
from marketdata_assets.pipeline.gates import BARS_AT_ONCE, NO_GAPS, VALID, failing_partitions
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.partition_windows import partition_windows_of
from marketdata_assets_tests.integration.frames import bar, frame
from marketdata_assets_tests.integration.platform import Platform, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.storage.rows import Session

MONDAY, HOLIDAY, WEDNESDAY = date(2023, 7, 3), date(2023, 7, 4), date(2023, 7, 5)
EARLIER = date(2023, 5, 22)
NOON = datetime(2023, 7, 5, 16, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def platform(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch) as running:
        yield running


def verdicts(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def facts(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def execute(platform: Platform, sql: str) -> None:
    def work(connection: Session) -> None:
        connection.execute(sql.encode())

    platform.database.transaction(work)


def blocked(platform: Platform, first: date, last: date, *keys: str) -> set[tuple[str, str, date, str]]:
    windows = partition_windows_of(platform.database, map(Series.parse, keys), first, last)
    failing = failing_partitions(platform.database, windows)
    return {
        (check, f"{symbol}:{timeframe}", day, what)
        for check, symbol, timeframe, day, what in failing.select(
            "check", "symbol", "timeframe", "day", "what"
        ).iter_rows()
    }


def run_alone(platform: Platform, check: str, asset: str = "ohlcv") -> dg.AssetCheckEvaluation:
    """What the UI's "Execute check" does."""
    definitions = build_definitions(resources={"polygon": PolygonResource(**platform.polygon)})
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey(asset), check)}
    )
    result = job.execute_in_process(instance=platform.instance, raise_on_error=False)
    [evaluation] = result.get_asset_check_evaluations()
    assert evaluation.check_name == check
    return evaluation


def run_all(platform: Platform, day: date, key: str) -> dg.ExecuteInProcessResult:
    """Both assets of one partition, and something that comes after each."""
    definitions = build_definitions(resources={"polygon": PolygonResource(**platform.polygon)})

    @dg.asset(deps=["ohlcv"])
    def after_bars() -> None: ...

    @dg.asset(deps=["gap_report"])
    def after_gaps() -> None: ...

    chosen = ["ohlcv", "gap_report", "features", "after_bars", "after_gaps"]
    merged = dg.Definitions.merge(
        definitions,
        dg.Definitions(assets=[after_bars, after_gaps], jobs=[dg.define_asset_job("all", selection=chosen)]),
    )
    return merged.resolve_job_def("all").execute_in_process(
        instance=platform.instance,
        raise_on_error=False,
        partition_key=partition_key(day, Series.parse(key)),
    )


def succeeded(result: dg.ExecuteInProcessResult) -> set[str]:
    steps = {event.step_key or "" for event in result.all_events if event.is_step_success}
    return steps - {"splits", "dividends", "earnings"}


def test_sound_bars_pass(platform: Platform) -> None:
    keys = ["AAPL:1h", "AAPL:1d", "AAPL:1w", "BTC-USD:4h", "VIX:1d"]
    platform.track(*keys)
    result = platform.run_range(date(2023, 6, 25), WEDNESDAY, *keys)
    bars = [
        int(str(event.materialization.metadata["dagster/partition_row_count"].value))
        for event in result.get_asset_materialization_events()
    ]
    found = verdicts(result)
    # It speaks of every series and of today, not of the partitions of the run.
    assert not found.pop(FRESH).blocking
    assert set(found) == {VALID, ON_GRID, IN_LINE}
    for one in found.values():
        assert one.passed, facts(one)["worst"]
        assert facts(one)["partitions"] == len(bars) == 5 * 11
        assert facts(one)["bars"] == sum(bars)
        assert facts(one)["failing_bars"] == 0
    assert found[VALID].blocking
    assert not found[ON_GRID].blocking


def test_a_poisoned_series_is_named_and_stops_nothing_else(platform: Platform) -> None:
    keys = ["AAPL:1m", "AAPL:1h", "SPY:1h"]
    platform.track(*keys)
    platform.simulator.fail(FaultKind.INVALID_BARS, ticker="AAPL", rate=0.8)
    result = platform.run_range(MONDAY, WEDNESDAY, *keys)
    valid = verdicts(result)[VALID]
    assert not valid.passed
    assert valid.severity is dg.AssetCheckSeverity.WARN
    assert (facts(valid)["partitions"], facts(valid)["failing_partitions"]) == (9, 4)
    assert facts(valid)["failing_bars"] == 0  # what broke a rule never was stored
    assert facts(valid)["quarantined"] == 2 * platform.count("ohlcv_quarantine")
    table = facts(valid)["worst"]
    assert "| AAPL:1m | 2023-07-05 | lost_to_quarantine |" in table
    assert "SPY" not in table
    assert "4 of 9 partitions fail: AAPL:1" in str(valid.description)
    expected = {(VALID, key, day, "lost_to_quarantine") for key in keys[:2] for day in (MONDAY, WEDNESDAY)}
    assert blocked(platform, MONDAY, WEDNESDAY, *keys) == expected

    platform.simulator.set_faults()
    again = verdicts(platform.run_range(MONDAY, WEDNESDAY, *keys, force=True))
    assert again[VALID].passed
    assert blocked(platform, MONDAY, WEDNESDAY, *keys) == set()


def test_a_week_is_held_back_with_its_sunday_and_no_other_day(platform: Platform) -> None:
    platform.track("SPY:1w", "BTC-USD:1w")
    execute(
        platform,
        "insert into ohlcv_quarantine (symbol, timeframe, time, rule, vendor_row) values"
        " ('SPY', '1d', '2023-06-29 04:00Z', 'volume_negative', '{}'),"
        " ('BTC-USD', '1d', '2023-07-02 00:00Z', 'volume_negative', '{}')",
    )
    sunday, next_sunday = date(2023, 6, 25), date(2023, 7, 2)
    spy, bitcoin = (
        {(VALID, key, day, "lost_to_quarantine")}
        for key, day in (("SPY:1w", sunday), ("BTC-USD:1w", next_sunday))
    )
    # The Thursday's own partition has no bar of a week.
    single = verdicts(platform.run_one(date(2023, 6, 28), "SPY:1w", ask_vendor=False))[VALID]
    assert single.passed
    assert facts(single)["quarantined"] == 0
    assert blocked(platform, date(2023, 6, 29), date(2023, 6, 29), "SPY:1w") == set()
    assert blocked(platform, sunday, sunday, "SPY:1w") == spy
    assert blocked(platform, sunday, sunday, "BTC-USD:1w") == set()
    assert blocked(platform, sunday, next_sunday, "SPY:1w", "BTC-USD:1w") == spy | bitcoin


def test_a_poisoned_partition_alone_stops_what_comes_after_it(platform: Platform) -> None:
    platform.track("AAPL:1m")
    platform.simulator.fail(FaultKind.INVALID_BARS, rate=0.8)
    result = run_all(platform, WEDNESDAY, "AAPL:1m")
    assert not result.success
    valid = verdicts(result)[VALID]
    assert (valid.passed, valid.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert {IN_LINE, ON_GRID} < set(verdicts(result))
    assert succeeded(result) == {"ohlcv", "freshness_checks"}
    assert platform.count("ohlcv") > 0
    assert len(result.asset_materializations_for_node("ohlcv")) == 1

    platform.simulator.set_faults()
    execute(platform, "delete from coverage")
    assert {"after_bars", "after_gaps"} < succeeded(run_all(platform, WEDNESDAY, "AAPL:1m"))


def test_a_gap_alone_stops_what_comes_after_the_report(platform: Platform) -> None:
    platform.track("SPY:1m")
    platform.run_range(EARLIER, HOLIDAY, "SPY:1m")
    platform.simulator.fail(FaultKind.LOST_HOURS, ticker="SPY", start=NOON, end=NOON + timedelta(hours=1))
    result = run_all(platform, WEDNESDAY, "SPY:1m")
    gaps = verdicts(result)[NO_GAPS]
    assert (gaps.passed, gaps.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert {"ohlcv", "ohlcv_checks", "freshness_checks", "gap_report", "after_bars"} == succeeded(result)
    assert facts(gaps) | {"worst": ""} == {
        "looked_at": "SPY:1m, 2023-07-05",
        "partitions": 1,
        "failing_partitions": 1,
        "failing_gaps": 1,
        "missing_bars": 60,
        "worst": "",
    }
    assert (
        "| SPY:1m | 2023-07-05 | unfilled | 60 | 2023-07-05 16:00 | until 2023-07-05 17:00: 60 minutes"
        in (facts(gaps)["worst"])
    )
    assert blocked(platform, MONDAY, WEDNESDAY, "SPY:1m") == {(NO_GAPS, "SPY:1m", WEDNESDAY, "unfilled")}


def test_a_gap_in_a_range_is_every_day_that_it_reaches_into_and_explained_ones_pass(
    platform: Platform,
) -> None:
    keys = ["DBB:1m", "SPY:1m", "SPY:1d"]
    platform.track(*keys)
    start = datetime(2023, 6, 30, 18, tzinfo=UTC)
    platform.simulator.set_faults(Fault(kind=FaultKind.LOST_HOURS, ticker="SPY", start=start, end=NOON))
    platform.run_range(EARLIER, WEDNESDAY, *keys)
    definitions = build_definitions(resources={"polygon": PolygonResource(**platform.polygon)})
    result = definitions.resolve_job_def("gaps").execute_in_process(
        instance=platform.instance,
        tags={
            "dagster/asset_partition_range_start": partition_key(EARLIER, Series.parse(keys[0])),
            "dagster/asset_partition_range_end": partition_key(WEDNESDAY, Series.parse(keys[-1])),
        },
    )
    assert result.success
    gaps = verdicts(result)[NO_GAPS]
    assert (gaps.passed, gaps.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert facts(gaps)["failing_gaps"] == 2  # those of the thin fund are explained
    assert platform.count("gap_report", "symbol = 'DBB' and state = 'no_trades'") > 0
    days = [date(2023, 6, 30), MONDAY, WEDNESDAY]
    assert blocked(platform, EARLIER, WEDNESDAY, "SPY:1m", "DBB:1m") == {
        (NO_GAPS, "SPY:1m", day, "unfilled") for day in days
    }
    # Whatever part of a gap a window holds.
    assert blocked(platform, HOLIDAY, WEDNESDAY, "SPY:1m") == {(NO_GAPS, "SPY:1m", WEDNESDAY, "unfilled")}
    assert blocked(platform, HOLIDAY, HOLIDAY, "SPY:1m") == set()


def test_bars_put_in_by_hand_are_found(platform: Platform) -> None:
    keys = ["AAPL:1m", "AAPL:1h", "AAPL:1d"]
    platform.track(*keys)
    platform.run_range(MONDAY, WEDNESDAY, *keys)
    columns = "symbol, timeframe, open, high, low, close, volume, vwap, transactions"
    rows = f"select {columns}, base_bars, time + interval"
    execute(
        platform,
        f"insert into ohlcv ({columns}, base_bars, time)"
        f" {rows} '10 seconds' from ohlcv where timeframe = '1h' and time = '{NOON}'"
        f" union all {rows} '1 day' from ohlcv where timeframe = '1d' and time::date = '{MONDAY}'"
        f" union all select {columns}, 61, '{NOON - 2 * DAY}' from ohlcv where timeframe = '1h' and time = '{NOON}'"
        f" on conflict (symbol, timeframe, time) do update set base_bars = excluded.base_bars",
    )
    execute(platform, f"update ohlcv set high = 'NaN', low = 0 where timeframe = '1m' and time = '{NOON}'")
    found = verdicts(platform.run_range(MONDAY, WEDNESDAY, *keys))
    grid = facts(found[ON_GRID])["worst"]
    assert not found[ON_GRID].passed
    assert facts(found[ON_GRID])["failing_bars"] == 3
    assert f"| AAPL:1h | {WEDNESDAY} | off_grid | 1 | 2023-07-05 16:00 |" in grid
    assert f"| AAPL:1d | {HOLIDAY} | no_session | 1 |" in grid
    assert f"| AAPL:1h | {MONDAY} | too_many_base_bars | 1 | 2023-07-03 16:00 | base_bars 61" in grid
    assert (
        "| AAPL:1m | 2023-07-05 | price_not_positive | 1 | 2023-07-05 16:00 | open "
        in (facts(found[VALID])["worst"])
    )
    assert blocked(platform, MONDAY, WEDNESDAY, *keys) == {
        (VALID, "AAPL:1m", WEDNESDAY, "price_not_positive")
    }


def test_an_outlier_warns_and_a_split_does_not(platform: Platform) -> None:
    keys = ["AAPL:1d", "MSFT:1d", "SPY:1d"]
    platform.track(*keys)
    platform.run_range(date(2023, 3, 1), WEDNESDAY, *keys)
    for symbol, factor in (("AAPL", 0.1), ("MSFT", 1.6)):
        scaled = ", ".join(f"{name} = {name} * {factor}" for name in ("open", "high", "low", "close"))
        execute(platform, f"update ohlcv set {scaled} where symbol = '{symbol}' and time >= '{WEDNESDAY}'")
    # Alone: what it is judged by lies before the partition.
    single = verdicts(platform.run_one(WEDNESDAY, "MSFT:1d"))[IN_LINE]
    assert (single.passed, single.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"| MSFT:1d | {WEDNESDAY} | jump | 1 |" in facts(single)["worst"]
    split = verdicts(platform.run_one(WEDNESDAY, "AAPL:1d"))[IN_LINE]
    assert split.passed
    assert facts(split)["split_like_bars"] == 1
    assert f"| AAPL:1d | {WEDNESDAY} | split_like | 1 |" in facts(split)["worst"]
    both = verdicts(platform.run_range(MONDAY, WEDNESDAY, *keys))[IN_LINE]
    assert (facts(both)["failing_partitions"], facts(both)["split_like_bars"]) == (1, 1)


def test_a_check_alone_looks_at_the_last_days_of_every_active_series(platform: Platform) -> None:
    platform.track("AAPL:1h", "BTC-USD:1d", "SPY:1d")
    execute(platform, "update tracked_symbols set active = false where symbol = 'SPY'")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    broken = {"high": 1.0, "low": 20.0}
    oldest, before = today - (ALONE_DAYS - 1) * DAY, today - ALONE_DAYS * DAY
    write_batch(
        platform.database,
        BarBatch(
            frame(
                bar("BTC-USD:1d", oldest, **broken),
                bar("BTC-USD:1d", before, **broken),
                bar("SPY:1d", oldest, **broken),
            )
        ),
    )
    evaluation = run_alone(platform, VALID)
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert facts(evaluation)["partitions"] == 2 * ALONE_DAYS
    assert (facts(evaluation)["bars"], facts(evaluation)["failing_bars"]) == (1, 1)
    assert f"| BTC-USD:1d | {oldest.date()} | high_below_body | 1 |" in facts(evaluation)["worst"]
    assert run_alone(platform, IN_LINE).passed
    assert run_alone(platform, NO_GAPS, "gap_report").passed


def test_a_check_with_nothing_to_look_at_passes(platform: Platform) -> None:
    assert run_alone(platform, VALID).passed
    assert run_alone(platform, NO_GAPS, "gap_report").passed


def test_the_table_ends_after_the_worst(platform: Platform) -> None:
    platform.track("BTC-USD:1d")
    start = datetime(2023, 1, 1, tzinfo=UTC)
    write_batch(
        platform.database,
        BarBatch(frame(*(bar("BTC-USD:1d", start + place * DAY, base_bars=2) for place in range(WORST + 5)))),
    )
    platform.simulator.fail(FaultKind.HISTORY_CUT, start=start + 100 * DAY)
    result = platform.run_range(start.date(), date(2023, 2, 28), "BTC-USD:1d", ask_vendor=False)
    grid = facts(verdicts(result)[ON_GRID])
    assert grid["worst"].count("too_many_base_bars") == WORST
    assert grid["worst"].endswith("\n… and 5 more.")


def test_chunks_change_nothing(platform: Platform) -> None:
    keys = ["BTC-USD:1h", "BTC-USD:1d", "AAPL:1h"]
    platform.track(*keys)
    first = date(2023, 6, 1)
    platform.run_range(first, WEDNESDAY, *keys)
    execute(platform, "update ohlcv set close = 0 where extract(day from time) in (3, 13, 23)")
    execute(platform, "update ohlcv set high = high * 9, close = close * 2 where extract(day from time) = 28")
    windows = partition_windows_of(platform.database, map(Series.parse, keys), first, WEDNESDAY)
    now = datetime(2023, 7, 6, tzinfo=UTC)
    whole, in_parts = (
        judge_bars(platform.database, windows, (VALID, ON_GRID, IN_LINE), now=now, bars_at_once=bars)
        for bars in (BARS_AT_ONCE, 60)
    )
    assert (in_parts.bars, in_parts.quarantined) == (whole.bars, whole.quarantined)
    for name, faults in whole.faults.items():
        assert in_parts.faults[name].sort(pl.all()).equals(faults.sort(pl.all())), name
    assert {name for name, faults in whole.faults.items() if faults.height} >= {VALID, IN_LINE}
    failing, again = (
        failing_partitions(platform.database, windows, bars_at_once=bars).sort("symbol", "timeframe", "day")
        for bars in (BARS_AT_ONCE, 60)
    )
    assert failing.height > 8
    assert again.equals(failing)
