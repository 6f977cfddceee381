from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from marketdata_assets.cli import database
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.embedded import EmbeddedServer

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


@pytest.mark.parametrize("command", [["db", "start"], ["db", "stop"], ["db", "status"], ["db", "url"]])
def test_help_shows_an_example(command: list[str]) -> None:
    assert "Example: " in run(*command, "--help")[0]
