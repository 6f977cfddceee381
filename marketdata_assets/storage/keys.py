"""The table ``api_keys`` of keys to the HTTP API. A key is shown once, when it is created; only its hash is stored."""

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
"""A prefix by which people, and scanners of leaked secrets, recognise a key."""
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
    """The permission of a key. An admin key may read, too."""

    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key. ``revoked_at`` is None while the key works; times are UTC."""

    name: str
    scope: Scope
    key_hash: bytes
    created_at: datetime
    revoked_at: datetime | None


def hash_of(key: str) -> bytes:
    """Return the SHA-256 of ``key``.

    A slow hash protects secrets that people choose. Keys are 256 random bits: guessing one is hopeless at any speed, and
    the hash is computed for every request.
    """
    return hashlib.sha256(key.encode()).digest()


def create_key(database: Database, name: str, scope: Scope) -> str:
    """Create a key called ``name`` and return it: the key cannot be shown again.

    Raises:
        ConfigurationError: The name is taken, if only by a revoked key, or is not a valid name.
    """
    if not _NAME.fullmatch(name):
        message = f"{name!r} is not a name for a key: use letters, digits, '.', '_' and '-', at most 64"
        raise ConfigurationError(message)
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    row = [name, scope.value, hash_of(key)]
    if database.transaction(lambda session: session.execute(_CREATE, row).rowcount) == 0:
        message = f"a key called {name} exists, or existed: choose another name, see `marketdata keys list`"
        raise ConfigurationError(message)
    return key


def list_keys(database: Database) -> list[ApiKey]:
    """Read every key, revoked ones included, in the order of creation."""
    return database.fetch(_LIST, row=_key_of)


def _key_of(
    name: str, scope: str, key_hash: bytes, created_at: datetime, revoked_at: datetime | None
) -> ApiKey:
    return ApiKey(name, Scope(scope), key_hash, created_at, revoked_at)


def list_working_names(session: Session) -> list[str]:
    """Return the names of the keys that are not revoked, sorted."""
    return fetch(session, _WORKING_NAMES, row=str)


def revoke_key(database: Database, name: str) -> None:
    """Revoke the key called ``name``; a key that is already revoked stays so.

    Raises:
        ConfigurationError: There is no key of that name.
    """
    if database.transaction(lambda session: session.execute(_REVOKE, [name]).rowcount) == 0:
        message = f"there is no key called {name}: see `marketdata keys list`"
        raise ConfigurationError(message)
