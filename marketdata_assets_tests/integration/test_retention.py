"""Retention: what is removed, what stays, and what everything else makes of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage import retention
from marketdata_assets.storage.bars import BarBatch, bars_by_series, read_coverage, write_batch
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.features import FeatureBatch, write_features
from marketdata_assets.storage.merge import lock_series
from marketdata_assets.storage.pruned import read_pruned
from marketdata_assets.storage.retention import Pruned, prunable, prune
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets.storage.tables import FEATURES
from marketdata_assets_tests.integration.frames import bar, frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


def store(database: Database, times: dict[str, Iterable[datetime]]) -> pl.DataFrame:
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
        pl.lit(None if name != "gap_in_window" else False, dtype).alias(name)  # noqa: FBT003 - a value
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
    counted = {one: 0 for one in bars_by_series(database)}
    for symbol, timeframe, _ in expected:
        counted[Series(symbol, Timeframe(timeframe))] += 1
    assert bars_by_series(database) == counted
    assert [(one.bars, one.features) for one in prune(database, KEEP)] == [(0, 0)]


@given(
    before=st.integers(-40, 40),
    days=st.lists(st.integers(-70, 70), min_size=1, max_size=6, unique=True),
)
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

    def write(connection: psycopg.Connection[tuple[object, ...]]) -> None:
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
    steps = 0

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

    for _ in range(3):
        steps += 1
        die_at(steps)
        left = stored(database)
        assert expected <= left
        assert stored(database, "features") == left
        assert sum(bars_by_series(database).values()) == len(left)
        for one, windows in read_pruned(database).items():
            gone = [moment for symbol, name, moment in left if (symbol, name) == (one.symbol, one.timeframe)]
            assert not any(window.contains(moment.astimezone(UTC)) for window in windows for moment in gone)
            for window in windows:
                assert not any(window.intersection(each) for each in read_coverage(database, [one.symbol])[one])
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
