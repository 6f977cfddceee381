"""``marketdata serve`` and ``marketdata keys`` as people run them, and the API against its own OpenAPI document."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from typer.testing import CliRunner, Result

from marketdata_assets.cli.app import app
from marketdata_assets.cli.completion import complete_key
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.keys import Scope, create_key, hash_of, list_keys
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.integration.frames import run_of
from marketdata_assets_tests.integration.platform import command, command_environment, run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from marketdata_assets.storage.connection import Database

START_SECONDS = 120


@pytest.fixture
def environment(database: Database, database_url: str, tmp_path: Path) -> dict[str, str]:
    add_symbols(
        database,
        [
            TrackedSymbol("AAPL", AssetClass.STOCK, timeframes=(Timeframe.M1,)),
            TrackedSymbol("BTC-USD", AssetClass.CRYPTO, timeframes=(Timeframe.M1,)),
        ],
    )
    write_batch(database, BarBatch(run_of("BTC-USD:1m", 30)))
    return command_environment(tmp_path, database_url, MARKETDATA_API_KEYS="a-key-of-the-environment")


@contextmanager
def serving(
    environment: dict[str, str], folder: Path, *options: str, before: tuple[str, ...] = ()
) -> Iterator[str]:
    """The address of a running server; it must end well when it is told to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [*before, *command("serve", "--port", str(port), *options)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while "serving on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        # At once, and by every process: that is what the line says.
        assert answers(url), log.read_text()
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


# slow: hundreds of generated requests
@pytest.mark.slow
def test_the_api_keeps_what_its_openapi_document_promises(
    environment: dict[str, str], database: Database, tmp_path: Path
) -> None:
    key = create_key(database, "schemathesis", Scope.ADMIN)
    with serving(environment, tmp_path, "--requests-per-second", "100000") as url:
        found = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("run", f"{url}/openapi.json", "--header", f"X-API-Key: {key}", "--no-color"),
                *("--max-examples", "10", "--phases", "examples,coverage,fuzzing", "--seed", "1"),
                # That a start lies before its end, and a cursor comes from this server, no schema can say.
                *("--exclude-checks", "positive_data_acceptance", "--generation-database", "none"),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr
    assert "Tested: 12" in found.stdout


# slow: a server process
@pytest.mark.slow
def test_idle_connections_under_a_low_file_limit_leave_the_server_answering(
    environment: dict[str, str], tmp_path: Path
) -> None:
    limited = ("bash", "-c", 'ulimit -n 200; exec "$@"', "limited")
    with serving(environment, tmp_path, before=limited) as url, contextlib.ExitStack() as stack:
        port = int(url.rpartition(":")[2])
        for _ in range(500):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        for _ in range(5):
            assert answers(url)
    assert "too-many-connections" in (tmp_path / "serve.log").read_text()


# slow: several server processes
@pytest.mark.slow
def test_workers_share_the_port_the_keys_and_the_counts(
    environment: dict[str, str], database: Database, tmp_path: Path
) -> None:
    key = create_key(database, "notebook", Scope.READ)
    with serving(environment, tmp_path, "--workers", "2", "--require-key") as url:
        path = f"{url}/api/v1/historical/BTC-USD?timeframe=1m&start=2024-01-02&end=2024-01-02"
        assert httpx.get(path).status_code == 401
        for given in (key, "a-key-of-the-environment"):
            # New connections, so that either process answers some.
            counts = [len(httpx.get(path, headers={"X-API-Key": given}).json()["data"]) for _ in range(4)]
            assert counts == [30] * 4
        page = httpx.get(f"{url}/metrics", headers={"X-API-Key": key}).text
        assert 'marketdata_api_rows_total{route="/api/v1/historical/{symbol}"} 240.0' in page


def test_keys_are_made_shown_once_listed_and_revoked(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)

    def keys(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", *arguments])

    made = keys("create", "notebook")
    key = made.stdout.strip()
    assert (made.exit_code, "notebook (read)" in made.stderr) == (0, True)
    assert key not in keys("list").output
    for wrong in (
        ("create", "notebook"),
        ("create", "../x"),
        ("create", "x", "--scope", "root"),
        ("revoke", "x"),
    ):
        assert isinstance(keys(*wrong).exception, ConfigurationError), wrong
    assert complete_key("no") == ["notebook"]
    assert keys("revoke", "notebook").exit_code == 0
    assert complete_key("no") == []
    listed = json.loads(keys("list", "--json").stdout)
    assert [(one["name"], one["scope"], one["revoked_at"] is None) for one in listed] == [
        ("notebook", "read", False)
    ]
    assert [(one.name, one.key_hash) for one in list_keys(database)] == [("notebook", hash_of(key))]
    other = json.loads(keys("create", "operator", "--scope", "admin", "--json").stdout)
    assert (other["name"], other["scope"]) == ("operator", "admin")
    assert hash_of(other["key"]) in [one.key_hash for one in list_keys(database)]


def test_a_port_that_is_taken_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run_command(environment, tmp_path, "serve", "--port", port)
    assert refused.returncode == 2
    assert f"127.0.0.1 port {port} cannot be listened on" in refused.stderr


@pytest.mark.parametrize(
    ("options", "warned"),
    [((), True), (("--host", "::1"), True), (("--require-key",), False), (("--host", "203.0.113.9"), False)],
)
def test_a_server_that_reads_for_nothing_says_what_a_proxy_needs(
    options: tuple[str, ...], *, warned: bool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")  # the command sets it
    monkeypatch.setattr("marketdata_assets.cli.serve._require_free", lambda host, port: (host, port))

    def listen(options: object, announce: Callable[[], None]) -> None:
        started.append(options)
        announce()

    monkeypatch.setattr("marketdata_assets.api.server.serve", listen)
    said = CliRunner().invoke(app, ["serve", *options])
    assert (said.exit_code, len(started)) == (0, 1), said.output
    assert ("behind any proxy, add --require-key" in said.stderr) is warned
