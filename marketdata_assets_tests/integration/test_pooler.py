"""A connection pooler that drops what a session begins with, as a proxy that rewrites the startup packet."""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from marketdata_assets.storage.connection import Database, connect, dagster_storage_url
from marketdata_assets.storage.failures import DroppedOptionsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ENCRYPTION_REQUESTS = {80877103, 80877104}


def without_options(options: bytes) -> bytes | None:
    """What PgBouncer does with ``ignore_startup_parameters = options``."""
    del options
    return None


def without_search_path(options: bytes) -> bytes | None:
    """A pooler that knows some settings and forgets the others."""
    return options.partition(b"-csearch_path")[0]


class Pooler:
    """Forwards connections to a server; ``rewrite`` makes what becomes of their ``options``."""

    def __init__(self, server: tuple[str, int], rewrite: Callable[[bytes], bytes | None]) -> None:
        self._server, self._rewrite = server, rewrite
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            server.sendall(self._startup(client))
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join(5)

    def _startup(self, client: socket.socket) -> bytes:
        while True:
            (length, code) = struct.unpack("!II", self._exactly(client, 8))
            body = self._exactly(client, length - 8)
            if code not in _ENCRYPTION_REQUESTS:
                break
            client.sendall(b"N")
        words = body.rstrip(b"\0").split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=True))
        options = self._rewrite(parameters.pop(b"options", b""))
        if options:
            parameters[b"options"] = options
        text = b"".join(name + b"\0" + value + b"\0" for name, value in parameters.items()) + b"\0"
        return struct.pack("!II", len(text) + 8, code) + text

    @staticmethod
    def _exactly(source: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = source.recv(size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture
def pooled(empty_database_url: str) -> Iterator[Callable[[Callable[[bytes], bytes | None]], str]]:
    parts = urlsplit(empty_database_url)
    poolers = []

    def pooled(rewrite: Callable[[bytes], bytes | None]) -> str:
        pooler = Pooler((str(parts.hostname), int(parts.port or 0)), rewrite)
        poolers.append(pooler)
        account = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{account}@127.0.0.1:{pooler.port}").geturl()

    yield pooled
    for pooler in poolers:
        pooler.close()


def dagster_tables(url: str) -> list[tuple[object, ...]]:
    with connect(url, application_name="test") as connection:
        return connection.execute(
            "select tablename from pg_tables where schemaname in ('public', 'dagster')"
        ).fetchall()


def test_a_pooler_that_drops_options_is_noticed_at_connect(
    pooled: Callable[[Callable[[bytes], bytes | None]], str], empty_database_url: str
) -> None:
    url = pooled(without_options)
    for attempt in (
        lambda: connect(url, application_name="test"),
        lambda: Database(url).transaction(lambda _: None),
        lambda: Database(url).fetch("select 1", row=int),
        lambda: dagster_storage_url(url),
    ):
        with pytest.raises(DroppedOptionsError, match=r"pooler.*DATABASE_URL.*docs/operating\.md") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert str(urlsplit(url).password) not in str(caught.value)
    assert dagster_tables(empty_database_url) == []


def test_a_pooler_that_drops_only_the_schema_is_noticed_before_dagster_writes(
    pooled: Callable[[Callable[[bytes], bytes | None]], str], empty_database_url: str
) -> None:
    url = pooled(without_search_path)
    with connect(url, application_name="test") as connection:
        assert connection.execute("select current_setting('TimeZone')").fetchone() == ("UTC",)
    with pytest.raises(DroppedOptionsError):
        dagster_storage_url(url)
    assert dagster_tables(empty_database_url) == []


def test_a_pooler_that_passes_everything_on_is_as_good_as_the_server(
    pooled: Callable[[Callable[[bytes], bytes | None]], str],
) -> None:
    url = pooled(lambda options: options)
    with Database(url) as database:
        assert database.fetch("select current_setting('statement_timeout')", row=str) == ["10min"]
    assert "search_path" in dagster_storage_url(url)
