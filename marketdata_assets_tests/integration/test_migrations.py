from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.storage.migrations import load_migrations, migrate, pending, sql_folder

if TYPE_CHECKING:
    from pathlib import Path

ONE = "create table one (id int); insert into one values (1);\n"
TWO = "-- 100 % of it\nalter table one add column name text default 'a%sb';\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sql"
    made.mkdir()
    (made / "0001_one.sql").write_text(ONE)
    (made / "0002_two.sql").write_text(TWO)
    return made


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_files_are_applied_in_order_once(empty_database_url: str, folder: Path) -> None:
    assert pending(empty_database_url, folder) == ["0001_one.sql", "0002_two.sql"]
    assert migrate(empty_database_url, folder) == ["0001_one.sql", "0002_two.sql"]
    assert rows(empty_database_url, "select id, name from one") == [(1, "a%sb")]
    assert migrate(empty_database_url, folder) == []
    assert pending(empty_database_url, folder) == []
    (folder / "0003_three.sql").write_text("drop table one;")
    assert migrate(empty_database_url, folder) == ["0003_three.sql"]
    assert rows(empty_database_url, "select version, name from schema_migrations order by 1") == [
        (1, "0001_one.sql"),
        (2, "0002_two.sql"),
        (3, "0003_three.sql"),
    ]


def test_concurrent_migrators_apply_each_file_once(empty_database_url: str, folder: Path) -> None:
    (folder / "0001_one.sql").write_text(f"select pg_sleep(0.2); {ONE}")
    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(lambda _: migrate(empty_database_url, folder), range(6)))
    assert sorted(applied, key=len) == [[]] * 5 + [["0001_one.sql", "0002_two.sql"]]
    assert rows(empty_database_url, "select count(*) from one") == [(1,)]


def test_a_failing_file_leaves_nothing_of_itself_and_keeps_the_ones_before(
    empty_database_url: str, folder: Path
) -> None:
    (folder / "0002_two.sql").write_text("create table half (id int); select 1/0;")
    with pytest.raises(MarketDataError, match=r"0002_two\.sql.*division by zero") as caught:
        migrate(empty_database_url, folder)
    assert "\n" not in str(caught.value)
    assert rows(empty_database_url, "select to_regclass('half')::text") == [(None,)]
    assert pending(empty_database_url, folder) == ["0002_two.sql"]
    (folder / "0002_two.sql").write_text(TWO)
    assert migrate(empty_database_url, folder) == ["0002_two.sql"]


def test_a_file_that_ends_its_own_transaction_is_refused(empty_database_url: str, folder: Path) -> None:
    (folder / "0002_two.sql").write_text("create table half (id int); commit; select 1;")
    with pytest.raises(MarketDataError, match=r"0002_two\.sql ends its own transaction"):
        migrate(empty_database_url, folder)


def test_an_edited_applied_file_is_refused_by_name(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0001_one.sql").write_text(ONE + "-- edited\n")
    for act in (migrate, pending):
        with pytest.raises(ConfigurationError, match=r"0001_one\.sql was edited"):
            act(empty_database_url, folder)


def test_a_renamed_applied_file_is_refused(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0001_one.sql").rename(folder / "0001_uno.sql")
    with pytest.raises(ConfigurationError, match=r"0001_one\.sql was renamed to 0001_uno\.sql"):
        migrate(empty_database_url, folder)


def test_line_ends_of_another_system_are_no_edit(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0001_one.sql").write_bytes(ONE.replace("\n", "\r\n").encode())
    assert migrate(empty_database_url, folder) == []


def test_a_database_ahead_of_the_code_is_refused(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_two.sql").unlink()
    with pytest.raises(ConfigurationError, match=r"ahead.*0002_two\.sql.*upgrade"):
        migrate(empty_database_url, folder)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("0004_late.sql", "migration 0003 is missing"),
        ("0002_again.sql", "same number"),
        ("3_short.sql", "NNNN_name.sql"),
        ("0003-dash.sql", "NNNN_name.sql"),
        ("0000_zero.sql", "migration 0001 is missing"),
    ],
)
def test_misnumbered_files_are_refused(folder: Path, name: str, complaint: str) -> None:
    (folder / name).write_text("select 1;")
    with pytest.raises(ConfigurationError, match=complaint):
        load_migrations(folder)


def test_the_platforms_own_files_are_well_numbered_and_applied_to_the_template(database_url: str) -> None:
    assert sql_folder().is_dir()
    assert load_migrations() is not None
    assert pending(database_url) == []


def test_a_store_of_the_schema_before_gets_the_time_zone_of_each_symbol(
    empty_database_url: str, tmp_path: Path
) -> None:
    before = tmp_path / "sql"
    before.mkdir()
    for migration in load_migrations():
        if migration.file_name.endswith("_timezone.sql"):
            break
        (before / migration.file_name).write_text(migration.text)
    migrate(empty_database_url, before)
    symbols = {f"{asset_class.value.upper()}-USD": asset_class for asset_class in AssetClass}
    kept = "select symbol, asset_class, calendar, vendor_ticker, position, created_at, updated_at from tracked_symbols"
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for symbol, asset_class in symbols.items():
            connection.execute(
                "insert into tracked_symbols (symbol, asset_class, updated_at) values (%s, %s, '2024-01-02Z')",
                [symbol, asset_class.value],
            )
    rows_before = rows(empty_database_url, f"{kept} order by 1")

    migrate(empty_database_url)

    # Unchanged rows: an edit of a symbol would have its partitions and history looked at again.
    assert rows(empty_database_url, f"{kept} order by 1") == rows_before
    zones = "select symbol, timezone from tracked_symbols order by 1"
    expected = {symbol: calendar_of(asset_class).timezone.key for symbol, asset_class in symbols.items()}
    assert rows(empty_database_url, zones) == sorted(expected.items())
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("update tracked_symbols set asset_class = 'crypto'")
    assert rows(empty_database_url, zones) == [(symbol, "UTC") for symbol in sorted(symbols)]


def test_an_older_server_is_refused(empty_database_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Postgres 18: 99 or newer"):
        migrate(empty_database_url, minimum_version=99)
