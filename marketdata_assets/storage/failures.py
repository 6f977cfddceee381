"""Failures of the store as a whole (no room, no permission, no server), and how drivers report them.

Three drivers connect to Postgres (psycopg, ADBC, and psycopg2 under Dagster's SQLAlchemy), and files are written beside
it. :func:`explain_failure` finds the kind of a failure, whatever reports it, by type, ``SQLSTATE`` and ``errno``.

Belongs here: kinds of failures and their remedies. Does not belong here: errors of a statement or of a bar.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


class StoreError(ConfigurationError):
    """The store cannot be used: every other command or run would fail for the same reason."""


class UnreachableError(StoreError):
    """The database does not answer, or rejects the connection."""


class LostServerError(UnreachableError):
    """The database ended its connections, and a new connection failed or was lost, too."""


class DiskFullError(StoreError):
    """The disk of the database or of MARKETDATA_HOME has no room."""


class ReadOnlyStoreError(StoreError):
    """The database takes no writes: a standby, or a role that may only read."""


class NotPermittedError(StoreError):
    """The database role or the operating system user lacks a permission that the platform needs."""


class DroppedOptionsError(StoreError):
    """A connection pooler drops the settings that a session begins with."""


STORE_ERRORS: Final = (
    StoreError,
    UnreachableError,
    LostServerError,
    DiskFullError,
    ReadOnlyStoreError,
    NotPermittedError,
    DroppedOptionsError,
)
"""Every kind, for code that has only the name of an error's class."""

_AGAIN: Final = "then run the same command again; what is stored stays"
REMEDIES: Final[dict[type[StoreError], str]] = {
    DiskFullError: f"no room is left on the disk: make room (`marketdata prune --dry-run` shows what can go), {_AGAIN}",
    ReadOnlyStoreError: (
        "the database takes no writes (a standby, or default_transaction_read_only):"
        " set DATABASE_URL to a server and a role that may write"
    ),
    NotPermittedError: (
        "the database does not permit what is needed: let the role of DATABASE_URL own the database, or the"
        " embedded server's user write to MARKETDATA_HOME"
    ),
    LostServerError: f"the database went away: see `marketdata db status`, start it, {_AGAIN}",
}

_BY_STATE: Final[dict[str, type[StoreError]]] = {
    "53100": DiskFullError,
    "25006": ReadOnlyStoreError,
    "42501": NotPermittedError,
    "57P01": LostServerError,
    "57P02": LostServerError,
    "57P03": LostServerError,
}
_CONNECTION_STATES: Final = "08"
"""The class of the SQLSTATEs of failed connections."""

_DRIVERS: Final = ("psycopg", "adbc_driver_manager", "psycopg2")

