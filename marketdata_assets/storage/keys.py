"""``api_keys``: who may use the HTTP API. A key is shown once, when it is made; its hash is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.rows import fetch

if TYPE_CHECKING:
    from datetime import datetime

    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.rows import Session

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_PREFIX: Final = "mda_"
"""Tells people, and scanners of leaked secrets, what a key is for."""
_RANDOM_BYTES: Final = 32

_CREATE: Final = """
insert into api_keys (name, scope, key_hash)
values (%s, %s, %s)
on conflict (name) do nothing
"""
_LIST: Final = """
select name, scope, key_hash, created_at, revoked_at
from api_keys
order by created_at, name
"""
_WORKING_NAMES: Final = """
select name
from api_keys
where revoked_at is null
order by name
"""
_REVOKE: Final = """
update api_keys
set revoked_at = coalesce(revoked_at, now())
where name = %s
"""


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
    row = [name, scope.value, hash_of(key)]
    if database.transaction(lambda session: session.execute(_CREATE, row).rowcount) == 0:
        message = f"there is a key called {name}, or was: choose another name, see `marketdata keys list`"
        raise ConfigurationError(message)
    return key


def list_keys(database: Database) -> list[ApiKey]:
    """Every key that was made, in that order."""
    return database.fetch(_LIST, row=_key_of)


def _key_of(
    name: str, scope: str, key_hash: bytes, created_at: datetime, revoked_at: datetime | None
) -> ApiKey:
    return ApiKey(name, Scope(scope), key_hash, created_at, revoked_at)


def list_working_names(session: Session) -> list[str]:
    """Return the names of the keys that are not revoked, sorted."""
    return fetch(session, _WORKING_NAMES, row=str)


def revoke_key(database: Database, name: str) -> None:
    """End the key called ``name``; one that has ended already stays so.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if database.transaction(lambda session: session.execute(_REVOKE, [name]).rowcount) == 0:
        message = f"there is no key called {name}: see `marketdata keys list`"
        raise ConfigurationError(message)
