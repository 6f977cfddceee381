"""Connections to the market database: its URL, the set-up of a session, and reconnecting after a loss.

Belongs here: URLs, session settings, open connections, the one retry after a lost connection.
Does not belong here: the statements that run on connections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import adbc_driver_manager
import polars as pl
import psycopg
import stamina
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.datetime import TimestamptzLoader

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.wording import one_line
from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets.storage.failures import (
    DiskFullError,
    DroppedOptionsError,
    StoreError,
    UnreachableError,
    explain_failure,
    raise_store_errors,
)
from marketdata_assets.storage.interruptible import call_interruptibly
from marketdata_assets.storage.locks import LockSpace, lock
from marketdata_assets.storage.rows import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    import pyarrow as pa
    from adbc_driver_postgresql import dbapi
    from psycopg.abc import Buffer, QueryNoTemplate

    from marketdata_assets.config import Settings
    from marketdata_assets.storage.rows import Session

T = TypeVar("T")

DRIVER_ERRORS: Final = (psycopg.Error, adbc_driver_manager.Error)
"""The errors that the drivers raise. ``failures.find_refusal`` returns the reason of one."""

_SHAPE = "postgresql://user:password@host:port/database"
_DAGSTER_SCHEMA = "dagster"
_PATIENCE = timedelta(seconds=30)


_MARKER: Final = "marketdata.session"
"""A setting that every session begins with: where it is missing, a pooler drops the settings of sessions."""
_REFUSED_OPTIONS: Final = "startup parameter"
"""A part of the error of PgBouncer for ``options`` that it neither knows nor is configured to ignore."""


_SCHEMA_FOUND: Final = "select current_setting('search_path'), to_regnamespace(%s) is not null"


class _SchemaFound(NamedTuple):
    search_path: str
    exists: bool


@dataclass(frozen=True)
class Timeouts:
    """The time limits of one session; a zero length switches a limit off.

    ``lock`` bounds the wait for advisory locks, too: it is long enough to queue behind another writer's batch.
    ``connect`` bounds the wait for a server, in whole seconds; libpq treats one second as two.
    """

    statement: timedelta = timedelta(minutes=10)
    lock: timedelta = timedelta(minutes=2)
    idle_in_transaction: timedelta = timedelta(minutes=5)
    connect: timedelta = timedelta(seconds=10)

    def options(self) -> str:
        """Return the libpq ``options`` that set these limits and the UTC time zone before the first statement."""
        values = {
            _MARKER: "on",
            "TimeZone": "UTC",
            "statement_timeout": _milliseconds(self.statement),
            "lock_timeout": _milliseconds(self.lock),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_in_transaction),
        }
        return " ".join(f"-c {name}={value}" for name, value in values.items())


def _milliseconds(length: timedelta) -> int:
    return round(length.total_seconds() * 1000)


DEFAULT_TIMEOUTS = Timeouts()


def resolve_database_url(settings: Settings) -> str:
    """Return the URL of the market database: ``DATABASE_URL``, else that of the embedded server, starting it when it is down.

    Raises:
        ConfigurationError: DATABASE_URL is not a Postgres URL, or the home folder is not fit for a server.
        MarketDataError: The embedded server does not start.
    """
    if settings.database_url is None:
        return EmbeddedServer(settings.home).ensure_running()
    url = settings.database_url.get_secret_value()
    _parse(url)
    return url


def connect(
    url: str, *, application_name: str, timeouts: Timeouts = DEFAULT_TIMEOUTS, options: str = ""
) -> Session:
    """Open a connection in UTC, without autocommit, with ``timeouts`` and TCP keepalives.

    Options in the URL come after those of ``timeouts`` and override them; ``options`` come last.

    Raises:
        UnreachableError: The server is out of reach.
        DroppedOptionsError: A pooler in between drops the settings that the session begins with.
    """
    try:
        session = psycopg.connect(_conninfo(url, application_name, timeouts, options), autocommit=True)
    except psycopg.OperationalError as error:
        if _REFUSED_OPTIONS in str(error):
            raise _dropped_options_error(url) from None
        raise _unreachable_error(url, error) from None
    session.adapters.register_loader("timestamptz", _UtcLoader)
    try:
        _require_marker(session, url)
        session.autocommit = False
    except psycopg.OperationalError as error:
        session.close()
        raise _unreachable_error(url, error) from None
    except BaseException:
        session.close()
        raise
    return session


def _require_marker(session: Session, url: str) -> None:
    if fetch(session, "select current_setting(%s, true)", [_MARKER], row=str) != ["on"]:
        raise _dropped_options_error(url)


def _dropped_options_error(url: str) -> DroppedOptionsError:
    return DroppedOptionsError(
        f"{redacted(url)} drops the settings that a session begins with (libpq's `options`), as some connection"
        " poolers do: set DATABASE_URL to the server itself, or let the pooler pass them on (docs/operating.md)"
    )


def _conninfo(url: str, application_name: str, timeouts: Timeouts, options: str = "") -> str:
    """Return the libpq connection string of a session, with its settings. It contains the password."""
    parameters = _parse(url)
    settings = {
        "connect_timeout": str(round(timeouts.connect.total_seconds())),
        # A peer that vanished silently is noticed after a minute.
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "application_name": application_name,
        **parameters,
        "options": " ".join(filter(None, (timeouts.options(), parameters.get("options"), options))),
    }
    return make_conninfo("", **settings)


def redacted(url: str) -> str:
    """Return ``url`` without its password, in whichever part of it that is. The result is safe to print."""
    try:
        parameters = _parse(url)
    except ConfigurationError:
        return "(a malformed database URL)"
    user = quote(parameters["user"], safe="") + "@" if "user" in parameters else ""
    return f"postgresql://{user}{_servers(parameters)}/{quote(parameters.get('dbname', ''), safe='')}"


def dagster_storage_url(url: str) -> str:
    """Return the URL for Dagster's own storage: the same database, schema ``dagster``, which is created when missing.

    The scheme is ``postgresql+psycopg2``: SQLAlchemy 2.1 resolves plain ``postgresql`` to psycopg 3, with
    which dagster-postgres fails on its first event. Every libpq parameter of ``url`` is kept.

    Raises:
        ConfigurationError: The server is out of reach, or a pooler in between drops the schema's name.
    """
    search_path = f"-csearch_path={_DAGSTER_SCHEMA}"
    with (
        connect(url, application_name="marketdata set-up", options=search_path) as session,
        raise_store_errors(*DRIVER_ERRORS),
    ):
        (found,) = fetch(session, _SCHEMA_FOUND, [_DAGSTER_SCHEMA], row=_SchemaFound)
        if found.search_path != _DAGSTER_SCHEMA:
            raise _dropped_options_error(url)
        if not found.exists:
            # `if not exists` does not see a schema that another process is creating at the same time.
            lock(session, _DAGSTER_SCHEMA, LockSpace.LISTS)
            session.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(_DAGSTER_SCHEMA)))
    parameters = _parse(url)
    kept = {key: value for key, value in parameters.items() if key not in {"user", "password", "dbname"}}
    kept["options"] = f"{kept.get('options', '')} {search_path}".strip()
    account = quote(parameters.get("user", ""), safe="")
    if "password" in parameters:
        account += ":" + quote(parameters["password"], safe="")
    host, port = kept.pop("host", ""), kept.pop("port", "")
    if "," in host or host.startswith(
        "/"
    ):  # several servers, or a socket folder: only the query can say that
        kept |= {"host": host} | ({"port": port} if port else {})
        server = ""
    else:
        server = _servers({"host": host, "port": port})
    at = "@" if account else ""
    database = quote(parameters.get("dbname", ""), safe="")
    return f"postgresql+psycopg2://{account}{at}{server}/{database}?{urlencode(kept, quote_via=quote)}"


def psycopg2_url(url: str) -> str:
    """Return ``url`` with the scheme ``postgresql+psycopg2``, which dagster-postgres needs (:func:`dagster_storage_url`)."""
    scheme, separator, rest = url.partition("://")
    plain = scheme in ("postgresql", "postgres")
    return f"postgresql+psycopg2{separator}{rest}" if plain else url


def _servers(parameters: dict[str, str]) -> str:
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    ports += ports[-1:] * (len(hosts) - len(ports))
    return ",".join(
        (f"[{host}]" if ":" in host else quote(host, safe="")) + (f":{port}" if port else "")
        for host, port in zip(hosts, ports, strict=False)
    )


def _parse(url: str) -> dict[str, str]:
    """Parse the libpq parameters of ``url``. Errors never quote the URL: any part of it may be the password."""
    if not url.startswith(("postgresql://", "postgres://")):
        scheme = urlsplit(url).scheme if "://" in url else ""
        fault = f"starts with {scheme}://" if scheme.replace("+", "").isalnum() else "has no scheme"
        message = f"DATABASE_URL {fault}: write it as {_SHAPE}"
        raise ConfigurationError(message)
    try:
        parameters = {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        message = f"DATABASE_URL is malformed: write it as {_SHAPE}, special characters percent-encoded"
        raise ConfigurationError(message) from None
    ports = [port for port in parameters.get("port", "").split(",") if port]
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65_536 for port in ports):  # noqa: PLR2004
        message = f"DATABASE_URL has a port that is not a number from 1 to 65535: write it as {_SHAPE}"
        raise ConfigurationError(message)
    if _has_misplaced_at(url):
        message = (
            f"DATABASE_URL has one @ too many: write it as {_SHAPE}, special characters of the password"
            " percent-encoded (@ as %40, / as %2F)"
        )
        raise ConfigurationError(message)
    return parameters


def _has_misplaced_at(url: str) -> bool:
    """Whether libpq takes a part of the password of ``url`` for the user, the host or the database.

    libpq ends the account at the first @, or finds no account when a / comes before it; a ? or # does not end it.
    """
    rest = url.partition("://")[2]
    found = re.match("[^@/]*@", rest)
    account = found.group() if found else ""
    user = account.rstrip("@").partition(":")[0]
    return "@" in rest[len(account) :].partition("?")[0] or not {"?", "#"}.isdisjoint(user)


def _unreachable_error(url: str, error: psycopg.OperationalError) -> StoreError:
    why = one_line(str(error))
    password = _parse(url).get("password", "")
    if password:
        why = why.replace(password, "***")
    if isinstance(full := explain_failure(error), DiskFullError):
        return full
    return UnreachableError(
        f"cannot connect to {redacted(url)}: {why}; see whether the server is up (`marketdata db status`) and, for a"
        " server of your own, whether DATABASE_URL is right"
    )


class Database:
    """The market database over connections that open when first needed and stay open. Not safe for several threads.

    It has at most one psycopg connection, for transactions, and one ADBC connection, for columnar reads.
    After a loss of the connection it waits for a restarting server for at most ``patience``.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "marketdata",
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        patience: timedelta = _PATIENCE,
    ) -> None:
        _parse(url)
        self._url = url
        self._application_name = application_name
        self._timeouts = timeouts
        self._patience = patience
        self._connection: Session | None = None
        self._reader: dbapi.Connection | None = None

    def __repr__(self) -> str:
        return f"Database({redacted(self._url)!r})"

    @property
    def url(self) -> str:
        """The URL with its password: not for printing."""
        return self._url

    def transaction(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` in one transaction and return its result: commit when it returns, roll back when it raises.

        When the connection is lost meanwhile, ``work`` runs once more from its start, on a new connection. As a commit
        may have happened although its answer was lost, ``work`` must be safe to repeat. Other errors propagate.

        Raises:
            StoreError: The server is out of reach or was lost twice, has no room, or takes no writes.
        """
        with raise_store_errors(*DRIVER_ERRORS):
            session = self._open_session()
            try:
                with session.transaction():
                    return work(session)
            except psycopg.OperationalError:
                # A broken connection counts as closed. On an open one the server has answered: nothing was lost.
                if not session.closed:
                    raise
            self._drop_connection()
            session = self._reconnect()
            with session.transaction():
                return work(session)

    def fetch(
        self,
        statement: QueryNoTemplate,
        arguments: Sequence[object] | Mapping[str, object] | None = None,
        *,
        row: Callable[..., T],
    ) -> list[T]:
        """Return the rows of one read-only ``statement``, each as the value that ``row`` makes of its columns.

        The statement runs without a transaction around it, in one round trip instead of three. Lost connections and
        errors are handled as in :meth:`transaction`.
        """
        with raise_store_errors(*DRIVER_ERRORS):
            session = self._open_session()
            try:
                return _fetch_alone(session, statement, arguments, row)
            except psycopg.OperationalError:
                if not session.closed:
                    raise
            self._drop_connection()
            return _fetch_alone(self._reconnect(), statement, arguments, row)

    def require_answer(self) -> None:
        """Raise the errors of :meth:`transaction` unless the database answers on its connection for transactions."""
        self.transaction(lambda session: session.execute("select 1"))

    def open_reader(self) -> None:
        """Open the connection for columnar reads, and run one statement on it."""
        self.read_frame("select 1")

    def read_frame(self, query: str, parameters: Sequence[object] = ()) -> pl.DataFrame:
        """Read the rows of ``query`` as a frame; timestamptz arrives as ``Datetime("us", "UTC")``.

        Parameters are positional: ``$1``, ``$2`` …. After a lost connection the query runs once more.
        """
        with raise_store_errors(*DRIVER_ERRORS):
            try:
                return self._read_once(query, parameters)
            except adbc_driver_manager.Error:
                if self._reader_answers():
                    raise
            self._drop_reader()
            self._reconnect()
            return self._read_once(query, parameters)

    def adbc(self) -> dbapi.Connection:
        """Return the ADBC connection, opening it when needed, in autocommit: a read leaves no transaction behind."""
        if self._reader is None:
            # Imports pyarrow's data sets, which takes a second: only where frames are read.
            from adbc_driver_postgresql import dbapi  # noqa: PLC0415

            conninfo = _conninfo(self._url, self._application_name, self._timeouts)
            try:
                self._reader = call_interruptibly(
                    lambda: dbapi.connect(conninfo, autocommit=True), cancel=lambda: None
                )
            except adbc_driver_manager.Error as error:
                raise _unreachable_error(self._url, psycopg.OperationalError(str(error))) from None
        return self._reader

    def close(self) -> None:
        """Close the open connections. The next use opens them again."""
        self._drop_connection()
        self._drop_reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_session(self) -> Session:
        if self._connection is None or self._connection.closed:
            self._connection = connect(
                self._url, application_name=self._application_name, timeouts=self._timeouts
            )
        return self._connection

    def _reconnect(self) -> Session:
        """Open the connection again, retrying while a server restarts or recovers."""
        for attempt in stamina.retry_context(
            on=UnreachableError, attempts=None, timeout=self._patience, wait_initial=0.05, wait_max=1.0
        ):
            with attempt:
                self._open_session()
        return self._open_session()

    def _read_once(self, query: str, parameters: Sequence[object]) -> pl.DataFrame:
        cursor = self.adbc().cursor()

        def fetch() -> pa.Table:
            cursor.execute(query, parameters or None)
            return cursor.fetch_arrow_table()

        try:
            rows = call_interruptibly(fetch, cancel=cursor.adbc_cancel)
        except Exception:
            cursor.close()
            raise
        except BaseException:
            # After an interrupt the statement may still be running, and closing its connection would crash.
            self._reader = None
            raise
        cursor.close()
        return pl.DataFrame(rows)

    def _reader_answers(self) -> bool:
        try:
            self._read_once("select 1", ())
        except adbc_driver_manager.Error:
            return False
        return True

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _fetch_alone(
    session: Session,
    statement: QueryNoTemplate,
    arguments: Sequence[object] | Mapping[str, object] | None,
    row: Callable[..., T],
) -> list[T]:
    if session.info.transaction_status is not TransactionStatus.IDLE:
        return fetch(session, statement, arguments, row=row)
    session.autocommit = True
    try:
        return fetch(session, statement, arguments, row=row)
    finally:
        if not session.closed:
            session.autocommit = False


class _UtcLoader(TimestamptzLoader):
    """A loader of ``timestamptz`` as an aware time in UTC, whatever the time zone of the session."""

    def load(self, data: Buffer) -> datetime:
        return super().load(data).astimezone(UTC)
