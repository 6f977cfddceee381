"""Retention: what is removed, what stays, and what everything else makes of it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from marketdata_assets.definitions import build_definitions
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.gaps import report_gaps
from marketdata_assets.pipeline.gates import failing_partitions
from marketdata_assets.pipeline.retention import prunable, prune
from marketdata_assets.storage import retention
from marketdata_assets.storage.bars import BarBatch, bars_by_series, read_coverage, write_batch
from marketdata_assets.storage.completeness import read_recent, write_matrix
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.features import FeatureBatch, write_features
from marketdata_assets.storage.merge import lock_series
from marketdata_assets.storage.partition_windows import partition_windows_of
from marketdata_assets.storage.pruned import read_pruned
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets.storage.tables import FEATURES
from marketdata_assets_tests.integration.frames import bar, frame
from marketdata_assets_tests.integration.platform import (
    command_environment,
    open_platform,
    run_command,
    run_in_process,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from marketdata_assets.domain.retention import Pruned
    from marketdata_assets.storage.rows import Session

CUT = date(2024, 3, 11)
"""A Monday; the clocks in New York changed on the day before."""
NEW_YORK, UTC_DAYS = calendar_of(AssetClass.STOCK), calendar_of(AssetClass.CRYPTO)
CALENDARS = {"AAPL": NEW_YORK, "BTC-USD": UTC_DAYS}
KEEP = {Timeframe.M1: CUT}
SOON = timedelta(milliseconds=50)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        add_symbols(
            opened,
            [
                TrackedSymbol("AAPL", AssetClass.STOCK, timeframes=(Timeframe.M1, Timeframe.M5)),
                TrackedSymbol("BTC-USD", AssetClass.CRYPTO, timeframes=(Timeframe.M1, Timeframe.H1)),
            ],
        )
        yield opened


def store(database: Database, times: Mapping[str, Sequence[datetime]]) -> pl.DataFrame:
    """Bars at ``times`` of each series, with features, covered from the first to the day of the last."""
    bars = frame(*(bar(key, moment) for key, moments in times.items() for moment in moments))
    covered = {}
    for key, moments in times.items():
        series, ordered = Series.parse(key), sorted(moments)
        calendar = CALENDARS[series.symbol]
        start = calendar.day_start(calendar.local_day(ordered[0]))
        covered[series] = [Window(start, calendar.day_window(calendar.local_day(ordered[-1])).end)]
    write_batch(database, BarBatch(bars, covered=covered))
    features = bars.select("symbol", "timeframe", "time").with_columns(
        pl.lit(None if name != "gap_in_window" else False, dtype).alias(name)
        for name, dtype in FEATURES.schema.items()
        if name not in ("symbol", "timeframe", "time")
    )
    windows = {one: each[0] for one, each in covered.items()}
    write_features(database, FeatureBatch(features, windows))
    return bars


def stored(database: Database, table: str = "ohlcv") -> set[tuple[str, str, datetime]]:
    rows = database.read_frame(f"select symbol, timeframe, time from {table}")
    return set(rows.iter_rows())


def kept(bars: pl.DataFrame, before: date = CUT) -> set[tuple[str, str, datetime]]:
    """What must stay: bars of other timeframes, and those of local days from ``before`` on."""
    return {
        (symbol, timeframe, moment)
        for symbol, timeframe, moment in bars.select("symbol", "timeframe", "time").iter_rows()
        if timeframe != "1m" or CALENDARS[symbol].local_day(moment) >= before
    }


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute), UTC)


def days_of(*days: int) -> dict[str, list[datetime]]:
    """A few minutes of both symbols on days so far before the cut (negative: after it), and longer bars."""
    chosen = [CUT - timedelta(days=each) for each in days]
    return {
        "AAPL:1m": [at(day, hour, minute) for day in chosen for hour in (3, 15, 23) for minute in (0, 1)],
        "AAPL:5m": [at(day, 15) for day in chosen],
        "BTC-USD:1m": [at(day, hour) for day in chosen for hour in (0, 12, 23)],
        "BTC-USD:1h": [at(day, 12) for day in chosen],
    }


def test_old_minutes_go_with_their_features_and_nothing_else_does(database: Database) -> None:
    bars = store(database, days_of(75, 45, 12, 1, 0, -1))
    expected = kept(bars)
    foreseen = prunable(database, KEEP)
    assert len(stored(database)) == bars.height

    [done] = prune(database, KEEP)

    assert stored(database) == expected
    assert stored(database, "features") == expected
    assert done.bars == done.features == bars.height - len(expected)
    assert done.bytes_returned > 0
    assert done.bytes_reusable > 0
    assert (foreseen[0].bars, foreseen[0].features) == (done.bars, done.features)
    assert foreseen[0].bytes_returned == done.bytes_returned
    counted = dict.fromkeys(bars_by_series(database), 0)
    for symbol, timeframe, _ in expected:
        counted[Series(symbol, Timeframe(timeframe))] += 1
    assert bars_by_series(database) == counted
    assert [(one.bars, one.features) for one in prune(database, KEEP)] == [(0, 0)]


@given(
    before=st.integers(-40, 40),
    days=st.lists(st.integers(-70, 70), min_size=1, max_size=6, unique=True),
)
@example(before=-10, days=[8, 9, 10, 11, 40])  # cut where a month begins
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bar_from_the_cut_on_and_none_of_another_timeframe_ever_goes(
    database: Database, before: int, days: list[int]
) -> None:
    database.transaction(
        lambda connection: connection.execute("truncate ohlcv, features, bar_counts, coverage, pruned")
    )
    bars = store(database, days_of(*days))
    cut = CUT + timedelta(days=before)
    prune(database, {Timeframe.M1: cut})
    assert stored(database) == kept(bars, cut)
    assert sum(bars_by_series(database).values()) == len(kept(bars, cut))


def test_what_is_pruned_is_no_longer_covered_until_it_comes_back(database: Database) -> None:
    aapl = Series.parse("AAPL:1m")
    bars = store(database, days_of(75, 12, 0))
    before = read_coverage(database, ["AAPL"])
    prune(database, KEEP)
    cut = NEW_YORK.day_start(CUT)
    covered = read_coverage(database, ["AAPL"])
    assert covered[aapl] == [Window(cut, before[aapl][0].end)]
    assert covered[Series.parse("AAPL:5m")] == before[Series.parse("AAPL:5m")]
    assert read_pruned(database)[aapl] == [Window(before[aapl][0].start, cut)]
    assert Series.parse("AAPL:5m") not in read_pruned(database)

    day = NEW_YORK.day_window(CUT - timedelta(days=12))
    again = bars.filter(
        pl.col("symbol") == "AAPL", pl.col("timeframe") == "1m", pl.col("time").is_between(day.start, day.end)
    )
    assert write_batch(database, BarBatch(again)).inserted == again.height
    assert read_pruned(database)[aapl] == [
        Window(before[aapl][0].start, day.start),
        Window(day.end, cut),
    ]
    answered = NEW_YORK.day_window(CUT - timedelta(days=40))
    write_batch(database, BarBatch(BAR_SCHEMA.to_frame(), covered={aapl: [answered]}))
    assert not any(one.intersection(answered) for one in read_pruned(database)[aapl])

    [done] = prune(database, KEEP)
    assert done.bars == again.height
    assert read_pruned(database)[aapl] == [Window(before[aapl][0].start, cut)]


def test_gaps_of_pruned_days_go_and_one_that_reaches_over_the_edge_is_cut(database: Database) -> None:
    store(database, days_of(20, 0))
    friday = CUT - timedelta(days=3)
    rows = [
        ("AAPL", "1m", at(friday, 15), at(friday, 16), 60, "unfilled"),
        ("AAPL", "1m", at(friday, 18), at(CUT, 14), 180, "open"),
        ("AAPL", "5m", at(friday, 15), at(friday, 16), 12, "open"),
        ("BTC-USD", "1m", at(CUT, 5), at(CUT, 6), 60, "no_trades"),
    ]

    def write(connection: Session) -> None:
        for symbol, timeframe, start, end, bars, state in rows:
            connection.execute(
                "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts,"
                " reason) values (%s, %s, %s, %s, %s, %s, %s, 0, '')",
                [symbol, timeframe, start.date(), start, end, bars, state],
            )

    database.transaction(write)
    prune(database, KEEP)
    left = database.read_frame(
        "select symbol, timeframe, day, gap_start, gap_end, missing_bars from gap_report order by 1, 2, 4"
    )
    assert left.rows() == [
        # The clocks have changed: New York opens at 13:30 UTC.
        ("AAPL", "1m", CUT, at(CUT, 13, 30), at(CUT, 14), 30),
        ("AAPL", "5m", friday, at(friday, 15), at(friday, 16), 12),
        ("BTC-USD", "1m", CUT, at(CUT, 5), at(CUT, 6), 60),
    ]


def test_killed_between_two_transactions_it_leaves_a_whole_store(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 4)
    bars = store(database, days_of(*range(40)))
    expected = kept(bars)

    class KilledError(Exception):
        pass

    def die_at(step: int) -> None:
        done = 0

        def count(_: Pruned) -> None:
            nonlocal done
            done += 1
            if done == step:
                raise KilledError

        with pytest.raises(KilledError):
            prune(database, KEEP, on_batch=count)

    for step in (1, 2, 3):
        die_at(step)
        left = stored(database)
        assert expected <= left
        assert stored(database, "features") == left
        assert sum(bars_by_series(database).values()) == len(left)
        for one, windows in read_pruned(database).items():
            gone = [moment for symbol, name, moment in left if (symbol, name) == (one.symbol, one.timeframe)]
            assert not any(window.contains(moment.astimezone(UTC)) for window in windows for moment in gone)
            for window in windows:
                assert not any(
                    window.intersection(each) for each in read_coverage(database, [one.symbol])[one]
                )
    prune(database, KEEP)
    assert stored(database) == expected


def test_a_reader_and_a_writer_are_never_locked_out_for_long(database: Database) -> None:
    bars = store(database, days_of(75, 12, 0))
    hold = timedelta(milliseconds=200)
    with connect(database.url, application_name="reader") as reader:
        reader.execute("select count(*) from ohlcv").fetchall()  # and its transaction stays open
        with pytest.raises(MarketDataError, match="run `marketdata prune` again"):
            prune(database, KEEP, lock_timeout=SOON, patience=hold)
        assert len(stored(database)) == bars.height
        with connect(database.url, application_name="writer") as writer:
            writer.execute("set lock_timeout = '1s'")
            lock_series(writer, [Series.parse("AAPL:1m")])
    with connect(database.url, application_name="writer") as writer:
        lock_series(writer, [Series.parse("BTC-USD:1h")])
        with pytest.raises(MarketDataError, match="others hold locks"):
            prune(database, KEEP, lock_timeout=SOON, patience=hold)
    assert prune(database, KEEP)[0].bars > 0


def test_who_reads_other_months_does_not_hold_it_up(database: Database) -> None:
    bars = store(database, days_of(75, 0))
    with connect(database.url, application_name="reader") as reader:
        reader.execute(
            "select count(*) from ohlcv where timeframe = '1m' and time >= '2024-03-11'", prepare=False
        ).fetchall()
        prune(database, KEEP, lock_timeout=SOON, patience=timedelta(milliseconds=200))
    assert stored(database) == kept(bars)


def test_a_scan_for_gaps_passes_over_what_is_pruned_and_remembers_how_whole_it_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = date(2024, 2, 26), date(2024, 3, 12)
    with open_platform(database_url, monkeypatch) as platform:
        platform.track("AAPL:1m", "AAPL:5m")
        platform.run_range(first, last, "AAPL:1m", "AAPL:5m")
        series = [Series.parse("AAPL:1m"), Series.parse("AAPL:5m")]
        days = {one: [first + timedelta(days=n) for n in range((last - first).days + 1)] for one in series}

        def look() -> pl.DataFrame:
            now = datetime(2024, 3, 13, 12, tzinfo=UTC)
            report_gaps(platform.database, None, days, now=now, run_id=None)
            return platform.database.read_frame(
                "select timeframe, day, expected_bars, present_bars from completeness_daily order by 1, 2"
            )

        known = look()
        fives = platform.count("ohlcv", "timeframe = '5m'")
        platform.execute(
            "insert into ohlcv_quarantine (symbol, timeframe, time, rule, vendor_row)"
            " values ('AAPL', '1m', '2024-02-28 15:00+00', 'off_grid', '{}')"
        )
        prune(platform.database, KEEP)
        # A day of February is brought back, so that the days between are not merely before the first bar.
        platform.run_range(first, first, "AAPL:1m", force=True)
        assert platform.count("ohlcv", "timeframe = '1m' and time < '2024-02-27'") > 0

        assert look().rows() == known.rows()
        assert platform.count("gap_report") == 0
        assert platform.count("ohlcv", "timeframe = '5m'") == fives
        windows = partition_windows_of(platform.database, series, first, last)
        assert failing_partitions(platform.database, windows).is_empty()
        matrix = write_matrix(platform.database, last)
        kept_days = known.filter(
            (pl.col("day") >= CUT) | (pl.col("day") == first) | (pl.col("timeframe") == "5m")
        )
        assert matrix["expected_bars"].sum() == kept_days["expected_bars"].sum()
        assert matrix["missing_bars"].sum() == 0
        recent = read_recent(platform.database)
        assert recent is not None
        assert recent.days.height == kept_days.height


def test_old_days_that_are_asked_for_again_are_fetched_and_nothing_is_by_itself(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = date(2024, 3, 5)
    with open_platform(database_url, monkeypatch) as platform:
        platform.track("AAPL:1m", "AAPL:5m")
        platform.run_range(day, day, "AAPL:1m", "AAPL:5m")
        bars = platform.bars()
        prune(platform.database, KEEP)
        requested = platform.count("fetch_log")
        platform.run_one(day, "AAPL:5m")
        assert platform.count("fetch_log") == requested
        platform.run_one(day, "AAPL:1m")
        assert platform.count("fetch_log") == requested + 1
        assert platform.bars() == bars


def test_the_job_tells_what_it_removed_and_a_dry_run_removes_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = date(2024, 3, 5)
    with open_platform(database_url, monkeypatch) as platform:
        platform.track("AAPL:1m", "AAPL:5m")
        platform.run_range(day, day, "AAPL:1m", "AAPL:5m")
        minutes = platform.count("ohlcv", "timeframe = '1m'")
        job = build_definitions().resolve_job_def("retention")

        def run(**config: object) -> dict[str, object]:
            result = job.execute_in_process(
                instance=platform.instance, run_config={"ops": {"prune": {"config": config}}}
            )
            [output] = result.filter_events(lambda event: event.is_successful_output)
            facts = output.step_output_data.metadata
            return {name: value.value for name, value in facts.items()}

        assert run()["rows_removed"] == minutes
        assert platform.count("ohlcv", "timeframe = '1m'") == minutes
        assert run(keep_days={"5m": 36_500}, dry_run=False)["rows_removed"] == 0
        assert run(dry_run=False)["rows_removed"] == minutes
        [seen] = platform.instance.fetch_observations(dg.AssetKey("ohlcv"), limit=1).records
        assert seen.asset_observation is not None
        assert seen.asset_observation.metadata["rows_removed"].value == minutes
        assert {one for _, one, _ in stored(platform.database)} == {"5m"}


def test_the_schedule_is_off_until_somebody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def status() -> dg.DefaultScheduleStatus:
        repository = build_definitions().get_repository_def()
        return repository.get_schedule_def("weekly_retention").default_status

    assert status() is dg.DefaultScheduleStatus.STOPPED
    monkeypatch.setenv("MARKETDATA_RETENTION", "1m:30")
    assert status() is dg.DefaultScheduleStatus.RUNNING


def test_a_scheduled_run_carries_the_days_that_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETDATA_RETENTION", "1m:400,5m:800")
    schedule = build_definitions().get_repository_def().get_schedule_def("weekly_retention")
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2024, 3, 10, 4, tzinfo=UTC))
    [request] = schedule.evaluate_tick(context).run_requests or []
    assert request.run_config["ops"] == {
        "prune": {"config": {"keep_days": {"1m": 400, "5m": 800}, "dry_run": False}}
    }
    assert request.run_key == "2024-03-10T04:00Z"


# slow: commands, one of them a whole process
@pytest.mark.slow
def test_the_command_counts_first_and_then_removes(
    database: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bars = store(database, days_of(75, 12, 0))
    environment = command_environment(tmp_path, database.url)

    minutes = bars.filter(timeframe="1m").height
    dry_run = run_in_process(environment, tmp_path, capfd, "prune", "--json", "--dry-run")
    assert dry_run.returncode == 0, dry_run.stderr
    [dry] = json.loads(dry_run.stdout)
    assert (dry["timeframe"], dry["bars"], dry["dry_run"]) == ("1m", minutes, True)
    assert len(stored(database)) == bars.height
    ended = run_command(environment, tmp_path, "prune", "--json", "--older-than", "30")
    assert ended.returncode == 0, ended.stderr
    [done] = json.loads(ended.stdout)
    assert done["bars"] == done["features"] == minutes
    assert {one for _, one, _ in stored(database)} == {"5m", "1h"}

    for arguments, said in (
        (["--timeframes", "1h"], "1h bars are kept forever"),
        (["--older-than", "3"], "give 14 or more"),
    ):
        refused = run_in_process(environment, tmp_path, capfd, "prune", *arguments)
        assert refused.returncode == 2
        assert said in refused.stderr
