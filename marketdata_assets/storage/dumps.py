"""Dumps of the whole database, written and restored by the Postgres programs that come with the embedded server.

Belongs here: running pg_dump and pg_restore. Does not belong here: migrations, which update a restored database.

A password is passed to the programs in a file of mode 0600, never as an argument. A dump gets its name when it is
complete. A restore is one transaction, or a new database that replaces the old one when it is complete.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.wording import one_line
from marketdata_assets.storage.connection import connect
from marketdata_assets.storage.failures import DiskFullError, NotPermittedError
from marketdata_assets.storage.rows import fetch
from marketdata_assets.storage.unprivileged import client_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SERVICE: Final = "marketdata"
_NOT_INHERITED: Final = ("PGSERVICE", "PGSERVICEFILE", "PGOPTIONS")
"""Environment variables that the programs must not inherit: every other connection sets these options itself."""
_OWN_OBJECTS: Final = """
select exists (
  select from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relkind in ('r', 'p', 'v', 'm', 'S')
    and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
)
"""


def dump_database(url: str, target: Path) -> int:
    """Dump the database of ``url`` to the file ``target``, which appears when the dump is complete; return its size in bytes.

    Raises:
        ConfigurationError: ``target`` cannot be written.
        StoreError: The server is out of reach, the role may not read everything, or the disk is full.
        MarketDataError: pg_dump failed for another reason, for example because the server is newer.
    """
    # The error of a failed connection gives a better reason than pg_dump's.
    connect(url, application_name="marketdata dump").close()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            _run("pg_dump", url, "--format=custom", f"--file={draft}")
            draft.chmod(0o600)
            size = draft.stat().st_size
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        message = (
            f"{target} cannot be written ({error.strerror}): give a file in a folder that you may write to"
        )
        raise ConfigurationError(message) from None
    return size


def restore_database(url: str, source: Path, *, replace: bool = False) -> None:
    """Restore the dump ``source`` into the database of ``url``, completely or not at all.

    The database must be empty unless ``replace`` is set. With ``replace``, the dump is restored into a new database
    beside the old one; then the sessions of the old database end, and the new one takes its name.

    Raises:
        ConfigurationError: ``source`` is not a readable file, or the database is not empty.
        MarketDataError: pg_restore failed; the database is unchanged.
    """
    if not source.is_file() or not os.access(source, os.R_OK):
        message = f"{source} is not a readable file: give one that `marketdata db dump` wrote"
        raise ConfigurationError(message)
    with connect(url, application_name="marketdata restore") as session:
        has_objects = fetch(session, _OWN_OBJECTS, row=bool) == [True]
    if not has_objects:
        _restore(url, source)
    elif replace:
        _restore_beside(url, source)
    else:
        message = "the database is not empty: `marketdata db restore --replace` replaces all that it contains with the dump"
        raise ConfigurationError(message)


def _restore(url: str, source: Path) -> None:
    _run(
        "pg_restore",
        url,
        "--no-owner",
        "--no-privileges",
        "--single-transaction",
        "--exit-on-error",
        str(source),
    )


def _restore_beside(url: str, source: Path) -> None:
    name = str(conninfo_to_dict(url).get("dbname") or "")
    beside, old = (f"{name}_{word}_{secrets.token_hex(4)}" for word in ("restored", "replaced"))
    names = {key: sql.Identifier(value) for key, value in (("name", name), ("beside", beside), ("old", old))}
    try:
        with connect(_with_database(url, "postgres"), application_name="marketdata restore") as server:
            server.autocommit = True
            server.execute(sql.SQL("create database {beside} template template0").format(**names))
            try:
                _restore(_with_database(url, beside), source)
                server.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
                )
                with server.transaction():
                    server.execute(sql.SQL("alter database {name} rename to {old}").format(**names))
                    server.execute(sql.SQL("alter database {beside} rename to {name}").format(**names))
            except BaseException:
                server.execute(sql.SQL("drop database if exists {beside} with (force)").format(**names))
                raise
            server.execute(sql.SQL("drop database if exists {old} with (force)").format(**names))
    except psycopg.Error as error:
        why = one_line(str(error))
        message = (
            f"the database cannot be replaced ({why}): stop what uses it, or restore into an empty database"
        )
        raise MarketDataError(message) from None


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "dbname"]
    return parts._replace(path=f"/{quote(name, safe='')}", query=urlencode(query, quote_via=quote)).geturl()


def _run(program: str, url: str, *arguments: str) -> None:
    """Run ``program`` on the database of ``url``; raise :class:`MarketDataError` with its message when it fails."""
    with _service_file(url) as service:
        try:
            done = subprocess.run(
                [
                    str(client_program(program)),
                    "--no-password",
                    "--dbname",
                    f"service={_SERVICE}",
                    *arguments,
                ],
                env={**_inherited_environment(), "PGSERVICEFILE": str(service), "PGAPPNAME": "marketdata"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            message = f"{program} does not run ({error.strerror}): reinstall marketdata_assets"
            raise MarketDataError(message) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error:" in line] or done.stderr.splitlines()
        reported = one_line((lines or ["(no message)"])[0].removeprefix(f"{program}: "))
        message = f"{program} failed: {reported}; nothing was changed"
        # The programs report no SQLSTATE.
        if "permission denied" in reported:
            message = f"the database does not permit what {program} needs ({reported}): use an account that may read all of it"
            raise NotPermittedError(message)
        if "No space left" in reported:
            message = f"{message}: make room, then run the same command again"
            raise DiskFullError(message)
        raise MarketDataError(message)


def _inherited_environment() -> Mapping[str, str]:
    # libpq takes the parameters that the URL leaves out from the other variables, as for every connection.
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


@contextmanager
def _service_file(url: str) -> Iterator[Path]:
    """Write a connection service file with every parameter of ``url``, the password included, readable only by this user."""
    with tempfile.TemporaryDirectory(prefix="marketdata-service-") as folder:
        path = Path(folder) / "service.conf"
        path.touch(mode=0o600)
        parameters = "".join(f"{name}={value}\n" for name, value in conninfo_to_dict(url).items())
        path.write_text(f"[{_SERVICE}]\n{parameters}", encoding="utf-8")
        yield path
