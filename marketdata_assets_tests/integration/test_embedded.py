from __future__ import annotations

import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.storage.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAST = {"fsync": "off", "shared_buffers": "32MB"}
START = """
import os, signal, sys
from pathlib import Path
from marketdata_assets.storage.embedded import EmbeddedServer
settings = {"fsync": "off", "shared_buffers": "32MB"}
print(EmbeddedServer(Path(sys.argv[1]), settings).ensure_running(), flush=True)
if "die" in sys.argv:
    os.killpg(0, signal.SIGKILL)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    EmbeddedServer(folder).stop()


class Stranger(socketserver.TCPServer):
    """Takes every connection and hangs up."""

    allow_reuse_address = True


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def starter(home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START, str(home), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def one(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def log_of(home: Path) -> str:
    return "".join(log.read_text() for log in (home / "postgres" / "log").iterdir())


def test_eight_processes_that_ask_at_once_share_one_server(home: Path) -> None:
    processes = [starter(home) for _ in range(8)]
    answers = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(answers) == 1
    assert log_of(home).count("database system is ready to accept connections") == 1


def test_the_server_outlives_the_kill_of_everything_its_starter_was(home: Path) -> None:
    process = starter(home, "die")
    url = process.communicate(timeout=60)[0].strip()
    assert process.returncode == -signal.SIGKILL
    assert one(url, "select 1") == 1
    assert EmbeddedServer(home).ensure_running() == url
    assert log_of(home).count("database system is ready to accept connections") == 1


def test_committed_rows_are_there_after_a_kill_of_the_server(home: Path) -> None:
    server = EmbeddedServer(home, FAST)
    url = server.ensure_running()
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 42 as answer")
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert server.ensure_running() == url
    assert server.status().pid != pid
    assert one(url, "select answer from kept") == 42


def test_a_pid_file_whose_pid_now_belongs_to_somebody_else_is_no_obstacle(home: Path) -> None:
    server = EmbeddedServer(home, FAST)
    url = server.ensure_running()
    pid_file = home / "postgres" / "postmaster.pid"
    text = pid_file.read_text()
    server.stop()
    owner = (home / "postgres").stat()
    as_owner = {"user": owner.st_uid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["/bin/sleep", "600"], **as_owner) as stranger:  # type: ignore[call-overload]  # chosen at run time
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *text.splitlines()[1:]]) + "\n")
            os.chown(pid_file, owner.st_uid, owner.st_gid)
            assert server.status().running is False
            assert server.stop() is False
            assert server.ensure_running() == url
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_an_initdb_killed_half_way_is_made_anew(home: Path) -> None:
    process = starter(home)
    until(lambda: any(home.glob("postgres-init-*/data/PG_VERSION")), "initdb to begin")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (home / "postgres").exists()
    url = EmbeddedServer(home, FAST).ensure_running()
    assert one(url, "select current_database()") == "marketdata"
    assert not list(home.glob("postgres-init-*"))


def test_a_port_taken_by_somebody_else_is_given_up_for_another(home: Path) -> None:
    server = EmbeddedServer(home, FAST)
    first = server.ensure_running()
    port = server.status().port
    assert port is not None
    server.stop()
    with Stranger(("127.0.0.1", port), socketserver.BaseRequestHandler) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        second = server.ensure_running()
        assert server.status().port != port
        assert one(second, "select 1") == 1
        stranger.shutdown()
    assert server.ensure_running() == second != first


def test_a_copied_home_is_a_server_of_its_own(home: Path, tmp_path: Path) -> None:
    original = EmbeddedServer(home, FAST)
    url = original.ensure_running()
    original.stop()
    twin_home = tmp_path / "twin"
    shutil.copytree(home, twin_home)
    if os.geteuid() == 0:
        owner = (home / "postgres").stat()
        for path in (twin_home / "postgres", *(twin_home / "postgres").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
    assert original.ensure_running() == url
    twin = EmbeddedServer(twin_home, FAST)
    try:
        assert twin.ensure_running() != url
        assert twin.status().pid != original.status().pid
    finally:
        twin.stop()


def test_stop_says_whether_there_was_something_to_stop(home: Path) -> None:
    server = EmbeddedServer(home, FAST)
    assert server.stop() is False
    assert not home.exists()
    url = server.ensure_running()
    with psycopg.connect(url) as session:
        assert server.stop() is True
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert server.stop() is False
    status = server.status()
    assert (status.running, status.pid) == (False, None)


def test_a_missing_database_is_made_again(home: Path) -> None:
    server = EmbeddedServer(home, FAST)
    url = server.ensure_running()
    with psycopg.connect(url.replace("/marketdata?", "/postgres?"), autocommit=True) as connection:
        connection.execute("drop database marketdata with (force)")
    assert server.ensure_running() == url
    assert one(url, "select current_database()") == "marketdata"


def test_only_the_password_opens_it_and_only_its_owner_reads_that(home: Path) -> None:
    url = EmbeddedServer(home, FAST).ensure_running()
    password = json.loads((home / "postgres.json").read_text())["password"]
    assert (home / "postgres.json").stat().st_mode & 0o777 == 0o600
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700
    assert (
        one(url, "select rolpassword like 'SCRAM-SHA-256%' from pg_authid where rolname = 'marketdata'")
        is True
    )
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))
    assert one(url, "show unix_socket_directories") == ""
    assert one(url, "show listen_addresses") == "127.0.0.1"


def test_defaults_are_crash_safe(home: Path) -> None:
    url = EmbeddedServer(home).ensure_running()
    for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert one(url, f"show {setting}") == "on"
    assert one(url, "show timezone") == "UTC"


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    with pytest.raises(MarketDataError, match="shared_buffers") as caught:
        EmbeddedServer(home, FAST | {"shared_buffers": "plenty"}).ensure_running()
    assert "\n" not in str(caught.value)
    assert EmbeddedServer(home, FAST).ensure_running().startswith("postgresql://")


def test_environment_meant_for_other_servers_does_not_reach_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGSSLMODE": "require", "PGOPTIONS": "-c nonsense=1", "PGHOST": "192.0.2.1"}.items():
        monkeypatch.setenv(name, value)
    server = EmbeddedServer(home, FAST)
    assert server.ensure_running() == server.ensure_running()


def test_a_lost_password_file_is_named(home: Path) -> None:
    server = EmbeddedServer(home, FAST)
    server.ensure_running()
    kept = (home / "postgres.json").read_text()
    (home / "postgres.json").unlink()
    with pytest.raises(ConfigurationError, match=r"postgres\.json.*missing"):
        server.ensure_running()
    (home / "postgres.json").write_text(kept)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_folders_above_keep_their_permissions(mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        parent.chmod(mode)
        home = parent / "some" / "home"
        server = EmbeddedServer(home, FAST)
        try:
            assert one(server.ensure_running(), "select 1") == 1
            assert parent.stat().st_mode & 0o777 == mode
            assert (home / "postgres").stat().st_uid != 0
        finally:
            server.stop()


def test_a_home_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="MARKETDATA_HOME"):
        EmbeddedServer(tmp_path / "file" / "home").ensure_running()
