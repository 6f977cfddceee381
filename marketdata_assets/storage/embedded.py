"""The embedded Postgres: one server per home folder, shared by every process that needs it.

Files under the home folder:

* ``postgres/``: the data directory, owned by the user the server runs as, logs in ``postgres/log``.
* ``postgres.json``: port and password, mode 0600. The port is chosen once and kept unless another program takes it.
* ``postgres.lock``: held by the one process that initialises, starts or stops the server.
* ``postgres.alive``: an flock that the server's own processes inherit and hold. The kernel releases it when
  the last of them is gone. So the flock shows whether the server lives, which a pid file cannot (pids are
  reused, zombies answer signals, containers number their own).
* ``postgres-start.log``: the output of the server before its own log files are open.

The server runs in a session of its own and receives no signal from the process that started it. It listens on
loopback TCP only. Root runs it as an unprivileged user. Where that user may not pass the folders above the
data directory, the server addresses the directory as its own working directory (``/proc/self/cwd``). That needs
no permission on the folders, so none is widened and the data stay where the user wants them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from filelock import FileLock, Timeout
from psycopg import sql

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.wording import one_line
from marketdata_assets.storage.failures import DiskFullError, StoreError, UnreachableError, raise_store_errors
from marketdata_assets.storage.unprivileged import Account, is_traversable, postgres_programs, server_account

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

if sys.platform != "win32":
    import fcntl

DATABASE = "marketdata"
"""The name of the database, and of the role that owns it."""

_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Ports below every system's ephemeral range, so that no outgoing connection occupies the chosen one."""

_READY_SECONDS = 60.0
_RECOVERY_SECONDS = 1800.0
_STOP_SECONDS = 120.0
_MAX_START_ATTEMPTS = 3
_POLL_SECONDS = 0.02
_LAST_LINES = 20
"""The number of lines at the end of the log that are searched for the cause of a failure."""
_LONGEST_PAUSE_SECONDS = 0.5
_RECOVERING = ("starting up", "recovery", "shutting down", "not yet accepting")
"""Fragments of the messages (English: lc_messages is C) of a server that is busy and will answer later."""

_DEFAULTS = {
    # Dagster opens many short-lived connections beside the platform's own.
    "max_connections": "200",
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "1GB",
    # For bulk loads: few checkpoints, compressed full-page images. fsync and synchronous_commit stay on.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "pglz",
    "random_page_cost": "1.1",
    # Queries already run one per core, and parallel hash joins overrun the 64 MB /dev/shm of a container.
    "max_parallel_workers_per_gather": "0",
    # A query over every month of every timeframe locks each partition and its index.
    "max_locks_per_transaction": "256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Seven files, one per weekday, each overwritten after a week; one-line errors keep them short.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "server-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_autovacuum_min_duration": "-1",
}
"""The settings that initdb writes to postgresql.conf; the user may change them there."""


@dataclass(frozen=True)
class ServerStatus:
    """The state of the server. ``port`` is None before the first start, ``pid`` while the server is down."""

    running: bool
    port: int | None
    pid: int | None
    data: Path


@dataclass(frozen=True)
class _Access:
    """The stored port and password of the server."""

    port: int
    password: str

    def __repr__(self) -> str:
        return f"_Access(port={self.port})"

    def url(self, database: str = DATABASE) -> str:
        """Return the URL of ``database``. It sets ``sslmode``, as a PGSSLMODE of the environment is meant for other servers."""
        return f"postgresql://{DATABASE}:{self.password}@{_HOST}:{self.port}/{database}?sslmode=disable"


