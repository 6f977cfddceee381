from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from marketdata_assets.cli import database
from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.storage.dumps import dump_database, restore_database
from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets.storage.failures import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

app = typer.Typer()
app.add_typer(database.app, name="db")
app.command()(database.migrate)


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "home"
    monkeypatch.setenv("MARKETDATA_HOME", str(folder))
    yield folder
    EmbeddedServer(folder).stop()


def test_the_life_of_an_embedded_server(home: Path) -> None:
    assert run("db", "stop") == ("not running\n", "")
    assert run("db", "status", code=1)[0].startswith("not running")
    assert run("db", "start")[0].startswith("running: postgresql://marketdata@127.0.0.1:")
    started = json.loads(run("db", "start", "--json")[0])
    assert started == json.loads(run("db", "status", "--json")[0])
    password = json.loads((home / "postgres.json").read_text())["password"]
    facts = json.loads(run("db", "status", "--json")[0])
    assert facts["running"] is True
    assert facts["data"] == str(home / "postgres")
    shown, hint = run("db", "url")
    assert password not in shown
    assert "--show-password" in hint
    url, hint = run("db", "url", "--show-password")
    assert hint == ""
    with psycopg.connect(url.strip()) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    run("migrate")
    assert run("migrate", "--check")[0] == "up to date\n"
    assert run("db", "stop")[0] == "stopped\n"
    again = json.loads(run("db", "stop", "--json")[0])
    assert (again["running"], again["was_running"]) == (False, False)
    assert json.loads(run("db", "status", "--json", code=1)[0])["running"] is False


def test_a_server_of_the_users_own_is_not_ours_to_start_or_stop(
    database_url: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    for command in ("start", "stop"):
        with pytest.raises(ConfigurationError, match="DATABASE_URL is set"):
            run("db", command)
    assert run("db", "status")[0].endswith("(DATABASE_URL)\n")
    assert run("db", "url", "--show-password")[0].strip() == database_url
    assert run("migrate")[0] == "up to date\n"
    assert not home.exists()


def stored(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return [
            *connection.execute("select * from ohlcv order by symbol, timeframe, time").fetchall(),
            *connection.execute("select symbol, timeframes from tracked_symbols order by symbol").fetchall(),
            *connection.execute(
                "select version, checksum from schema_migrations order by version"
            ).fetchall(),
            *connection.execute("select value from dagster.notes").fetchall(),
        ]


def fill(url: str, note: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("create schema dagster")
        connection.execute("create table dagster.notes as select %s::text as value", [note])
        connection.execute("insert into tracked_symbols (symbol, asset_class) values ('AAPL', 'stock')")
        connection.execute(
            "insert into ohlcv (symbol, timeframe, time, open, high, low, close, base_bars)"
            " values ('AAPL', '5m', '2024-01-02T15:00Z', 1, 2, 0.5, 1.5, 1), ('AAPL', '1d', '2024-01-02T05:00Z', 1, 2, 1, 2, 1)"
        )


def test_a_dump_is_restored_whole_into_an_empty_database_and_replaces_another_only_when_that_is_asked_for(
    database_url: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(database_url, "first")
    file = tmp_path / "market data.dump"
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("PGDATABASE", "another")
    facts = json.loads(run("db", "dump", str(file), "--json")[0])
    assert facts == {"file": str(file), "bytes": file.stat().st_size}
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir() if "dump" in each.name] == [file.name]
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    assert run("db", "restore", str(file))[0].startswith(f"restored: {file}, 0.")
    expected = stored(database_url)
    assert len(expected) > 4
    assert stored(empty_database_url) == expected
    assert run("migrate")[0] == "up to date\n"

    with psycopg.connect(empty_database_url) as connection:
        connection.execute("create table later (n int)")
        connection.execute("update dagster.notes set value = 'second'")
    with pytest.raises(ConfigurationError, match="not empty"):
        run("db", "restore", str(file))
    assert ("second",) in stored(empty_database_url)
    broken = tmp_path / "broken.dump"
    broken.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(MarketDataError, match=r"pg_restore failed: .*nothing was changed"):
        run("db", "restore", str(broken), "--replace")
    assert ("second",) in stored(empty_database_url)
    run("db", "restore", str(file), "--replace")
    assert stored(empty_database_url) == expected
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select to_regclass('later')").fetchone() == (None,)
        left = "select count(*) from pg_database where datname ~ '_(restored|replaced)_'"
        assert connection.execute(left).fetchone() == (0,)


def test_a_dump_that_fails_leaves_no_file_and_no_password(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[list[str]] = []
    real = subprocess.run

    def spy(command: list[str], **options: Any) -> Any:  # noqa: ANN401 - handed on as it came
        seen.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    with pytest.raises(MarketDataError, match=r"pg_dump failed: .*could not open output file"):
        dump_database(database_url, tmp_path / "absent" / "a.dump")
    with pytest.raises(UnreachableError, match=r"database .*nowhere.* does not exist"):
        dump_database(urlsplit(database_url)._replace(path="/nowhere").geturl(), tmp_path / "a.dump")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        run("db", "dump", str(tmp_path / "absent" / "a.dump"))
    with pytest.raises(ConfigurationError, match="not a readable file"):
        restore_database(database_url, tmp_path / "absent.dump")
    assert not list(tmp_path.glob("*dump*"))
    assert not list(tmp_path.glob(".*dump*"))
    (command,) = seen
    assert not any(str(parts["password"]) in argument for argument in command)


@pytest.mark.parametrize("command", [["db", "start"], ["db", "stop"], ["db", "status"], ["db", "url"]])
def test_help_shows_an_example(command: list[str]) -> None:
    assert "Example: " in run(*command, "--help")[0]
