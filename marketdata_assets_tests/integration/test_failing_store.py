"""Every command on a store that cannot be used: one line, exit code 2, and nothing half-written.

The commands are those of the Typer app, so that a new one is covered by itself.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from typer.main import get_command

from marketdata_assets.cli.app import app
from marketdata_assets_tests.integration.platform import free_port, run_in_process
from marketdata_assets_tests.simulator import KEY, running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.embedded import EmbeddedServer

SAMPLES = {
    "symbol": "AAPL",
    "symbols": "AAPL",
    "timeframes": "1d",
    "name": "test",
    "path": "symbols.csv",
    "file": "market.dump",
}
"""What a required argument of this name is given."""
CHOSEN: dict[tuple[str, ...], list[str]] = {
    # What makes a command do its work, where its defaults leave it out, and keeps it short.
    ("backfill",): ["--symbols", "AAPL", "--timeframes", "1d", "--days", "3"],
    ("gaps",): ["--symbols", "AAPL", "--days", "3", "--repair"],
    ("features",): ["--symbols", "AAPL", "--force", "--days", "3"],
    ("matrix",): ["--refresh"],
    ("bars",): ["--raw"],
    ("demo",): ["--symbols", "AAPL"],
}
UNTOUCHED = ("DATABASE_URL is set", "the database is not empty")
"""Why `db start` and `db stop`, and `db restore`, refuse before they touch the database."""
NO_STORE: set[tuple[str, ...]] = {("simulate",)}
"""Commands that never touch the store."""


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def walk(command: Any, path: tuple[str, ...]) -> None:  # noqa: ANN401 - typer's own click
        inner = getattr(command, "commands", {})
        for name, one in inner.items():
            walk(one, (*path, name))
        if not inner:
            found.append(path)

    walk(get_command(app), ())
    return [one for one in found if one not in NO_STORE]


def arguments(path: tuple[str, ...]) -> list[str]:
    """``path`` with a value for whatever it requires."""
    command: Any = get_command(app)
    for name in path:
        command = command.commands[name]
    known = list(CHOSEN.get(path, []))
    offered = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    given = known if all(not one.startswith("--") or one in offered for one in known) else []
    required = [one for one in command.params if one.required]
    missing = [one.name for one in required if one.name not in SAMPLES]
    assert not missing, f"{path} requires {missing}: give SAMPLES a value for it"
    return [*path, *(SAMPLES[one.name] for one in required), *given]


@pytest.fixture
def execute(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Any]:
    """Run a command in this process, on a simulated vendor."""
    (tmp_path / "symbols.csv").write_text("symbol,asset_class\nRIO,stock\n")
    (tmp_path / "market.dump").write_bytes(b"PGDMP")

    def execute(path: tuple[str, ...], *options: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "POLYGON_BASE_URL": simulator.url, "POLYGON_API_KEY": KEY}
        given = [*path, *options] if options else arguments(path)
        return run_in_process(environment, tmp_path, capfd, *given)

    with running_simulator() as simulator:
        yield execute


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command ends with; progress before it is a line for each stage or run."""
    assert done.returncode == 2, (done.args, done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("marketdata: ")]
    assert len(lines) == 1, (done.args, done.stderr)
    assert done.stderr.splitlines()[-1] == lines[0], done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return lines[0]


def with_account(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


def counts(database: Database) -> list[tuple[object, ...]]:
    """The rows of each table of the platform."""
    names = database.fetch(
        "select relname from pg_class where relkind in ('r', 'p') and not relispartition"
        " and relnamespace = 'public'::regnamespace order by relname",
        row=str,
    )
    query = " union all ".join(f"select '{name}', count(*) from {name}" for name in names)
    return database.read_frame(query).rows()


def test_a_server_that_is_gone_is_one_line_of_every_command(
    execute: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:hunter2@127.0.0.1:{free_port()}/bars")
    for path in commands():
        if path == ("db", "url"):
            continue  # prints what is set
        done = execute(path)
        line = complaint(done)
        assert "hunter2" not in line
        assert "cannot connect to postgresql://me@127" in line or "DATABASE_URL is set" in line, path


@pytest.fixture
def role(database_url: str) -> Iterator[str]:
    """The URL of an account without any permission but to connect."""
    name = f"stranger_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} login password 'hunter2'").format(sql.Identifier(name)))
    yield with_account(database_url, name, "hunter2")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_a_lost_permission_is_one_line_of_every_command_that_needs_it(
    execute: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    database: Database,
) -> None:
    execute_with(monkeypatch, database.url, execute, ("status",))
    before = counts(database)
    monkeypatch.setenv("DATABASE_URL", role)
    for path in commands():
        done = execute(path)
        if path == ("db", "status"):
            assert (done.returncode, "but it cannot be used: " in done.stderr) == (1, True)
        elif path != ("db", "url"):
            line = complaint(done)
            assert any(text in line for text in ("does not permit", *UNTOUCHED)), (path, line)
        assert "hunter2" not in done.stderr + done.stdout
    assert counts(database) == before