class EmbeddedServer:
    """The server of one home folder.

    Args:
        home: The folder of the server's files; created when missing.
        settings: Extra settings for a server that this object starts, for example ``{"fsync": "off"}`` in tests.
            They do not apply to a server that is already running.
    """

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self._home = home.expanduser().resolve()
        self._settings = dict(settings or {})
        self._data = self._home / "postgres"
        self._access_file = self._home / "postgres.json"
        self._alive_file = self._home / "postgres.alive"
        self._start_log = self._home / "postgres-start.log"

    def ensure_running(self) -> str:
        """Return the URL of the running server's database, after initialising, recovering or starting the server as needed.

        Raises:
            ConfigurationError: The home folder is not fit for a server of this user.
            StoreError: The server does not start, or its files cannot be written; the message quotes its last log line.
        """
        access = self._read_access()
        if access is not None and self._try_connect(access, DATABASE) is None:
            return access.url()
        with raise_store_errors(OSError):
            self._create_home()
            with self._hold_lock():
                access = self._read_access() or self._write_access(_free_port())
                account = server_account(self._data)
                if not self._data.exists():
                    self._initialise(access, account)
                access = self._start_and_wait(access, account)
                return access.url()

    def stop(self) -> bool:
        """Shut the server down, ending its sessions; return whether it was running."""
        if not self._home.is_dir():
            return False
        with raise_store_errors(OSError), self._hold_lock():
            if self._is_gone():
                return False
            pid = self._pid()
            if pid is None:
                message = (
                    f"the server of {self._data} runs without a postmaster.pid: stop its processes by hand"
                )
                raise MarketDataError(message)
            try:
                os.kill(pid, signal.SIGINT)  # Postgres' fast shutdown
            except PermissionError:
                message = f"the server of {self._data} belongs to another user: stop it as that user or root"
                raise ConfigurationError(message) from None
            deadline = time.monotonic() + _STOP_SECONDS
            while not self._is_gone():
                if time.monotonic() > deadline:
                    message = (
                        f"the server of {self._data} (pid {pid}) did not stop in {_STOP_SECONDS:.0f} s; "
                        f"its log ends: {self._last_log_line()}"
                    )
                    raise MarketDataError(message)
                time.sleep(_POLL_SECONDS)
            return True

    def status(self) -> ServerStatus:
        """Return the state of the server, without starting it or waiting for another process."""
        access = self._read_access()
        running = access is not None and self._try_connect(access, "postgres") is None
        return ServerStatus(
            running, access.port if access else None, self._pid() if running else None, self._data
        )

    def _create_home(self) -> None:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot create {self._home} ({error.strerror}): set MARKETDATA_HOME to another folder"
            raise ConfigurationError(message) from None
        if not os.access(self._home, os.W_OK | os.X_OK):
            message = f"cannot write to {self._home}: set MARKETDATA_HOME to a folder you can write to"
            raise ConfigurationError(message)

    @contextmanager
    def _hold_lock(self) -> Iterator[None]:
        lock = FileLock(self._home / "postgres.lock", mode=0o600)
        try:
            with lock.acquire(timeout=_RECOVERY_SECONDS):
                yield
        except Timeout:
            message = f"another process has been starting or stopping the server of {self._home} for too long"
            raise MarketDataError(message) from None
        except PermissionError:
            message = (
                f"{self._home} is in use by another user: run as that user or set MARKETDATA_HOME elsewhere"
            )
            raise ConfigurationError(message) from None

    def _read_access(self) -> _Access | None:
        try:
            fields = json.loads(self._access_file.read_text())
            return _Access(port=int(fields["port"]), password=str(fields["password"]))
        except FileNotFoundError:
            if self._data.exists():
                message = (
                    f"{self._access_file}, the password of {self._data}, is missing: restore it from a backup"
                )
                raise ConfigurationError(message) from None
            return None
        except NotADirectoryError:
            message = f"{self._home} is not a folder: set MARKETDATA_HOME to another one"
            raise ConfigurationError(message) from None
        except PermissionError:
            message = (
                f"cannot read {self._access_file}: run as the user that created it, or set MARKETDATA_HOME"
            )
            raise ConfigurationError(message) from None
        except (ValueError, KeyError, TypeError):
            message = f"{self._access_file} is damaged: restore it from a backup"
            raise ConfigurationError(message) from None

    def _write_access(self, port: int, password: str | None = None) -> _Access:
        access = _Access(port, password or secrets.token_urlsafe(32))
        # NamedTemporaryFile creates the file with mode 0600, so the password is never readable by others.
        with tempfile.NamedTemporaryFile(
            "w", dir=self._home, prefix=".postgres.json-", delete=False
        ) as draft:
            json.dump(asdict(access), draft)
            draft.flush()
            os.fsync(draft.fileno())
        Path(draft.name).replace(self._access_file)
        return access

    def _pid(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _last_log_line(self) -> str:
        logs = [*self._data.glob("log/*.log"), self._start_log]
        for log in sorted(
            (path for path in logs if path.is_file()), key=lambda path: -path.stat().st_mtime_ns
        ):
            lines = log.read_text(errors="replace").strip().splitlines()
            # The consequences of a full disk (a failed checkpoint, for example) come after its own line.
            full = [line for line in lines[-_LAST_LINES:] if os.strerror(errno.ENOSPC) in line]
            if full:
                return full[-1]
            # The last error is more useful than the "shut down" and the rejected connections after it.
            complaints = [line for line in lines if "FATAL" in line or "PANIC" in line]
            causes = [
                line for line in complaints if not any(fragment in line for fragment in _RECOVERING)
            ] or lines
            if causes:
                return causes[-1]
        return "(empty)"

    def _initialise(self, access: _Access, account: Account) -> None:
        """Create the data directory under a temporary name and rename it, so that a killed initdb leaves no part of one."""
        for leftover in self._home.glob("postgres-init-*"):
            # An initdb whose starter was killed may still be writing there: the next start removes the rest.
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=self._home, prefix="postgres-init-"))
        data = scratch / "data"
        data.mkdir(mode=0o700)
        password_file = scratch / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(access.password)
        if account.must_switch:
            for path in (scratch, data, password_file):
                os.chown(path, account.uid, account.gid)
        command = [
            str(postgres_programs(self._home, account) / "initdb"),
            *("--pgdata", _data_argument(data, account)),
            *("--username", DATABASE),
            *("--pwfile", f"{_data_argument(data, account)}/../password"),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--data-checksums",
            "--no-instructions",
            *(part for name, value in _DEFAULTS.items() for part in ("--set", f"{name}={value}")),
            *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
        ]
        with self._start_log.open("wb") as log:
            try:
                subprocess.run(
                    command,
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **_process_options(data, account),
                )
            except (subprocess.CalledProcessError, OSError) as error:
                cause = error.strerror if isinstance(error, OSError) else self._last_log_line()
                shutil.rmtree(scratch, ignore_errors=True)
                message = f"initdb failed for {self._data}"
                raise _start_failure(message, cause) from None
        data.rename(self._data)
        shutil.rmtree(scratch)

    def _start_and_wait(self, access: _Access, account: Account) -> _Access:
        """Start the server unless it is running, and wait until it accepts connections."""
        for _ in range(_MAX_START_ATTEMPTS):
            starting = self._is_gone()
            if starting:
                if not _is_free(access.port):
                    access = self._write_access(_free_port(), access.password)
                self._start(access, account)
            if self._wait_until_ready(access):
                return access
            # The server is gone. Another attempt helps when its processes were the last of an earlier server, or
            # when another program took the port before the server bound it. Otherwise the log has the cause.
            if starting and _is_free(access.port):
                break
        message = f"the server of {self._data} does not start; its log ends"
        raise _start_failure(message, self._last_log_line())

    def _start(self, access: _Access, account: Account) -> None:
        # No process of this data directory lives, so its pid file is stale, even if another process has the pid
        # now. Should that ever be wrong, Postgres refuses to start on the shared memory of a living server.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        options = {
            "listen_addresses": _HOST,
            "port": str(access.port),
            "unix_socket_directories": "",
            "marketdata.home": str(self._home),
            **self._settings,
        }
        postgres = str(postgres_programs(self._home, account) / "postgres")
        command = [postgres, "-D", _data_argument(self._data, account)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        # The shell exits at once, so the server is not a child, and never a zombie, of a long-lived starter.
        detached = ["/bin/sh", "-c", '"$@" &', "sh", *command]
        alive = self._open_alive()
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._start_log.open("wb") as log:
                subprocess.run(
                    detached,
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[alive],
                    start_new_session=True,
                    **_process_options(self._data, account),
                )
        except OSError as error:
            message = f"cannot run Postgres for {self._data}"
            raise _start_failure(message, error.strerror) from None
        finally:
            os.close(alive)

    def _wait_until_ready(self, access: _Access) -> bool:
        """Return True when the server accepts connections, False when it died. While it recovers, wait for longer."""
        began = time.monotonic()
        pause = _POLL_SECONDS
        while True:
            refusal = self._try_connect(access, DATABASE)
            if refusal is None:
                return True
            recovering = any(fragment in refusal for fragment in _RECOVERING)
            if self._is_gone():
                return False
            if not recovering and self._try_connect(access, "postgres") is None:
                _create_missing_database(access)
            if time.monotonic() - began > (_RECOVERY_SECONDS if recovering else _READY_SECONDS):
                message = (
                    f"the server of {self._data} runs but does not answer ({refusal}); "
                    f"its log ends: {self._last_log_line()}"
                )
                raise MarketDataError(message)
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)  # the server logs every rejected attempt

    def _try_connect(self, access: _Access, database: str) -> str | None:
        """Return None when this home's server answers on ``database``; otherwise the reason why it does not.

        Another server on the port cannot learn the password (scram is required), nor is it mistaken for this home's:
        the marker is compared, which also distinguishes a copied home folder from its original.
        """
        try:
            with psycopg.connect(
                access.url(database),
                connect_timeout=3,
                require_auth="scram-sha-256",
                gssencmode="disable",
                options="",
                application_name="marketdata probe",
                autocommit=True,
            ) as connection:
                row = connection.execute("select current_setting('marketdata.home', true)").fetchone()
        except psycopg.Error as error:
            return one_line(str(error))
        if row != (str(self._home),):
            return f"port {access.port} belongs to another server"
        return None

    def _open_alive(self) -> int:
        return os.open(self._alive_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _is_gone(self) -> bool:
        alive = self._open_alive()
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(alive)


def _start_failure(what: str, why: str | None) -> StoreError:
    if why is not None and os.strerror(errno.ENOSPC) in why:
        return DiskFullError(f"{what}: {why}: make room and run the same command again; what is stored stays")
    return UnreachableError(f"{what}: {why}")


def _data_argument(data: Path, account: Account) -> str:
    """Return the path by which the server's user reaches ``data``, which is its working directory."""
    if not account.must_switch or is_traversable(data.parent, account):
        return str(data)
    if not sys.platform.startswith("linux"):
        message = (
            f"the server's user may not pass the folders above {data}: "
            "set MARKETDATA_HOME to a folder that every user may enter"
        )
        raise ConfigurationError(message)
    return "/proc/self/cwd"


def _process_options(data: Path, account: Account) -> dict[str, Any]:
    """Return arguments for :func:`subprocess.run`. The working directory is entered before the user changes."""
    arguments: dict[str, Any] = {
        "cwd": data,
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},  # no PG* setting meant for other servers
        "umask": 0o077,
    }
    if account.must_switch:
        arguments |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return arguments


def _create_missing_database(access: _Access) -> None:
    with psycopg.connect(access.url("postgres"), options="", autocommit=True) as connection:
        if (
            connection.execute("select from pg_database where datname = %s", [DATABASE]).fetchone()
            is not None
        ):
            return  # the server came up after the last attempt
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as Postgres: closed connections do not count
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port):
            return port
    message = f"no port between {_PORTS.start} and {_PORTS.stop} is free on {_HOST}"
    raise MarketDataError(message)
