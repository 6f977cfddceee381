"""Who may do what: keys, and the programs of this machine that need none to read."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from marketdata_assets.api.problems import Problem
from marketdata_assets.api.shared import Shared
from marketdata_assets.config import is_loopback, is_loopback_host
from marketdata_assets.storage.keys import Scope, hash_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import Scope as AsgiScope

    from marketdata_assets.storage.keys import ApiKey

HEADER: Final = "X-API-Key"
KEY_SECONDS: Final = 5.0
"""For how long a list of keys is believed: so long a new key waits, and a revoked one goes on working."""

_FORWARDED: Final = frozenset(
    {
        *(b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"),
        *(b"cf-connecting-ip", b"true-client-ip", b"x-client-ip"),
    }
)
_BEARER: Final = "bearer"
_CHALLENGE: Final = {"WWW-Authenticate": f'ApiKey header="{HEADER}", Bearer realm="marketdata"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        label: Whose bucket of tokens it is: a key's name or an address.
        scope: Of the key that was given; None without one, and for one that opens nothing.
        gave_key: Whether one was given.
        local: Whether it reads without a key: a program of this machine, or a proxy that looks like one.
        gave_several: Whether different keys were given: none of them counts.
    """

    label: str
    scope: Scope | None
    gave_key: bool
    local: bool
    gave_several: bool = False

    def require(self, needed: Scope) -> None:
        """Let it pass, or raise :class:`Problem`: 401 without a key that works, 403 with one that is not enough."""
        if self.gave_several:
            raise Problem(400, "several-keys", f"different keys in {HEADER} or Authorization: send one")
        if self.gave_key and self.scope is None:
            raise Problem(
                401, "unknown-key", "the key that was given is unknown or revoked", headers=_CHALLENGE
            )
        if self.scope is Scope.ADMIN or needed is self.scope:
            return
        if needed is Scope.READ and self.local:
            return
        if self.scope is None:
            raise Problem(
                401,
                "key-needed",
                f"a key is needed, in {HEADER} or as Authorization: Bearer: `marketdata keys create NAME"
                f"{' --scope admin' if needed is Scope.ADMIN else ''}` makes one",
                headers=_CHALLENGE,
            )
        raise Problem(
            403, "admin-key-needed", "this key only reads: `marketdata keys create NAME --scope admin`"
        )


class KeyRing:
    """The keys that work: those of the environment, which read, and those of ``api_keys``."""

    def __init__(
        self,
        of_environment: Iterable[str],
        load: Callable[[], Awaitable[list[ApiKey]]],
        clock: Callable[[], float],
    ) -> None:
        self._fixed = [
            (f"{place} of the environment", Scope.READ, hash_of(key))
            for place, key in enumerate(of_environment, start=1)
        ]
        self._stored = Shared(load, KEY_SECONDS, clock)

    async def find(self, key: str) -> tuple[str, Scope] | None:
        """The name and scope of ``key``; None when it opens nothing.

        Raises whatever reading the keys raises, unless the environment has this one.
        """
        wanted = hash_of(key)
        found = _match(wanted, self._fixed)
        if found is not None:
            return found
        stored = await self._stored.get()
        return _match(
            wanted, [(one.name, one.scope, one.key_hash) for one in stored if one.revoked_at is None]
        )


def _match(wanted: bytes, keys: list[tuple[str, Scope, bytes]]) -> tuple[str, Scope] | None:
    """All are compared, each in the same time: how long it takes tells nothing about any of them."""
    found = None
    for name, scope, key_hash in keys:
        if hmac.compare_digest(key_hash, wanted):
            found = (name, scope)
    return found


async def identify(scope: AsgiScope, keys: KeyRing, *, open_reads: bool) -> Caller:
    """Who sent the request of ``scope``.

    ``open_reads`` says that the server listens on loopback only and no proxy is in front of it: one of this machine
    connects from loopback for the whole world, and may add nothing that tells. Those that do tell, by a header or by
    another host's name in ``Host``, are found out; what their headers say is not believed for anything else.
    """
    client = scope.get("client")
    address = client[0] if client else "unknown"
    given, host, forwarded = set[str](), "", False
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            given.add(value.decode("latin-1"))
        elif name == b"authorization":
            given |= _bearer_keys(value.decode("latin-1"))
        elif name == b"host":
            host = value.decode("latin-1")
        elif name.replace(b"_", b"-") in _FORWARDED:
            forwarded = True
    if len(given) > 1:
        return Caller(address, None, gave_key=True, local=False, gave_several=True)
    local = open_reads and not forwarded and is_loopback_host(address) and _names_loopback(host)
    if not given:
        return Caller(address, None, gave_key=False, local=local)
    found = await keys.find(given.pop())
    if found is None:
        return Caller(address, None, gave_key=True, local=local)
    name, granted = found
    return Caller(f"key {name}", granted, gave_key=True, local=local)


def require_one_host(scope: AsgiScope) -> None:
    """Raise :class:`Problem` unless the request of ``scope`` names exactly one host, or is older than ``Host``.

    RFC 9112 asks for it: a proxy may have gone by the first of two, and what comes after it by the last.
    """
    hosts = sum(name == b"host" for name, _ in scope["headers"])
    if hosts > 1 or (hosts == 0 and scope.get("http_version") == "1.1"):
        raise Problem(
            400, "not-one-host", "a request names one host: send one Host header, that of the target"
        )


def _bearer_keys(authorization: str) -> set[str]:
    """The key of an ``Authorization`` header; none of another scheme, which may be meant for a proxy."""
    scheme, _, key = authorization.partition(" ")
    return {key.strip()} if scheme.lower() == _BEARER else set()


def _names_loopback(host: str) -> bool:
    # RFC 9112: Host is a host and a port, and no other part of a URL.
    if any(mark in host for mark in "@/?#"):
        return False
    try:
        return is_loopback(f"//{host}")
    except ValueError:
        return False