_WRAPPERS: Final = frozenset({*_DRIVERS, "sqlalchemy", "dagster", "dagster_postgres", "dagster_shared"})
"""The packages that raise errors while they handle the failure that explains them, without naming it as the cause."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_BY_ERRNO: Final[dict[int, str]] = {
    errno.ENOSPC: f"make room, {_AGAIN}",
    errno.EDQUOT: f"make room, {_AGAIN}",
    errno.EROFS: "set MARKETDATA_HOME to a folder that can be written to",
    errno.EACCES: "run as the user it belongs to, or set MARKETDATA_HOME to a folder of your own",
    errno.EPERM: "run as the user it belongs to, or set MARKETDATA_HOME to a folder of your own",
}


def explain_failure(error: BaseException) -> StoreError | None:
    """Return the failure of the store that ``error`` or one of its causes reports; None when it is another error."""
    for link in _iterate_causes(error):
        if isinstance(link, StoreError):
            return link
        found = _explain_os_error(link) if isinstance(link, OSError) else _explain_driver_error(link)
        if found is not None:
            return found
    return None


@contextmanager
def raise_store_errors(*kinds: type[BaseException]) -> Iterator[None]:
    """Turn each error of ``kinds`` that reports a failure of the store into the :class:`StoreError` of its kind."""
    try:
        yield
    except kinds as error:
        failure = explain_failure(error)
        if failure is None:
            raise
        raise failure from error


class Refusal(Enum):
    """The reason why a statement was not executed, where a client can do something about it."""

    TOO_SLOW = auto()
    """The statement took longer than its session permits."""
    LOCKED = auto()
    """Another session holds a lock that the statement needs."""
    TABLE_LACKING = auto()
    """A table does not exist: a migration was not applied."""
    AWAY = auto()
    """The database does not answer, or is out of order."""


_REFUSALS: Final = {"57014": Refusal.TOO_SLOW, "55P03": Refusal.LOCKED, "42P01": Refusal.TABLE_LACKING}


def find_refusal(error: BaseException) -> Refusal | None:
    """Return why the database did not execute a statement, by the error of a driver or of the store."""
    found = _REFUSALS.get(getattr(error, "sqlstate", None) or "")
    if found is not None:
        return found
    psycopg, adbc, _ = map(_find_module, _DRIVERS)
    is_away = isinstance(error, StoreError) or any(
        isinstance(error, driver.OperationalError) for driver in (psycopg, adbc) if driver is not None
    )
    return Refusal.AWAY if is_away else None


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over ``error`` and its causes, newest first.

    An error that was merely being handled when another was raised does not explain it: a fault of this code is still
    reported as one. Errors of drivers and of Dagster are the exception.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        during = link.__context__ if _is_wrapper_error(link) and not link.__suppress_context__ else None
        link = link.__cause__ or during


def _is_wrapper_error(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in _WRAPPERS for kind in type(error).__mro__)


def _explain_os_error(error: OSError) -> StoreError | None:
    remedy = _BY_ERRNO.get(error.errno or 0)
    where = error.filename2 or error.filename
    if remedy is None:
        return None
    if error.errno in _FULL:
        return DiskFullError(f"cannot write {where or 'a file'} ({error.strerror}): {remedy}")
    # Without a file, the error is of a connection that a firewall blocks, or of a signal.
    return NotPermittedError(f"cannot use {where} ({error.strerror}): {remedy}") if where else None


def _explain_driver_error(error: BaseException) -> StoreError | None:
    state, is_of_the_connection = _read_state(error)
    kind = _BY_STATE.get(state or "")
    if kind is None and (is_of_the_connection if state is None else state.startswith(_CONNECTION_STATES)):
        kind = LostServerError
    # A server without room for its own files refuses connections or ends: the full disk is the cause.
    if kind is not None and os.strerror(errno.ENOSPC) in str(error):
        kind = DiskFullError
    return None if kind is None else kind(f"{REMEDIES[kind]} ({first_line(error)})")


def is_driver_error(error: BaseException) -> bool:
    """Whether a driver of Postgres raised ``error``."""
    return any(
        isinstance(error, driver.Error) for driver in map(_find_module, _DRIVERS) if driver is not None
    )


def _read_state(error: BaseException) -> tuple[str | None, bool]:
    """Return the SQLSTATE that the driver reports, and whether an error without one means a failed connection."""
    psycopg, adbc, psycopg2 = map(_find_module, _DRIVERS)
    if psycopg is not None and isinstance(error, psycopg.Error):
        return error.sqlstate, isinstance(error, psycopg.OperationalError)
    if adbc is not None and isinstance(error, adbc.Error):
        return error.sqlstate, error.status_code == adbc.AdbcStatusCode.IO
    if psycopg2 is not None and isinstance(error, psycopg2.Error):
        return error.pgcode, isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return None, False


def _find_module(driver: str) -> Any:  # noqa: ANN401 - a module of a driver, two of which have no types
    """Return the module ``driver``; None when this process never imported it, so that no error can come from it."""
    return sys.modules.get(driver)


def first_line(error: BaseException) -> str:
    """Return the server's message, without the statement, its parameters and the name of the driver."""
    diagnosis = getattr(error, "diag", None)
    if primary := getattr(diagnosis, "message_primary", None):
        return str(primary)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^.*?(?:ERROR|FATAL|PANIC):\s+", "", lines[0]) if lines else type(error).__name__
