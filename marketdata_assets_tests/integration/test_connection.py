from __future__ import annotations

import socket
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import polars as pl
import psycopg
import pytest
import sqlalchemy
from dagster_postgres import PostgresRunStorage
from polars.testing import assert_frame_equal
from psycopg import sql

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.connection import Database, Timeouts, connect, dagster_storage_url, redacted
from marketdata_assets.storage.failures import LostServerError, Refusal, StatementError
from marketdata_assets.storage.rows import Session, fetch, fetch_one


def terminate(url: str, application_name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        killed = connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where application_name = %s and datname = current_database()",
            [application_name],
        ).fetchall()
    assert killed
    assert all(row == (True,) for row in killed)


def make_table(connection: Session) -> None:
    connection.execute("create table seen (id int)")


def test_a_session_is_utc_limited_and_named(database_url: str) -> None:
    timeouts = Timeouts(
        statement=timedelta(seconds=5), lock=timedelta(seconds=2), idle_in_transaction=timedelta(seconds=7)
    )
    with connect(database_url, application_name="it's me", timeouts=timeouts) as connection:
        found = connection.execute(
            "select current_setting('TimeZone'), current_setting('statement_timeout'),"
            " current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'),"
            " current_setting('application_name')"
        ).fetchone()
        assert connection.autocommit is False
    assert found == ("UTC", "5s", "2s", "7s", "it's me")


def test_options_in_the_url_win(database_url: str) -> None:
    url = f"{database_url}&options={quote('-c statement_timeout=1234 -c search_path=pg_catalog')}"
    with connect(url, application_name="test") as connection:
        found = connection.execute(
            "select current_setting('statement_timeout'), current_setting('search_path'),"
            " current_setting('TimeZone')"
        ).fetchone()
    assert found == ("1234ms", "pg_catalog", "UTC")


def test_an_unreachable_server_is_one_line_without_the_password() -> None:
    with socket.socket() as bound:  # bound, not listening: refuses
        bound.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hunter2@127.0.0.1:{bound.getsockname()[1]}/bars"
        for attempt in (
            lambda: connect(url, application_name="test"),
            lambda: Database(url).transaction(lambda _: None),
            lambda: Database(url).fetch("select 1", row=int),
            lambda: Database(url).read_frame("select 1"),
            lambda: dagster_storage_url(url),
        ):
            with pytest.raises(ConfigurationError, match=r"cannot connect to postgresql://me@127") as caught:
                attempt()
            assert "\n" not in str(caught.value)
            assert "hunter2" not in str(caught.value)


def test_a_wrong_password_is_not_repeated(database_url: str) -> None:
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"marketdata:hunter2@{parts.hostname}:{parts.port}").geturl()
    with pytest.raises(ConfigurationError, match="password authentication failed") as caught:
        connect(url, application_name="test")
    assert "hunter2" not in str(caught.value)


def test_a_transaction_commits_what_returns_and_rolls_back_what_raises(database: Database) -> None:
    def insert(connection: Session, *, fail: bool) -> int:
        connection.execute("insert into seen values (1)")
        if fail:
            raise KeyError
        return 7

    database.transaction(make_table)
    with pytest.raises(KeyError):
        database.transaction(lambda connection: insert(connection, fail=True))
    assert database.transaction(lambda connection: insert(connection, fail=False)) == 7
    assert database.read_frame("select count(*) as n from seen")["n"].to_list() == [1]


def test_a_lost_connection_costs_one_retry_of_the_whole_transaction(
    database: Database, database_url: str
) -> None:
    database.transaction(make_table)
    attempts: list[int] = []

    def work(connection: Session) -> int:
        attempts.append(connection.info.backend_pid)
        connection.execute("insert into seen values (1)")
        if len(attempts) == 1:
            terminate(database_url, "test")
        connection.execute("insert into seen values (2)")
        return len(attempts)

    assert database.transaction(work) == 2
    assert len(set(attempts)) == 2
    assert database.read_frame("select id from seen order by id")["id"].to_list() == [1, 2]


def test_a_connection_lost_while_idle_goes_unnoticed(database: Database, database_url: str) -> None:
    def work(connection: Session) -> tuple[object, ...] | None:
        return connection.execute("select 1").fetchone()

    assert database.transaction(work) == (1,)
    assert database.read_frame("select 1 as one")["one"].to_list() == [1]
    terminate(database_url, "test")
    assert database.read_frame("select 1 as one")["one"].to_list() == [1]
    assert database.transaction(work) == (1,)


def test_a_second_loss_is_an_error(database: Database, database_url: str) -> None:
    attempts = []

    def work(connection: Session) -> None:
        attempts.append(1)
        terminate(database_url, "test")
        connection.execute("select 1")

    with pytest.raises(LostServerError, match="then run the same command again"):
        database.transaction(work)
    assert len(attempts) == 2
    assert database.transaction(lambda connection: connection.execute("select 1").fetchone()) == (1,)


def test_other_errors_are_not_retried(database: Database) -> None:
    attempts = []

    def work(connection: Session) -> None:
        attempts.append(1)
        connection.execute("set local statement_timeout = 50")
        connection.execute("select pg_sleep(60)")

    with pytest.raises(StatementError) as caught:  # an OperationalError, on a living connection
        database.transaction(work)
    assert caught.value.refusal is Refusal.TOO_SLOW
    assert len(attempts) == 1
    with pytest.raises(StatementError, match="nonsense"):
        database.read_frame("select nonsense")