def test_a_database_that_takes_no_writes_is_one_line_of_every_command_that_writes(
    execute: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
) -> None:
    execute_with(monkeypatch, database.url, execute, ("status",))
    before = counts(database)
    url = f"{database.url}&options=-c%20default_transaction_read_only%3Don"
    monkeypatch.setenv("DATABASE_URL", url)
    refused = set()
    for path in commands():
        if path in {("up",), ("serve",)}:
            continue  # may serve what is stored
        done = execute(path)
        if done.returncode == 2:
            line = complaint(done)
            assert any(text in line for text in ("takes no writes", *UNTOUCHED)), (path, line)
            refused.add(path)
        assert "Traceback" not in done.stderr, (path, done.stderr)
        if path == ("db", "status"):
            assert (done.returncode, "takes no writes" in done.stderr) == (1, True)
    assert {("backfill",), ("gaps",), ("features",), ("symbols", "add"), ("keys", "create")} <= refused
    assert counts(database) == before


def execute_with(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    execute: Any,  # noqa: ANN401
    path: tuple[str, ...],
) -> None:
    """Run ``path`` once on a sound store, so that what is new there exists."""
    monkeypatch.setenv("DATABASE_URL", url)
    assert execute(path).returncode == 0


@dataclass
class Disk:
    """A file system of a known size, mounted for the test."""

    path: Path

    @property
    def home(self) -> Path:
        return self.path / "home"

    def fill(self, spare: int) -> None:
        """Take all room but ``spare`` bytes."""
        room = os.statvfs(self.path)
        with (self.path / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize - spare)

    def empty(self) -> None:
        (self.path / "filler").unlink()

    def remount(self, option: str) -> None:
        subprocess.run(["/bin/mount", "-o", f"remount,{option}", str(self.path)], check=True)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of MARKETDATA_HOME, which an embedded server uses; outside of ``/tmp``'s own file system."""
    folder = Path(tempfile.mkdtemp(prefix="marketdata-disk-"))
    folder.chmod(0o755)
    mounting = ["/bin/mount", "-t", "tmpfs", "-o", "size=192m,mode=755", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounting, check=False, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("mounting a file system needs root and the permission to mount")
    mounted = Disk(folder)
    monkeypatch.setenv("MARKETDATA_HOME", str(mounted.home))
    monkeypatch.setenv("MARKETDATA_START", "2020-01-01")
    try:
        yield mounted
    finally:
        mounted.remount("rw")
        EmbeddedServer(mounted.home).stop()
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


SERVING = {("up",), ("serve",)}
"""Commands that serve until they are stopped, when the store lets them."""


# slow: a server of its own
@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_one_line_of_every_command(execute: Any, disk: Disk) -> None:  # noqa: ANN401
    assert execute(("symbols", "list")).returncode == 0
    assert execute(("db", "stop")).returncode == 0
    disk.remount("ro")
    for path in commands():
        done = execute(path)
        if path == ("db", "status"):
            assert (done.returncode, done.stderr) == (1, "")
        else:
            assert str(disk.home) in complaint(done)
    disk.remount("rw")
    assert execute(("symbols", "list")).returncode == 0


# slow: a server of its own, and what it does when it cannot write
@pytest.mark.slow
def test_a_full_disk_is_one_line_at_every_run_and_all_is_well_with_room(execute: Any, disk: Disk) -> None:  # noqa: ANN401
    assert execute(("backfill",)).returncode == 0
    disk.fill(spare=300_000)
    hungry = ("--symbols", "AAPL,SPY", "--timeframes", "1m,1d", "--days", "30", "--no-features")
    for _ in range(2):
        assert "make room" in complaint(execute(("backfill",), *hungry))
    for path in commands():
        if path in SERVING:
            continue
        done = execute(path)
        assert "Traceback" not in done.stderr
        if done.returncode not in (0, 1):
            assert "make room" in complaint(done), path
    disk.empty()
    assert execute(("symbols", "add")).returncode == 0  # one of the commands may have deactivated it
    for _ in range(2):
        done = execute(("backfill",), *hungry)
        assert "2 succeeded, 0 failed" in done.stdout, done
