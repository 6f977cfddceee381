"""The Postgres that is measured: the embedded server as users get it, in a folder of its own."""

from __future__ import annotations

import socket
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from psycopg import sql

from marketdata_assets.storage.connection import connect
from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets.storage.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def private_server() -> Iterator[str]:
    """The URL of a server with the settings of production (fsync on), stopped and removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="marketdata-benchmarks-") as folder:
        server = EmbeddedServer(Path(folder))
        try:
            yield server.ensure_running()
        finally:
            server.stop()


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """The URL of a migrated database without bars, dropped on leaving."""
    name = f"benchmark_{uuid.uuid4().hex}"
    with connect(server_url, application_name="benchmarks") as connection:
        connection.autocommit = True
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
            migrate(url)
            yield url
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def settle(url: str) -> None:
    """Write out what earlier work left in memory, so that it is not charged to what comes next."""
    with connect(url, application_name="benchmarks") as connection:
        connection.autocommit = True
        connection.execute("checkpoint")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