def test_frames_have_the_types_of_the_project(database: Database) -> None:
    moment = datetime(2013, 10, 7, 13, 30, tzinfo=UTC)
    frame = database.read_frame(
        "select symbol, $2::timestamptz as time, $3::float8 as close, $4::int8 as volume, $5::date as day"
        " from unnest($1::text[]) as symbol order by symbol",
        [["SPY", "AAPL"], moment, 1.5, 7, date(2013, 10, 7)],
    )
    expected = pl.DataFrame(
        {
            "symbol": ["AAPL", "SPY"],
            "time": [moment] * 2,
            "close": [1.5] * 2,
            "volume": [7] * 2,
            "day": [date(2013, 10, 7)] * 2,
        },
        schema_overrides={"time": pl.Datetime("us", "UTC")},
    )
    assert_frame_equal(frame, expected)


def test_a_read_leaves_no_transaction_behind(database: Database, database_url: str) -> None:
    database.read_frame("select 1")
    with psycopg.connect(database_url) as connection:
        states = connection.execute(
            "select state from pg_stat_activity"
            " where application_name = 'test' and datname = current_database()"
        ).fetchall()
    assert states == [("idle",)]


class Times(NamedTuple):
    """A row whose columns are of every kind that holds times."""

    at: datetime
    never: datetime | None
    start: datetime
    all: list[datetime]


def test_times_arrive_in_utc_whatever_the_zone_of_the_session(database: Database) -> None:
    query = """
    with known as (select '2024-07-01T09:30+09:00'::timestamptz as at)
    select at, null::timestamptz, lower(tstzrange(at, null)), array[at] from known
    """

    def read(session: Session) -> list[Times]:
        session.execute("set local timezone = 'Asia/Tokyo'")
        return fetch(session, query, row=Times)

    (times,) = database.transaction(read)
    known = datetime(2024, 7, 1, 0, 30, tzinfo=UTC)
    assert times == Times(known, None, known, [known])
    assert {time.tzinfo for time in (times.at, times.start, *times.all)} == {UTC}


def test_a_question_within_a_transaction_sees_what_it_has_written(database: Database) -> None:
    def work(session: Session) -> list[int]:
        session.execute("create temporary table seen on commit drop as select 7 as n")
        return database.fetch("select n from seen", row=int)

    assert database.transaction(work) == [7]
    assert database.fetch("select to_regclass('seen') is null", row=bool) == [True]


def test_one_row_or_none(database: Database) -> None:
    query = "select n from generate_series(1, %s) as n"
    assert database.transaction(lambda session: fetch_one(session, query, [3], row=int)) == 1
    assert database.transaction(lambda session: fetch_one(session, query, [0], row=int)) is None


def test_a_question_leaves_no_transaction_behind_and_survives_a_lost_connection(
    database: Database, database_url: str
) -> None:
    states = "select state from pg_stat_activity where application_name = 'asking'"
    with Database(database_url, application_name="asking") as asking:
        assert asking.fetch("select %s::int", [7], row=int) == [7]
        assert database.read_frame(states)["state"].to_list() == ["idle"]
        terminate(database_url, "asking")
        assert asking.fetch("select 1", row=int) == [1]
        with pytest.raises(StatementError, match="DivisionByZero: division by zero"):
            asking.fetch("select 1 / 0", row=int)
        with pytest.raises(StatementError, match="DivisionByZero: division by zero"):
            asking.transaction(
                lambda connection: (
                    connection.execute("create table seen ()"),
                    connection.execute("select 1 / 0"),
                )
            )
        assert asking.fetch("select to_regclass('seen') is null", row=bool) == [True]


def test_an_empty_answer_keeps_its_columns(database: Database) -> None:
    frame = database.read_frame("select 'a'::text as symbol, now() as time where false")
    assert frame.schema == {"symbol": pl.String(), "time": pl.Datetime("us", "UTC")}


@pytest.mark.parametrize("rows", [0, 1])
def test_a_frame_has_the_wanted_schema_with_and_without_rows(database: Database, rows: int) -> None:
    schema = pl.Schema({"time": pl.Datetime("us", "UTC"), "bars": pl.Int32()})
    query = "select 7::bigint as bars, 'x' as other, now() as time from generate_series(1, $1::int)"
    frame = database.read_frame(query, [rows], schema=schema)
    assert (frame.height, frame.schema) == (rows, schema)
    assert list(frame.schema) == list(schema)


def test_dagster_keeps_its_tables_in_its_own_schema(empty_database_url: str) -> None:
    url = dagster_storage_url(empty_database_url)
    assert dagster_storage_url(empty_database_url) == url
    PostgresRunStorage.create_clean_storage(url)
    with psycopg.connect(empty_database_url) as connection:
        schemas = connection.execute(
            "select distinct schemaname from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema')"
        ).fetchall()
    assert schemas == [("dagster",)]


def test_the_storage_url_survives_an_awkward_password_and_keeps_its_options(empty_database_url: str) -> None:
    role, password = "o'dd@role", "p@ss:w/o%r?d&#="
    parts = urlsplit(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role {} superuser login password {}").format(
                sql.Identifier(role), sql.Literal(password)
            )
        )
    try:
        netloc = f"{quote(role, safe='')}:{quote(password, safe='')}@{parts.hostname}:{parts.port}"
        url = parts._replace(netloc=netloc).geturl() + "&options=" + quote("-c statement_timeout=4321")
        assert password not in redacted(url)
        engine = sqlalchemy.create_engine(dagster_storage_url(url))
        with engine.connect() as session:
            found = session.execute(
                sqlalchemy.text("select current_user, current_schema, current_setting('statement_timeout')")
            ).one()
        engine.dispose()
        assert tuple(found) == (role, "dagster", "4321ms")
    finally:
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
