"""The schema of the market database, as numbered SQL files that are applied once, in order.

A file is named ``NNNN_name.sql``, numbered from 0001 without gaps, and never edited once applied: its
checksum is stored in ``schema_migrations``. Each file is one transaction. Concurrent migrators queue for a lock.

Belongs here: applying and recording migrations. Does not belong here: definitions of tables (``sql/``).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.wording import one_line
from marketdata_assets.storage.connection import Timeouts, connect
from marketdata_assets.storage.failures import (
    REMEDIES,
    NotPermittedError,
    ReadOnlyStoreError,
    explain_failure,
)
from marketdata_assets.storage.locks import lock_migrations
from marketdata_assets.storage.rows import fetch

if TYPE_CHECKING:
    from marketdata_assets.storage.rows import Session

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
MINIMUM_VERSION: Final = 18
"""The first Postgres whose MERGE returns the values that it replaces."""

_TIMEOUTS = Timeouts(statement=timedelta(0), lock=timedelta(minutes=30))
"""The limits of a migration: building an index on years of bars, or waiting for another migrator that does, takes long."""

_CREATE_HISTORY: Final = """
create table if not exists public.schema_migrations (
  version integer primary key,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default now()
)
"""
_APPLIED: Final = """
select version, name, checksum
from public.schema_migrations
order by version
"""
_RECORD: Final = "insert into public.schema_migrations (version, name, checksum) values (%s, %s, %s)"
_PERMITTED: Final = """
select current_setting('transaction_read_only') = 'off',
  has_schema_privilege('public', 'create')
    and (to_regnamespace('dagster') is not null or has_database_privilege(current_database(), 'create'))
"""


class _Applied(NamedTuple):
    version: int
    name: str
    checksum: str


class _Permitted(NamedTuple):
    to_write: bool
    to_create: bool


@dataclass(frozen=True)
class Migration:
    """One numbered file. ``checksum`` is the SHA-256 of its text with Unix line ends."""

    version: int
    file_name: str
    text: str
    checksum: str


def sql_folder() -> Path:
    """Return the folder of the numbered files: inside the installed package, or at the root of the checkout."""
    package = Path(str(files("marketdata_assets")))
    packaged = package / "sql"
    return packaged if packaged.is_dir() else package.parent / "sql"


def load_migrations(folder: Path | None = None) -> list[Migration]:
    """Load the migrations of ``folder`` (default: the platform's own) in order.

    Raises:
        ConfigurationError: A file is misnamed, or a number is used twice or left out.
    """
    folder = sql_folder() if folder is None else folder
    if not folder.is_dir():
        message = f"there is no folder {folder} with migrations: reinstall marketdata_assets"
        raise ConfigurationError(message)
    migrations: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            message = (
                f"{path} is not named NNNN_name.sql (digits, then lower-case letters, digits, underscores)"
            )
            raise ConfigurationError(message)
        text = path.read_text(
            encoding="utf-8"
        )  # universal newlines: a checkout on Windows has the same checksum
        checksum = hashlib.sha256(text.encode()).hexdigest()
        migrations.append(Migration(int(match[1]), path.name, text, checksum))
    for expected, migration in enumerate(migrations, start=1):
        if migration.version == expected - 1 and expected > 1:
            earlier = migrations[expected - 2].file_name
            message = f"{earlier} and {migration.file_name} have the same number in {folder}"
            raise ConfigurationError(message)
        if migration.version != expected:
            message = (
                f"migration {expected:04d} is missing in {folder}: {migration.file_name} comes too early"
            )
            raise ConfigurationError(message)
    return migrations


def migrate(url: str, folder: Path | None = None, *, minimum_version: int = MINIMUM_VERSION) -> list[str]:
    """Apply the pending migrations and return their file names in order; none when the schema is up to date.

    Raises:
        ConfigurationError: An applied file was edited or renamed, the database is ahead of this version, the
            files are misnumbered, or the server is out of reach or older than ``minimum_version`` of Postgres.
        MarketDataError: A migration failed and was rolled back; the ones before it stay applied.
    """
    migrations = load_migrations(folder)
    with connect(url, application_name="marketdata migrate", timeouts=_TIMEOUTS) as session:
        session.autocommit = True
        _require_version(session, minimum_version)
        if not _find_pending(session, migrations):
            return []
        lock_migrations(session)
        session.execute(_CREATE_HISTORY)
        todo = _find_pending(session, migrations)
        for migration in todo:
            _apply(session, migration)
        return [migration.file_name for migration in todo]


def pending(url: str, folder: Path | None = None) -> list[str]:
    """Return the names of the files that :func:`migrate` would apply.

    Raises:
        ConfigurationError: As :func:`migrate` does.
    """
    migrations = load_migrations(folder)
    with connect(url, application_name="marketdata migrate", timeouts=_TIMEOUTS) as session:
        session.autocommit = True
        _require_version(session)
        return [migration.file_name for migration in _find_pending(session, migrations)]


def find_obstacle(url: str) -> str | None:
    """Return why the platform cannot work with the database that answers at ``url``; None when it can.

    Raises:
        StoreError: The database does not answer, or a pooler in between drops the settings of sessions.
    """
    with connect(url, application_name="marketdata status") as session:
        try:
            _require_version(session)
        except ConfigurationError as error:
            return str(error)
        (permitted,) = fetch(session, _PERMITTED, row=_Permitted)
        if not permitted.to_write:
            return REMEDIES[ReadOnlyStoreError]
        if not permitted.to_create:
            return REMEDIES[NotPermittedError]
        return None


def _require_version(session: Session, minimum: int = MINIMUM_VERSION) -> None:
    if session.info.server_version < minimum * 10_000:
        found = session.info.server_version // 10_000
        message = (
            f"the server of DATABASE_URL is Postgres {found}: {minimum} or newer is needed;"
            " unset DATABASE_URL to use the embedded server"
        )
        raise ConfigurationError(message)


def _find_pending(session: Session, migrations: list[Migration]) -> list[Migration]:
    try:
        rows = fetch(session, _APPLIED, row=_Applied)
    except psycopg.errors.UndefinedTable:
        rows = []
    known = {migration.version: migration for migration in migrations}
    for version, name, checksum in rows:
        migration = known.pop(version, None)
        if migration is None:
            message = (
                f"the database is ahead: it has migration {name}, unknown here; upgrade marketdata_assets"
            )
            raise ConfigurationError(message)
        if (migration.file_name, migration.checksum) != (name, checksum):
            what = "was edited" if migration.file_name == name else f"was renamed to {migration.file_name}"
            message = (
                f"migration {name} {what} after it was applied: restore it and put the change in a new file"
            )
            raise ConfigurationError(message)
    return list(known.values())


def _apply(session: Session, migration: Migration) -> None:
    try:
        with session.transaction():
            session.execute(
                migration.text.encode()
            )  # without parameters: several statements, % is a plain sign
            if session.info.transaction_status != TransactionStatus.INTRANS:
                message = (
                    f"migration {migration.file_name} ends its own transaction: "
                    "remove its COMMIT or ROLLBACK and restore the database from a backup"
                )
                raise MarketDataError(message)
            session.execute(_RECORD, [migration.version, migration.file_name, migration.checksum])
    except psycopg.Error as error:
        if (failure := explain_failure(error)) is not None:
            raise failure from error
        why = one_line(str(error))
        message = f"migration {migration.file_name} failed and was rolled back: {why}"
        raise MarketDataError(message) from error
