"""Slow and many clients, over real sockets: which connections are closed, when, and which stay."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from marketdata_assets.api.connections import Connection, ConnectionLimits, Connections, _network_of, state_of
from marketdata_assets.api.refusals import RefusalLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from starlette.requests import Request

WAIT = 20.0
LIMITS = ConnectionLimits(receive_seconds=0.4, send_seconds=0.6, per_address=4, total=100)
HEAD = b"GET /short HTTP/1.1\r\nHost: here\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
LONG = b"GET /long HTTP/1.1\r\nHost: here\r\n\r\n"
LONG_BYTES = 30_000_000


class Served:
    """A running server: its port, its register, and the bytes that its app has sent of long answers."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.connections = Connections(limits, RefusalLog(time.monotonic))
        self.release = threading.Event()
        self.sent = 0
        self.port = 0

    def connect(self, data: bytes = b"", *, buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(WAIT)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    async def short(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(",".join(request.headers.getlist("host")))

    async def body(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def held(self, _: Request) -> PlainTextResponse:
        await asyncio.to_thread(self.release.wait, WAIT)
        return PlainTextResponse("held")

    async def long(self, _: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(LONG_BYTES // 50_000):
                self.sent += 50_000
                yield b"x" * 50_000

        return StreamingResponse(pieces(), headers={"Content-Length": str(LONG_BYTES)})


@contextmanager
def serving(limits: ConnectionLimits = LIMITS) -> Iterator[Served]:
    served = Served(limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        yield state_of(served.connections)

    routes = [
        Route(f"/{name}", getattr(served, name), methods=["GET", "POST"])
        for name in ("short", "body", "held", "long")
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    served.port = listener.getsockname()[1]
    config = uvicorn.Config(
        Starlette(routes=routes, lifespan=lifespan),
        http=Connection,
        ws="none",
        log_config=None,
        log_level="critical",
        timeout_keep_alive=1,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield served
    finally:
        served.release.set()
        server.should_exit = True
        thread.join(WAIT)
        assert not thread.is_alive()


def read_all(client: socket.socket, trickle: bytes = b"") -> bytes:
    """What arrives until the server closes the connection, while ``trickle`` is sent again and again."""
    found = b""
    client.settimeout(0.05)
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            if trickle:
                client.sendall(trickle)
            piece = client.recv(65_536)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not piece:
            return found
        found += piece
    pytest.fail(f"still open after {WAIT:g} s; received {found[:100]!r}")


@pytest.mark.parametrize(
    ("sent", "trickle", "answers"),
    [
        (b"", b"", [b"408"]),
        (HEAD, b"", [b"408"]),
        (HEAD + b"X-Slow: ", b"x", [b"408"]),
        (POST, b"", [b"408"]),
        (POST, b"x", [b"408"]),
        (HEAD + b"\r\n", b"", [b"200"]),
        (HEAD + b"\r\n" + HEAD + b"X-Slow: ", b"x", [b"200"]),
    ],
    ids=[
        "nothing",
        "half a head",
        "a trickling head",
        "no body",
        "a trickling body",
        "idle",
        "a second head",
    ],
)
def test_a_client_that_keeps_the_server_waiting_is_closed(
    sent: bytes, trickle: bytes, answers: list[bytes]
) -> None:
    with serving() as served, served.connect(sent) as client:
        found = read_all(client, trickle)
    assert [line.split()[1] for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] == answers


def test_a_request_that_takes_long_to_answer_is_not_closed() -> None:
    with (
        serving() as served,
        served.connect(b"GET /held HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n") as client,
    ):
        threading.Timer(3 * LIMITS.receive_seconds, served.release.set).start()
        assert read_all(client).endswith(b"held")


def test_an_answer_that_is_not_read_is_given_up_and_not_kept() -> None:
    with serving() as served, served.connect(LONG, buffer=4096) as client:
        deadline = time.monotonic() + WAIT
        sent = 0
        while served.connections._count or not sent:
            sent = served.sent if served.connections._count else sent
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # The system takes some megabytes; the rest was not made while somebody might have read it.
        assert sent < LONG_BYTES / 2
        client.close()


def test_a_slow_reader_that_reads_gets_everything() -> None:
    with (
        serving() as served,
        served.connect(LONG.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as client,
    ):
        began = time.monotonic()
        found = 0
        while piece := client.recv(1_000_000):
            found += len(piece)
            time.sleep(0.02)  # slower than the deadline in all, and never for as long at once
        assert found > LONG_BYTES
        assert time.monotonic() - began > LIMITS.send_seconds


def test_an_address_that_opens_too_many_loses_those_that_wait_longest() -> None:
    limits = ConnectionLimits(receive_seconds=WAIT, per_address=4)
    with serving(limits) as served:
        idle = [served.connect() for _ in range(12)]
        with served.connect(HEAD + b"Connection: close\r\n\r\n") as client:
            assert read_all(client).startswith(b"HTTP/1.1 200")
        for client in idle[:8]:
            assert read_all(client).startswith(b"HTTP/1.1 503")
            client.close()
        for client in idle[8:]:
            client.close()


def test_of_connections_that_wait_since_one_reading_of_the_clock_the_oldest_is_closed() -> None:
    connections = Connections(ConnectionLimits(per_address=4), RefusalLog(time.monotonic))
    opened = [Mock(spec=Connection, address="here", waiting_since=1.0, loop=Mock()) for _ in range(30)]
    for each in opened:
        connections.add(each)
    assert [each.refuse.called for each in opened] == [True] * 26 + [False] * 4


def test_requests_that_are_being_answered_are_kept_and_the_newest_connection_refused() -> None:
    with serving(ConnectionLimits(receive_seconds=WAIT, per_address=2)) as served:
        request = b"GET /held HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
        held = [served.connect(request) for _ in range(2)]
        deadline = time.monotonic() + WAIT
        while (
            sum(
                one.waiting_since is None
                for found in list(served.connections._by_address.values())
                for one in list(found)
            )
            < 2
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with served.connect() as client:
            assert read_all(client).startswith(b"HTTP/1.1 503")
        served.release.set()
        for client in held:
            assert read_all(client).endswith(b"held")
            client.close()


@pytest.mark.parametrize(
    ("target", "hosts"),
    [("/short", "here"), ("http://here/short", "here"), ("http://elsewhere/short", "here,elsewhere")],
)
def test_the_host_of_an_absolute_target_counts_as_a_host(target: str, hosts: str) -> None:
    with (
        serving() as served,
        served.connect(
            f"GET {target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode()
        ) as client,
    ):
        assert read_all(client).decode().rpartition("\r\n")[2] == hosts


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("unknown", "unknown"),
    ],
)
def test_a_client_of_ipv6_is_its_network(address: str, network: str) -> None:
    assert _network_of(address) == network


@pytest.mark.parametrize(
    ("open_files", "total", "per_address"), [(200, 100, 50), (20_000, 1_000, 100), (64, 4, 2)]
)
def test_connections_leave_files_to_the_database(open_files: int, total: int, per_address: int) -> None:
    found = ConnectionLimits().within(open_files)
    assert (found.total, found.per_address) == (total, per_address)
