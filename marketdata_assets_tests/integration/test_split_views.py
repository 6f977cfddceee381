"""Splits in SQL and in Python: the same answer, dates that every driver reads, and stores of the schema before."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import polars as pl
import psycopg
import pytest
from adbc_driver_postgresql import dbapi
from polars.testing import assert_frame_equal
from psycopg import sql
from psycopg2 import connect as connect_psycopg2  # type: ignore[import-untyped]

from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.adjust import SplitError
from marketdata_assets.domain.gates import find_outlying
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.adjusted import adjust_as_far_as_known
from marketdata_assets.pipeline.features import FeatureReport, plan_features
from marketdata_assets.pipeline.features import compute as compute_features
from marketdata_assets.queries import bars
from marketdata_assets.storage.actions import read_actions, store_actions
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.features import read_stale, write_features
from marketdata_assets.storage.migrations import load_migrations, migrate
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.unit.domain.features.walks import XNYS, slots_of, walk

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

FIRST, LAST = date(2018, 1, 2), date(2018, 5, 31)
FRIDAY = date(2018, 3, 16)
SUNDAY = "2018-03-11"
TODAY = date(2024, 7, 1)


def daily(symbol: str = "AFL", timeframe: Timeframe = Timeframe.D1) -> pl.DataFrame:
    series = Series(symbol, timeframe)
    rows = walk(series, slots_of(series, FIRST, LAST).opens)
    return rows.with_columns(base_bars=pl.lit(1, pl.Int32), transactions=pl.lit(7, pl.Int64))


def store(database: Database, before: float, after: float, symbol: str = "AFL") -> None:
    rows = pl.DataFrame(
        {"symbol": [symbol], "execution_date": [FRIDAY], "split_from": [before], "split_to": [after]}
    )
    schema = SCHEMAS[ActionKind.SPLITS]
    listed = pl.concat([schema.to_frame(), rows], how="diagonal").cast(schema)
    store_actions(database, ActionKind.SPLITS, listed, symbols=[symbol], endpoint="a test", today=TODAY)


def view(database: Database, timeframe: str) -> pl.DataFrame:
    return database.read_frame(
        "select symbol, timeframe, time, open, high, low, close, volume, vwap, split_factor from ohlcv_adjusted"
        f" where timeframe = '{timeframe}' order by time"
    )


@pytest.mark.parametrize("shares", [1.0, 2.0])
def test_a_split_into_as_many_shares_changes_nothing_anywhere(database: Database, shares: float) -> None:
    add_symbols(database, [TrackedSymbol("AFL", AssetClass.STOCK)])
    weeks = roll_up(daily(), Timeframe.W1, XNYS)
    hours = daily(timeframe=Timeframe.H4)
    write_batch(database, BarBatch(pl.concat([weeks, hours.select(weeks.columns)])))
    database.transaction(lambda connection: connection.execute("delete from features_stale"))
    store(database, shares, shares)
    assert read_stale(database) == {}
    assert database.read_frame("select count(*) as n from split_factors").item() == 0
    for timeframe in ("1w", "4h"):
        raw, read = (
            bars("AFL", timeframe, FIRST, LAST, adjusted=adjusted, database_url=database.url)
            for adjusted in (False, True)
        )
        assert raw.height > 0
        assert_frame_equal(read, raw)
        found = view(database, timeframe)
        assert found["split_factor"].unique().to_list() == [1.0]
        assert found["close"].to_list()[-raw.height :] == raw["close"].to_list()
    # The same ratio in other numbers is no change, and another ratio is one.
    store(database, 1.0, 2.0)
    assert read_stale(database)
    database.transaction(lambda connection: connection.execute("delete from features_stale"))
    store(database, 2.0, 4.0)
    assert read_stale(database) == {}


def test_a_real_split_in_a_week_without_days_refuses_that_week_alone(database: Database) -> None:
    add_symbols(database, [TrackedSymbol("AFL", AssetClass.STOCK)])
    weeks = roll_up(daily(), Timeframe.W1, XNYS)
    write_batch(database, BarBatch(weeks))
    store(database, 1.0, 2.0)
    raw = bars("AFL", "1w", FIRST, LAST, adjusted=False, database_url=database.url)
    assert raw.height == weeks.height - 1  # the first one opens before FIRST
    with pytest.raises(SplitError, match=f"within the week of {SUNDAY}.*read the weeks before and after"):
        bars("AFL", "1w", FIRST, LAST, database_url=database.url)
    parts = [
        bars("AFL", "1w", *window, database_url=database.url)
        for window in ((FIRST, date(2018, 3, 10)), (date(2018, 3, 12), LAST))
    ]
    known = view(database, "1w").filter(pl.col("split_factor").is_not_null()).tail(raw.height - 1)
    assert_frame_equal(pl.concat(parts)["close"].to_frame(), known["close"].to_frame())


def test_a_divided_week_without_days_has_no_features_and_every_other_has(database: Database) -> None:
    add_symbols(database, [TrackedSymbol("AFL", AssetClass.STOCK)])
    days = daily()
    write_batch(database, BarBatch(roll_up(days, Timeframe.W1, XNYS)))
    store(database, 1.0, 20.0)
    weeks = Series("AFL", Timeframe.W1)
    sundays = pl.date_range(date(2017, 12, 31), LAST, "1w", eager=True).to_list()
    keys = [str(partition_key(day, weeks)) for day in sundays]

    def compute() -> FeatureReport:
        now = datetime(2024, 7, 1, tzinfo=UTC)
        report = FeatureReport(plan_features(database, keys, now=now, earliest=sundays[0], force=False))
        for batch in compute_features(database, report.plan, report):
            write_features(database, batch)
        return report

    report = compute()
    assert list(report.blocked) == [str(partition_key(date.fromisoformat(SUNDAY), weeks))]
    assert "split within the week of 2018-03-11" in report.blocked[keys[10]]
    stale = read_stale(database)[weeks]
    assert (stale.since.date(), "collect AFL in 1d" in stale.reason) == (date.fromisoformat(SUNDAY), True)
    found = database.read_frame("select time, simple_return, gap_in_window from features order by time")
    assert found.height == len(sundays) - 1
    after = found.filter("gap_in_window").row(0, named=True)
    assert (after["time"].date(), after["simple_return"]) == (date(2018, 3, 18), None)
    # With its days the week has features, and the mark goes.
    write_batch(database, BarBatch(days))
    assert compute().blocked == {}
    assert weeks not in read_stale(database)
    assert database.read_frame("select count(*) as n from features").item() == len(sundays)


@pytest.mark.parametrize("with_days", [True, False])
def test_a_listed_split_is_out_of_line_in_no_timeframe(database: Database, with_days: bool) -> None:  # noqa: FBT001
    add_symbols(database, [TrackedSymbol("AFL", AssetClass.STOCK)])
    even = daily().with_columns(volume=pl.lit(1e6))
    scale = pl.when(pl.col("time") >= XNYS.day_start(FRIDAY)).then(20.0).otherwise(1.0)
    days = even.with_columns(pl.col("open", "high", "low", "close", "vwap") / scale, pl.col("volume") * scale)
    weeks = roll_up(days, Timeframe.W1, XNYS)
    write_batch(database, BarBatch(pl.concat([weeks, days.select(weeks.columns)]) if with_days else weeks))
    ever = Window(XNYS.day_start(date(2017, 12, 1)), XNYS.day_start(date(2018, 7, 1)))

    def faults(raw: pl.DataFrame) -> set[str]:
        timeframe = Timeframe(raw["timeframe"][0])
        known, _ = adjust_as_far_as_known(database, raw, AssetClass.STOCK, as_of=TODAY)
        return set(
            find_outlying(known, {Series("AFL", timeframe): ever}, timeframe, AssetClass.STOCK)["what"]
        )

    assert "range" in faults(weeks)
    assert "volume_high" in faults(days)
    store(database, 1.0, 20.0)
    assert faults(weeks) == faults(days) == set()


def test_a_split_of_what_never_splits_changes_nothing_in_sql_either(database: Database) -> None:
    add_symbols(database, [TrackedSymbol("VIX", AssetClass.INDEX)])
    write_batch(database, BarBatch(daily("VIX").with_columns(volume=None, vwap=None, transactions=None)))
    store(database, 1.0, 2.0, "VIX")
    assert view(database, "1d")["split_factor"].unique().to_list() == [1.0]


def test_every_table_and_view_is_read_by_every_driver_and_no_date_is_of_another_age(
    database: Database,
) -> None:
    add_symbols(database, [TrackedSymbol("AFL", AssetClass.STOCK)])
    write_batch(database, BarBatch(daily()))
    store(database, 1.0, 2.0)
    database.transaction(
        lambda connection: connection.execute(
            "insert into rate_limit (bucket, grants, position, paced_until) values ('a', '{epoch}', 1, 'epoch')"
        )
    )
    with psycopg.connect(database.url) as connection, dbapi.connect(database.url) as arrow:
        names = connection.execute(
            "select table_name::text from information_schema.tables where table_schema = 'public' order by 1"
        ).fetchall()
        assert len(names) > 25
        for (name,) in names:
            query = sql.SQL("select * from {}").format(sql.Identifier(name)).as_string(None)
            connection.execute(query.encode()).fetchall()
            with arrow.cursor() as cursor:
                cursor.execute(query)
                frame = cursor.fetch_arrow_table().to_pandas(timestamp_as_object=False)
            with connect_psycopg2(database.url) as other, other.cursor() as plain:
                plain.execute(query)
                plain.fetchall()
            for column in frame.select_dtypes(["datetimetz", "datetime"]):
                years = frame[column].dropna().dt.year
                assert years.between(1900, 2200).all(), (name, column)
    since = database.read_frame("select since, price_factor from split_factors")
    assert since.rows() == [(None, 0.5)]


def test_a_store_of_the_schema_before_keeps_its_rows(empty_database_url: str, tmp_path: Path) -> None:
    before = tmp_path / "sql"
    before.mkdir()
    for migration in load_migrations():
        if migration.file_name.endswith("_actions.sql") and not migration.file_name.startswith("0003"):
            break
        (before / migration.file_name).write_text(migration.text)
    migrate(empty_database_url, before)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            "insert into dividends (symbol, ex_dividend_date, cash_amount, currency, vendor_id)"
            " values ('NTES', '2019-08-29', 0.5, 'USD', 'a')"
        )
        connection.execute(
            "insert into splits (symbol, execution_date, split_from, split_to) values ('KO', '2012-08-13', 1, 2)"
        )
        connection.execute(
            "insert into rate_limit (bucket, grants, position, paced_until)"
            " values ('a', '{-infinity,2024-01-01Z}', 2, '-infinity')"
        )
        connection.execute("insert into bar_counts values ('AAPL', '1d', 1), ('VIX', '1d', 1)")
        connection.execute(
            "insert into ohlcv select symbol, '1d', '2024-01-02 05:00Z', 1, 1, 1, 1, 1, 1, 1, 1 from bar_counts"
        )
        connection.execute("update tracked_symbols set active = false")
        migrate(empty_database_url)
        assert connection.execute("select symbol, cash_amount::text, number from dividends").fetchall() == [
            ("NTES", "0.5", 1)
        ]
        assert connection.execute("select symbol, since, price_factor from split_factors").fetchall() == [
            ("KO", None, 0.5)
        ]
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        assert connection.execute("select grants, paced_until, blocked_until from rate_limit").fetchall() == [
            ([epoch, datetime(2024, 1, 1, tzinfo=UTC)], epoch, epoch)
        ]
        stale = connection.execute(
            "select s.symbol, s.version = c.version from features_stale s join feature_changes c using (symbol, timeframe)"
            " order by 1"
        ).fetchall()
        assert ("AAPL", True) in stale


def dividends(*rows: tuple[str, str, str]) -> pl.DataFrame:
    schema = SCHEMAS[ActionKind.DIVIDENDS]
    facts = {"symbol": "NTES", "ex_dividend_date": date(2019, 8, 29), "cash_amount": 0.5}
    found = [
        facts | {"currency": currency, "distribution_type": kind, "vendor_id": id_}
        for currency, kind, id_ in rows
    ]
    return pl.DataFrame(found, schema=schema)


def test_two_dividends_of_one_amount_are_stored_and_withdrawn_each_by_itself(database: Database) -> None:
    regular, special, foreign = ("USD", "recurring", "a"), ("USD", "special", "b"), ("CAD", "recurring", "c")

    def listed(*rows: tuple[str, str, str]) -> tuple[int, int, int, int]:
        counts = store_actions(
            database,
            ActionKind.DIVIDENDS,
            dividends(*rows),
            symbols=["NTES"],
            endpoint="a test",
            today=date(2020, 1, 1),
        )
        return counts.inserted, counts.changed, counts.unchanged, counts.withdrawn

    assert listed(regular) == (1, 0, 0, 0)
    assert listed(special, foreign, regular) == (2, 0, 1, 0)
    assert listed(regular, foreign, special) == (0, 0, 3, 0)
    assert listed(special, foreign) == (0, 0, 2, 1)
    assert sorted(read_actions(database, ActionKind.DIVIDENDS, ["NTES"])["vendor_id"]) == ["b", "c"]
    assert listed(regular, special) == (0, 1, 1, 1)
