"""Connections: a limit on how many are open at once, and deadlines for slow clients.

uvicorn closes idle connections, and no others (docs/decisions/13-slow-clients.md). It takes the class of its connections
as a setting; :class:`Connection` is uvicorn's own class with deadlines and an entry in a register.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from marketdata_assets.api.refusals import RefusalLog

STATE: Final = "connections"
"""The name under which the app's state holds the register of all connections."""

_KEPT_FILES: Final = 100
"""Open files that connections leave for everything else: the database, logs, libraries."""
_SHORT: Final = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_TIMED_OUT: Final = b"HTTP/1.1 408 Request Timeout\r\n" + _SHORT
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n" + _SHORT
_ADDRESS_BITS: Final = 64
"""The bits of an IPv6 address that identify a client; the client chooses the rest."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of one process.

    Attributes:
        receive_seconds: The time in which a whole request must arrive, head and body, counted from its first byte or
            from the opening of the connection.
        send_seconds: The time in which a client must take the 64 KiB that wait for it, and the rest at the end.
        per_address: The most connections of one address.
        total: The most connections of all addresses.
    """

    receive_seconds: float = 5.0
    send_seconds: float = 20.0
    per_address: int = 100
    total: int = 1_000

    def within(self, open_files: int) -> ConnectionLimits:
        """Return these limits for a process that may open ``open_files``; one address gets at most half of the total."""
        total = max(4, min(self.total, open_files - _KEPT_FILES))
        per_address = max(2, min(self.per_address, total // 2))
        return ConnectionLimits(self.receive_seconds, self.send_seconds, per_address, total)


def file_limit() -> int:
    """Return how many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Connections:
    """The open connections of one process, by client address.

    When there are too many, the connection that has waited longest for a request is closed; when none of them waits,
    the newest one is.
    """

    def __init__(self, limits: ConnectionLimits, refusals: RefusalLog) -> None:
        self.limits = limits
        self.refusals = refusals
        # In order of opening, which decides between connections that began to wait at the same reading of the clock.
        self._by_address: dict[str, dict[Connection, None]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        """Register ``connection``, and close a connection when there are too many."""
        self._by_address.setdefault(connection.address, {})[connection] = None
        self._count += 1
        if self._timer is None:
            self._wait(connection.loop)
        if len(self._by_address[connection.address]) > self.limits.per_address:
            self._make_room(connection.address, connection, f"has {self.limits.per_address} connections")
        elif self._count > self.limits.total:
            busiest = max(self._by_address, key=lambda address: len(self._by_address[address]))
            self._make_room(
                busiest, connection, f"{self.limits.total} connections are open, and most are its own"
            )

    def discard(self, connection: Connection) -> None:
        """Remove ``connection`` from the register, if it is still there."""
        found = self._by_address.get(connection.address)
        if found is None or connection not in found:
            return
        del found[connection]
        self._count -= 1
        if not found:
            del self._by_address[connection.address]

    def _make_room(self, address: str, newest: Connection, why: str) -> None:
        waiting = [
            connection for connection in self._by_address[address] if connection.waiting_since is not None
        ]
        closed = min(waiting, key=lambda connection: connection.waiting_since or 0.0, default=newest)
        self.refusals.write("too-many-connections", closed.address, why)
        closed.refuse(_FULL)
        self.discard(closed)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        shortest = min(self.limits.receive_seconds, self.limits.send_seconds)
        self._timer = loop.call_later(min(1.0, shortest / 4), self._close_overdue, loop)

    def _close_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [connection for found in self._by_address.values() for connection in found]:
            connection.close_if_overdue(now)
        self._timer = None
        if self._count:
            self._wait(loop)


class Connection(HttpToolsProtocol):
    """A connection with deadlines. ``app_state`` holds the register, under :data:`STATE`."""

    address: str
    waiting_since: float | None
    """When the client began to owe a request or the rest of one; None while a request is being answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection, and begin to wait for a request."""
        super().connection_made(transport)
        self._register: Connections = self.app_state[STATE]
        self.address = _network_of(self.client[0] if self.client else "unknown")
        self.waiting_since = self.loop.time()
        self._is_idle = False
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._register.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the register."""
        self._register.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read ``data``, and note whether it completes a request."""
        if self._is_idle:
            self._is_idle = False
            self.waiting_since = self.loop.time()
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle  # None before the first head, whatever its type says
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self.waiting_since = None

    def on_headers_complete(self) -> None:
        """Add the host of an absolute target as a ``Host``: it takes precedence over the header (RFC 9112)."""
        if not self.url.startswith((b"/", b"*")):
            target = urlsplit(self.url).netloc.lower()
            if [target] != [value.lower() for name, value in self.headers if name == b"host"]:
                self.headers.append((b"host", target))
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless it has arrived already."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._is_idle = True
            self.waiting_since = self.loop.time()

    def pause_writing(self) -> None:
        """Note when the client stopped taking what was sent."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client takes what was sent again."""
        self._unread_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP."""
        self._register.refusals.write("malformed-request", self.address, "what it sent is not HTTP")
        super().send_400_response(msg)

    def refuse(self, response: bytes) -> None:
        """Close the connection, with ``response`` unless another response has begun."""
        cycle: RequestResponseCycle | None = self.cycle
        if self._is_idle or (cycle is not None and cycle.response_started):
            self.transport.abort()
            return
        self.transport.write(response)
        self.transport.close()

    def close_if_overdue(self, now: float) -> None:
        """Close the connection when its client has missed a deadline by ``now``; uvicorn closes idle connections."""
        limits = self._register.limits
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > limits.send_seconds:
                self.transport.abort()
        elif self._unread_since is not None and now - self._unread_since > limits.send_seconds:
            why = f"it has read nothing for {limits.send_seconds:g} s"
            self._register.refusals.write("slow-reader", self.address, why)
            self.transport.abort()
        elif (
            self.waiting_since is not None
            and not self._is_idle
            and now - self.waiting_since > limits.receive_seconds
        ):
            why = f"no complete request arrived within {limits.receive_seconds:g} s"
            self._register.refusals.write("slow-request", self.address, why)
            self.refuse(_TIMED_OUT)


def _network_of(address: str) -> str:
    """Return ``address``, or for IPv6 the network that one client has to itself."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address) or found.is_loopback:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found, _ADDRESS_BITS), strict=False))


def state_of(connections: Connections) -> Mapping[str, Any]:
    """Return what the app's lifespan must yield for :class:`Connection` to find ``connections``."""
    return {STATE: connections}
