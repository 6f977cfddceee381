"""Access to the API: keys, and the programs on this machine that need no key to read."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from marketdata_assets.api.problems import Problem
from marketdata_assets.api.single_flight import SingleFlight
from marketdata_assets.config import is_loopback, is_loopback_host
from marketdata_assets.storage.keys import Scope, hash_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import Scope as AsgiScope

    from marketdata_assets.storage.keys import ApiKey

HEADER: Final = "X-API-Key"
KEY_SECONDS: Final = 5.0
"""How long a list of keys is reused: a new key may wait this long, and a revoked one may keep working this long."""

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
    """The sender of a request.

    Attributes:
        label: The owner of the token bucket: a key's name or an address.
        scope: The scope of the key that was sent; None without a key or with one that does not work.
        gave_key: Whether a key was sent.
        local: Whether the caller may read without a key: a program on this machine, or a proxy that looks like one.
        gave_several: Whether different keys were sent; none of them counts then.
    """

    label: str
    scope: Scope | None
    gave_key: bool
    local: bool
    gave_several: bool = False

    def require(self, needed: Scope) -> None:
        """Raise :class:`Problem` unless the caller has the scope ``needed``: 401 without a working key, 403 otherwise."""
        if self.gave_several:
            raise Problem(400, "several-keys", f"different keys in {HEADER} or Authorization: send one")
        if self.gave_key and self.scope is None:
            raise Problem(
                401, "unknown-key", "the key is unknown or revoked: send another one", headers=_CHALLENGE
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
    """The working keys: those of the environment, which only read, and those of the table ``api_keys``."""

    def __init__(
        self,
        environment_keys: Iterable[str],
        load: Callable[[], Awaitable[list[ApiKey]]],
        clock: Callable[[], float],
    ) -> None:
        self._fixed = [
            (f"{number} of the environment", Scope.READ, hash_of(key))
            for number, key in enumerate(environment_keys, start=1)
        ]
        self._stored = SingleFlight(load, KEY_SECONDS, clock)

    async def find(self, key: str) -> tuple[str, Scope] | None:
        """Return the name and scope of ``key``; None when the key does not work.

        Raises whatever reading the stored keys raises, unless ``key`` is one of the environment.
        """
        wanted = hash_of(key)
        found = _match(wanted, self._fixed)
        if found is not None:
            return found
        stored = await self._stored.get()
        return _match(
            wanted, [(key.name, key.scope, key.key_hash) for key in stored if key.revoked_at is None]
        )


def _match(wanted: bytes, keys: list[tuple[str, Scope, bytes]]) -> tuple[str, Scope] | None:
    """Compare ``wanted`` with all ``keys``, each in constant time, so that the duration reveals nothing about them."""
    found = None
    for name, scope, key_hash in keys:
        if hmac.compare_digest(key_hash, wanted):
            found = (name, scope)
    return found


async def identify(scope: AsgiScope, keys: KeyRing, *, open_reads: bool) -> Caller:
    """Return the sender of the request of ``scope``.

    ``open_reads`` states that the server listens on loopback only and that no proxy is in front of it. A proxy on this
    machine connects from loopback on behalf of everyone, and may add nothing that gives it away. A proxy that does give
    itself away, by a header or by another host's name in ``Host``, is detected; its headers are trusted for nothing else.
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
    """Raise :class:`Problem` unless the request of ``scope`` names exactly one host, or predates the header ``Host``.

    RFC 9112 requires it: a proxy may have used the first of two hosts, and the server behind it the last.
    """
    hosts = sum(name == b"host" for name, _ in scope["headers"])
    if hosts > 1 or (hosts == 0 and scope.get("http_version") == "1.1"):
        raise Problem(
            400, "not-one-host", "a request names one host: send one Host header, with the target's host"
        )


def _bearer_keys(authorization: str) -> set[str]:
    """Return the key of an ``Authorization`` header; no key of another scheme, which may be meant for a proxy."""
    scheme, _, key = authorization.partition(" ")
    return {key.strip()} if scheme.lower() == _BEARER else set()


def _names_loopback(host: str) -> bool:
    # RFC 9112: Host holds a host and a port, and no other part of a URL.
    if any(character in host for character in "@/?#"):
        return False
    try:
        return is_loopback(f"//{host}")
    except ValueError:
        return False
