"""``api_keys``: who may use the HTTP API. A key is shown once, when it is made; its hash is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from psycopg import Connection

    from marketdata_assets.storage.connection import Database

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_PREFIX: Final = "mda_"
"""Tells people, and scanners of leaked secrets, what a key is for."""
_RANDOM_BYTES: Final = 32


class Scope(StrEnum):
    """What a key opens. An admin key reads, too."""

    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept. ``revoked_at`` is None while it works; times are UTC."""

    name: str
    scope: Scope
    key_hash: bytes
    created_at: datetime
    revoked_at: datetime | None


def hash_of(key: str) -> bytes:
    """The SHA-256 of ``key``.

    A slow hash protects secrets that people choose. Keys are 256 random bits: trying them out is hopeless at any
    speed, and the hash is computed with every request.
    """
    return hashlib.sha256(key.encode()).digest()


def create_key(database: Database, name: str, scope: Scope) -> str:
    """Make a key called ``name`` and return it: it cannot be shown again.

    Raises:
        ConfigurationError: The name is taken, by a revoked key too, or is none.
    """
    if not _NAME.fullmatch(name):
        message = f"{name!r} is no name of a key: use letters, digits, '.', '_' and '-', 64 at the most"
        raise ConfigurationError(message)
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)

    def write(connection: Connection[tuple[object, ...]]) -> int:
        return connection.execute(
            "insert into api_keys (name, scope, key_hash) values (%s, %s, %s) on conflict (name) do nothing",
            [name, scope.value, hash_of(key)],
        ).rowcount

    if database.transaction(write) == 0:
        message = f"there is a key called {name}, or was: choose another name, see `marketdata keys list`"
        raise ConfigurationError(message)
    return key


def list_keys(database: Database) -> list[ApiKey]:
    """Every key that was made, in that order."""

    def read(connection: Connection[tuple[object, ...]]) -> list[ApiKey]:
        rows = connection.execute(
            "select name, scope, key_hash, created_at, revoked_at from api_keys order by created_at, name"
        ).fetchall()
        return [
            ApiKey(
                str(name),
                Scope(str(scope)),
                bytes(key_hash) if isinstance(key_hash, bytes | memoryview) else b"",
                created_at,
                revoked_at if isinstance(revoked_at, datetime) else None,
            )
            for name, scope, key_hash, created_at, revoked_at in rows
            if isinstance(created_at, datetime)
        ]

    return database.transaction(read)


def revoke_key(database: Database, name: str) -> None:
    """End the key called ``name``; one that has ended already stays so.

    Raises:
        ConfigurationError: There is none of that name.
    """

    def write(connection: Connection[tuple[object, ...]]) -> int:
        return connection.execute(
            "update api_keys set revoked_at = coalesce(revoked_at, now()) where name = %s", [name]
        ).rowcount

    if database.transaction(write) == 0:
        message = f"there is no key called {name}: see `marketdata keys list`"
        raise ConfigurationError(message)
