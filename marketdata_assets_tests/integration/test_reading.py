"""Bars as users read them from Python, and as the view of adjusted bars shows them."""

from __future__ import annotations

import json
import pickle
import threading
import warnings
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata_assets import IncompleteHistoryWarning, bars, completeness, features, gaps, queries
from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.runs.actions import refresh_actions
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.adjust import SplitError
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe, parse_timeframes
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.actions import store_actions
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.integration.frames import bar, frame, run_of
from marketdata_assets_tests.integration.platform import open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

XNYS = calendar_of(AssetClass.STOCK)
MONDAY = date(2024, 6, 10)


@pytest.fixture(autouse=True)
def _store(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    yield
    queries._close_all()


def track(
    database: Database, symbol: str, timeframes: str, asset_class: AssetClass = AssetClass.STOCK
) -> None:
    add_symbols(database, [TrackedSymbol(symbol, asset_class, timeframes=parse_timeframes(timeframes))])


def write(database: Database, stored: pl.DataFrame) -> None:
    write_batch(database, BarBatch(stored))


def split(database: Database, symbol: str, *found: tuple[date, float, float]) -> None:
    """Make ``found`` all the splits of ``symbol``."""
    rows = [
        {"symbol": symbol, "execution_date": day, "split_from": before, "split_to": after}
        for day, before, after in found
    ]
    listed = pl.DataFrame(rows, schema=SCHEMAS[ActionKind.SPLITS])
    store_actions(database, ActionKind.SPLITS, listed, symbols=[symbol], endpoint="/", today=date(2024, 7, 1))


def days_of(symbol: str, first: date, last: date) -> pl.DataFrame:
    """A rising bar a session, with the columns that a split scales all different."""
    return frame(
        *(
            bar(
                f"{symbol}:1d",
                XNYS.day_start(day),
                open=100.0 + place,
                high=105.0 + place,
                low=95.0 + place,
                close=101.0 + place,
                volume=1000.0 + place,
                vwap=100.5 + place,
            )
            for place, day in enumerate(XNYS.sessions(first, last))
        )
    )


def view(database: Database, symbol: str, timeframe: str) -> pl.DataFrame:
    return database.read_frame(
        "select * from ohlcv_adjusted where symbol = $1 and timeframe = $2 order by time", [symbol, timeframe]
    )


def same_as_view(database: Database, read: pl.DataFrame, symbol: str, timeframe: str) -> None:
    shown = view(database, symbol, timeframe).select(read.columns).cast(BAR_SCHEMA)
    assert_frame_equal(read, shown, rel_tol=1e-9, abs_tol=0)


def test_apple_across_four_splits(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, realdata: Path
) -> None:
    expected: dict[str, Any] = json.loads((realdata / "expected" / "A05_aapl_splits.json").read_text())[
        "expected"
    ]
    track(database, "AAPL", "1d,1w")
    days = (
        pl.read_parquet(realdata / "data" / "lean_aapl_1d.parquet")
        .rename({"ts": "time"})
        .with_columns(
            pl.lit("AAPL").alias("symbol"),
            pl.lit("1d").alias("timeframe"),
            pl.col("time").cast(BAR_SCHEMA["time"]),
            pl.col("close").alias("vwap"),
            pl.lit(1).alias("transactions"),
            pl.lit(1).alias("base_bars"),
        )
        .select(BAR_SCHEMA.names())
        .cast(BAR_SCHEMA)
        .sort("time")
    )
    write(database, pl.concat([days, roll_up(days, Timeframe.W1, XNYS)]))
    with open_platform(database_url, monkeypatch, replay=realdata / "data") as platform:
        definitions = build_definitions(resources={"polygon": PolygonResource(**platform.polygon)})
        refresh_actions(Runner(definitions, platform.instance))

    first, last = date(1998, 1, 1), date(2021, 3, 31)
    adjusted = bars("AAPL", "1d", first, last)
    assert adjusted.height == expected["rows"]
    local = pl.col("time").dt.convert_time_zone("America/New_York").dt.date().cast(pl.String)
    by_day = {row["day"]: row for row in adjusted.with_columns(day=local).iter_rows(named=True)}
    for day, values in expected["split_adjusted"].items():
        # The file has eight decimals.
        assert {name: by_day[day][name] for name in values} == pytest.approx(values, rel=1e-9, abs=5e-9), day
    assert by_day["2014-06-06"]["close"] == pytest.approx(23.05607143, abs=5e-9)
    fall = by_day["2000-09-29"]["close"] / by_day["2000-09-28"]["close"] - 1
    assert fall == pytest.approx(-0.516, abs=5e-4)
    same_as_view(database, adjusted, "AAPL", "1d")

    past = bars("AAPL", "1d", date(2014, 6, 6), date(2014, 6, 9), as_of=date(2018, 1, 19))
    assert past["close"].to_list() == pytest.approx(
        list(expected["split_adjusted_as_of_2018_01_19"].values()), rel=1e-9
    )
    raw = bars("AAPL", "1d", date(2014, 6, 6), date(2014, 6, 6), adjusted=False)
    assert raw["close"].to_list() == [expected["raw"]["2014-06-06"]["close"]]

    # 2000-06-21 was a Wednesday: its week is made anew of its days.
    weeks = bars("AAPL", "1w", date(1997, 12, 28), last)
    assert_frame_equal(weeks, roll_up(adjusted, Timeframe.W1, XNYS), rel_tol=1e-9, abs_tol=0)
    same_as_view(database, weeks, "AAPL", "1w")
    factors = view(database, "AAPL", "1w").filter(pl.col("split_factor").is_null())
    assert [XNYS.local_day(opened) for opened in factors["time"]] == [date(2000, 6, 18)]


def test_the_view_and_the_function_agree_around_splits_and_changes_of_the_clock(database: Database) -> None:
    track(database, "KO", "1d,1w")
    days = days_of("KO", date(2024, 3, 3), date(2024, 11, 29))
    write(database, pl.concat([days, roll_up(days, Timeframe.W1, XNYS)]))
    # A Sunday on which the clocks change, a Monday, a Tuesday after a holiday, mid-week, a Friday, a Saturday.
    executed = ["2024-03-10", "2024-06-10", "2024-05-28", "2024-07-17", "2024-08-16", "2024-11-09"]
    split(database, "KO", *((date.fromisoformat(day), 2.0, 3.0 + n) for n, day in enumerate(executed)))
    for timeframe in ("1d", "1w"):
        read = bars("KO", timeframe, date(2024, 3, 1), date(2024, 11, 30))
        same_as_view(database, read, "KO", timeframe)
    assert read["base_bars"].sum() == days.height


def test_a_split_that_is_announced_or_withdrawn_changes_nothing(database: Database) -> None:
    track(database, "KO", "1d")
    write(database, days_of("KO", MONDAY, MONDAY))
    raw = bars("KO", "1d", MONDAY, MONDAY, adjusted=False)
    split(database, "KO", (date(2999, 1, 4), 1.0, 2.0), (date(2024, 6, 20), 1.0, 4.0))
    assert (bars("KO", "1d", MONDAY, MONDAY)["close"] * 4).to_list() == raw["close"].to_list()
    assert (bars("KO", "1d", MONDAY, MONDAY, as_of=date(2999, 1, 4))["close"] * 8).to_list() == raw[
        "close"
    ].to_list()
    split(database, "KO", (date(2999, 1, 4), 1.0, 2.0))
    assert bars("KO", "1d", MONDAY, MONDAY).equals(raw)
    assert view(database, "KO", "1d")["split_factor"].to_list() == [1.0]


def test_a_week_whose_days_are_not_stored_is_refused_or_null(database: Database) -> None:
    track(database, "KO", "1w")
    days = days_of("KO", date(2024, 6, 3), date(2024, 6, 14))
    write(database, roll_up(days, Timeframe.W1, XNYS))
    split(database, "KO", (date(2024, 6, 12), 1.0, 2.0))
    with pytest.raises(SplitError, match="collect KO in 1d"):
        bars("KO", "1w", date(2024, 6, 1), date(2024, 6, 30))
    before, divided = view(database, "KO", "1w").to_dicts()
    assert before["split_factor"] == 0.5
    assert (divided["close"], divided["split_factor"]) == (None, None)


@pytest.fixture
def minutes(database: Database) -> pl.DataFrame:
    """Minutes of AAPL around midnight in New York and in Greenwich, stored."""
    track(database, "AAPL", "1m,1h")
    stored = run_of("AAPL:1m", 60 * 30, start=datetime(2024, 6, 10, 22, tzinfo=UTC))
    write(database, stored)
    split(database, "AAPL")
    return stored


def edges(read: pl.DataFrame) -> tuple[datetime, datetime]:
    return read["time"][0], read["time"][-1]


def test_dates_are_local_days_both_inclusive(minutes: pl.DataFrame) -> None:
    read = bars("AAPL", "1m", date(2024, 6, 11), date(2024, 6, 11))
    midnight = datetime(2024, 6, 11, 4, tzinfo=UTC)
    assert edges(read) == (midnight, midnight + timedelta(days=1, minutes=-1))
    assert read.schema == BAR_SCHEMA
    assert bars("aapl", Timeframe.M1, "2024-06-11", "2024-06-11").equals(read)


def test_moments_are_half_open_in_any_zone(minutes: pl.DataFrame) -> None:
    start, end = datetime(2024, 6, 11, 14, tzinfo=UTC), datetime(2024, 6, 11, 15, tzinfo=UTC)
    read = bars("AAPL", "1m", start, end)
    assert read.height == 60
    assert edges(read) == (start, end - timedelta(minutes=1))
    assert bars("AAPL", "1m", start.astimezone(XNYS.timezone), end).equals(read)
    assert bars("AAPL", "1m", "2024-06-11T10:00:00-04:00", "2024-06-11T15:00:00Z").equals(read)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("MSFT", "1m", MONDAY, MONDAY), "MSFT is not tracked"),
        (("A B", "1m", MONDAY, MONDAY), "is not a symbol"),
        (("AAPL", "2h", MONDAY, MONDAY), "unknown timeframe '2h'"),
        (("AAPL", "4h", MONDAY, MONDAY), "AAPL:4h is not collected: AAPL is tracked in 1m, 1h"),
        (("AAPL", "1m", datetime(2024, 6, 10), MONDAY), "start 2024-06-10 00:00:00 has no time zone"),  # noqa: DTZ001 - the point
        (("AAPL", "1m", "2024-06-10T10:00", MONDAY), "has no time zone"),
        (("AAPL", "1m", "yesterday", MONDAY), "start 'yesterday' is not a date or time"),
        (("AAPL", "1m", MONDAY, MONDAY - timedelta(days=1)), "empty or reversed"),
        (("AAPL", "1m", date.max, date.max), "lies outside of 1900 to 2199"),
        (("AAPL", "1M", MONDAY, MONDAY), "unknown timeframe '1M'"),
        (("AAPL", "1m", np.datetime64("NaT"), MONDAY), "start is NaT, which is not a time"),
        (("AAPL", "1m", pd.NaT, MONDAY), "start is NaT, which is not a time"),
        (("AAPL", "1m", np.datetime64("2024-06-10T09:30"), MONDAY), "has no time zone"),
        (("AAPL", "1m", pd.Timestamp("2024-06-10 09:30"), MONDAY), "has no time zone"),
        (
            ("AAPL", "1m", MONDAY, 20240610),
            "end must be a date, an aware datetime or a string such as '2024-01-02', not 2024",
        ),
        ((None, "1m", MONDAY, MONDAY), "symbol must be a string such as 'AAPL', not None"),
        ((["AAPL"], "1m", MONDAY, MONDAY), "symbol must be a string such as 'AAPL', not ['AAPL']"),
        (("AAPL", 60, MONDAY, MONDAY), "timeframe must be one of 1m, 5m"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    minutes: pl.DataFrame, arguments: tuple[Any, Any, Any, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bars(*arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    # The next call is none the worse for it.
    assert bars("AAPL", "1m", MONDAY, MONDAY).height == 6 * 60


def test_days_are_given_as_other_libraries_have_them(minutes: pl.DataFrame) -> None:
    tuesday = bars("AAPL", "1m", date(2024, 6, 11), date(2024, 6, 11))
    for day in (
        np.datetime64("2024-06-11"),
        np.datetime64("2024-06-11T00:00", "ns"),
        pd.Timestamp("2024-06-11"),
    ):
        assert bars("AAPL", "1min", day, day).equals(tuesday)
    start, end = (pd.Timestamp(f"2024-06-11 {hour}:00", tz="America/New_York") for hour in (10, 11))
    hour = bars("AAPL", Timeframe.M1, start, end)
    assert edges(hour) == (datetime(2024, 6, 11, 14, tzinfo=UTC), datetime(2024, 6, 11, 14, 59, tzinfo=UTC))
    assert bars("AAPL", "1m", days=1, end="2024-06-11").equals(tuesday)
    later = minutes.filter(pl.col("time") >= tuesday["time"][0])
    with pytest.warns(IncompleteHistoryWarning, match="from 2024-06-12 to"):
        assert bars("AAPL", "1m").equals(minutes)
    with pytest.warns(IncompleteHistoryWarning, match="from 2024-06-12 to"):
        assert bars("AAPL", "1m", "2024-06-11").equals(later)
    for wrong in ({"days": 0}, {"days": True}, {"days": 2, "start": MONDAY}, {"days": 2, "end": end}):
        with pytest.raises(ConfigurationError, match="days"):
            bars("AAPL", "1m", **wrong)


def test_regular_hours_follow_the_calendar(database: Database) -> None:
    track(database, "AAPL", "1m,1h,1d")
    # A half day, and the Sunday after it, on which there is no session.
    friday, sunday = datetime(2024, 11, 29, 9, tzinfo=UTC), datetime(2024, 12, 1, 15, tzinfo=UTC)
    write(database, run_of("AAPL:1m", 60 * 12, start=friday))
    write(database, run_of("AAPL:1m", 3, start=sunday))
    write(database, run_of("AAPL:1h", 12, start=friday, step=timedelta(hours=1)))
    split(database, "AAPL")
    regular = bars("AAPL", "1m", "2024-11-29", "2024-12-01", regular_hours=True)
    assert edges(regular) == (
        datetime(2024, 11, 29, 14, 30, tzinfo=UTC),
        datetime(2024, 11, 29, 17, 59, tzinfo=UTC),
    )
    assert regular.height == 210
    # The hour of 09:00 in New York touches the session.
    hours = bars("AAPL", "1h", "2024-11-29", "2024-11-29", regular_hours=True)
    assert [time.hour for time in hours["time"]] == [14, 15, 16, 17]
    with pytest.warns(IncompleteHistoryWarning, match="from 2024-12-02 to"):
        assert bars("AAPL", "1m", regular_hours=True).equals(regular)
    track(database, "BTC-USD", "1h", AssetClass.CRYPTO)
    for name, timeframe in (("AAPL", "1d"), ("BTC-USD", "1h")):
        with pytest.raises(ConfigurationError, match="regular hours choose"):
            bars(name, timeframe, days=1, regular_hours=True)


def test_days_that_were_never_fetched_are_reported_with_the_command_that_fetches_them(
    database: Database,
) -> None:
    track(database, "KO", "1d,1m")
    write(database, days_of("KO", MONDAY, MONDAY))
    split(database, "KO")
    with pytest.warns(IncompleteHistoryWarning) as caught:
        read = bars("KO", "1d", "2024-06-07", "2024-06-12")
    assert read.height == 1
    assert str(caught[0].message) == (
        "KO:1d: 3 sessions from 2024-06-07 to 2024-06-12 were never fetched: `marketdata backfill --symbols KO"
        " --timeframes 1d --start 2024-06-07 --end 2024-06-12`"
    )
    assert caught[0].filename == __file__
    # A pool's worker sends its warnings on.
    assert str(pickle.loads(pickle.dumps(caught[0].message))) == str(caught[0].message)  # noqa: S301 - our own
    with pytest.warns(IncompleteHistoryWarning, match="never fetched"):
        assert bars("KO", "1m", "2024-06-10", "2024-06-10").is_empty()
    # An answer without bars, and a weekend, are no holes.
    window = Window(XNYS.day_start(date(2024, 6, 7)), XNYS.day_start(date(2024, 6, 13)))
    write_batch(database, BarBatch(BAR_SCHEMA.to_frame(), covered={Series("KO", Timeframe.D1): [window]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bars("KO", "1d", "2024-06-07", "2024-06-12")
        assert bars("KO", "1m", "2024-06-08", "2024-06-09").is_empty()
    # Without an end it reaches to today, which a series that ended does not.
    with pytest.warns(IncompleteHistoryWarning, match="from 2024-06-13 to"):
        assert bars("KO", "1d").equals(read)


def test_lost_gaps_and_removed_days_are_reported(database: Database, minutes: pl.DataFrame) -> None:
    database.transaction(
        lambda session: session.execute(
            "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
            " values ('AAPL', '1m', '2024-06-11', '2024-06-11 15:00Z', '2024-06-11 15:30Z', 30, 'unfilled', 2, ''),"
            " ('AAPL', '1m', '2024-06-11', '2024-06-11 16:00Z', '2024-06-11 16:30Z', 30, 'no_trades', 2, '')"
        )
    )
    with pytest.warns(
        IncompleteHistoryWarning, match=r"30 bars on 2024-06-11 are lost in 1 gap: `marketdata gaps"
    ):
        bars("AAPL", "1m", "2024-06-11", "2024-06-11")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bars("AAPL", "1m", "2024-06-11T16:00:00Z", "2024-06-11T17:00:00Z")
    database.transaction(
        lambda session: session.execute(
            "insert into pruned (symbol, timeframe, pruned) values"
            " ('AAPL', '1m', '{[2024-05-01 04:00Z, 2024-06-01 04:00Z)}')"
        )
    )
    with pytest.warns(IncompleteHistoryWarning, match="1 session on 2024-05-28 was removed by retention"):
        bars("AAPL", "1m", "2024-05-28", "2024-05-28")
    with pytest.warns(IncompleteHistoryWarning, match="never fetched"):
        features("AAPL", "1m", "2024-06-12", "2024-06-13")


def test_as_of_is_a_date_and_for_adjusted_bars_alone(minutes: pl.DataFrame) -> None:
    with pytest.raises(ConfigurationError, match="adjusted=False"):
        bars("AAPL", "1m", MONDAY, MONDAY, adjusted=False, as_of=MONDAY)
    with pytest.raises(ConfigurationError, match="as_of must be a date"):
        bars("AAPL", "1m", MONDAY, MONDAY, as_of=datetime(2024, 6, 10, tzinfo=UTC))
    with pytest.raises(ConfigurationError, match="as_of '2024-6-1' is not a date: write YYYY-MM-DD"):
        bars("AAPL", "1m", MONDAY, MONDAY, as_of="2024-6-1")
    with pytest.raises(ConfigurationError, match=r"as_of must be a date or a string .* not 20240610"):
        bars("AAPL", "1m", MONDAY, MONDAY, as_of=20240610)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="adjusted must be True or False, not 'no'"):
        bars("AAPL", "1m", MONDAY, MONDAY, adjusted="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeframe", ["1m", "1w"])
def test_a_range_without_bounds_and_a_scale_of_any_day(database: Database, timeframe: str) -> None:
    track(database, "AAPL", timeframe)
    sunday = datetime(2024, 6, 9, 4, tzinfo=UTC)
    write(database, run_of(f"AAPL:{timeframe}", 3, start=sunday))
    split(database, "AAPL", (date(2024, 7, 1), 1.0, 2.0))
    every = bars("AAPL", timeframe, date.min, date.max)
    assert every.height == 3
    assert bars("AAPL", timeframe, datetime.min.replace(tzinfo=UTC), "9999-12-31T23:59:59-12:00").equals(
        every
    )
    assert bars("AAPL", timeframe, MONDAY - timedelta(days=1), date.max).equals(every)
    assert bars("AAPL", timeframe, date.min, date.max, as_of=date.max).equals(every)
    raw = bars("AAPL", timeframe, date.min, date.max, adjusted=False)
    assert bars("AAPL", timeframe, date.min, date.max, as_of=date.min).equals(raw)
    assert bars("AAPL", timeframe, date.min, date.max, as_of="2024-07-01").equals(every)
    assert not raw.equals(every)


def test_nothing_is_called_adjusted_whose_splits_nobody_asked_for(database: Database) -> None:
    track(database, "KO", "1d")
    write(database, days_of("KO", MONDAY, MONDAY))
    with pytest.raises(ConfigurationError, match=r"splits of KO were never fetched.*marketdata actions"):
        bars("KO", "1d", MONDAY, MONDAY)
    assert bars("KO", "1d", MONDAY, MONDAY, adjusted=False).height == 1


def test_crypto_needs_no_splits(database: Database) -> None:
    track(database, "BTC-USD", "1h", AssetClass.CRYPTO)
    stored = run_of("BTC-USD:1h", 48, start=datetime(2024, 6, 10, tzinfo=UTC))
    write(database, stored)
    read = bars("BTC-USD", "1h", MONDAY, MONDAY)
    assert read.equals(stored.head(24))


def connections(database: Database) -> list[int]:
    found = database.read_frame(
        "select pid from pg_stat_activity where application_name = 'bars' and datname = current_database()"
    )
    return sorted(found["pid"].to_list())


def test_the_connection_is_kept_shared_by_threads_and_replaced_when_lost(
    database: Database, minutes: pl.DataFrame
) -> None:
    read: list[int] = []

    def work() -> None:
        read.append(bars("AAPL", "1m", MONDAY, MONDAY).height)

    work()
    kept = connections(database)
    assert len(kept) == 2  # one for transactions, one for columns
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ConfigurationError):
        bars("NOPE", "1m", MONDAY, MONDAY)
    assert connections(database) == kept
    assert read == [360] * 5

    database.read_frame(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'bars'"
    )
    work()
    assert read == [360] * 6
    assert not set(connections(database)) & set(kept)


def test_another_database_can_be_named(
    database_url: str, minutes: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert bars("AAPL", "1m", MONDAY, MONDAY, database_url=database_url).height == 360
    with pytest.raises(ConfigurationError, match=r"database_url must be a string such as .*, not a int"):
        bars("AAPL", "1m", MONDAY, MONDAY, database_url=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cannot connect"):
        bars("AAPL", "1m", MONDAY, MONDAY)


def test_a_store_of_an_earlier_version_is_told_to_migrate(database: Database, minutes: pl.DataFrame) -> None:
    database.transaction(lambda connection: connection.execute("drop table corporate_action_checks"))
    with pytest.raises(ConfigurationError, match="marketdata migrate"):
        bars("AAPL", "1m", MONDAY, MONDAY)


def test_one_name_is_a_list_of_one(database: Database) -> None:
    track(database, "AAPL", "1m,1h")
    track(database, "A", "1m,1h")
    assert completeness("AAPL", "1h").select("symbol", "timeframe").rows() == [("AAPL", "1h")]
    assert gaps("AAPL", "1h", states="open").is_empty()
    assert gaps("AAPL", "1h", states=[]).is_empty()
    with pytest.raises(
        ConfigurationError, match="symbols must be a list of strings, a string, or None, not 5"
    ):
        gaps(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="timeframes must be a list of strings"):
        completeness(timeframes=[None])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="symbol must be a string such as 'AAPL', not None"):
        features(None, "1m", MONDAY, MONDAY)  # type: ignore[arg-type]
