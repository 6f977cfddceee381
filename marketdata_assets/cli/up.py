"""``marketdata up``: Dagster's webserver and daemon over the persistent instance, until Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx
import psutil
import stamina
import typer
from filelock import FileLock, Timeout

from marketdata_assets.cli.interrupts import leave_signals_to_the_command, note_stop
from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.storage.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from marketdata_assets.config import Settings

HOST = "127.0.0.1"
_START_SECONDS = 120
_STOP_SECONDS = 1.5
"""The time for all children to end; those that take longer are killed, which does no harm to any of them."""
_LEFTOVER_SECONDS = 20
"""The time for the children of an earlier ``up`` to end, which may be many and busy."""
_WATCH_SECONDS = 1.0
_SERVER_SECONDS = 10.0
"""The time between two checks of the embedded server, each of which opens a connection."""
_MAX_ENDS = 5
_ENDS_SECONDS = 300.0
_LOCATION = "marketdata_assets"
_DEFINITIONS = ("-m", "marketdata_assets.definitions", "--location-name", _LOCATION, "--lazy-load-user-code")
_WORKSPACE = f"""\
load_from:
  - grpc_server:
      socket: {{socket}}
      location_name: {_LOCATION}
"""
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port of the UI.")] = 3000,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Run a simulated vendor beside it, so that no key is needed.")
    ] = False,
) -> None:
    """Serve Dagster's UI on 127.0.0.1 and run its daemon; Ctrl-C stops both."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.cli.simulator_address import forget_simulator
    from marketdata_assets.config import load_settings
    from marketdata_assets.defs.instance.environment import prepare_environment, sync_series
    from marketdata_assets.defs.runs.commands import close_orphans
    from marketdata_assets.storage.vendor import require_kind

    with contextlib.suppress(_StopRequested), ExitStack() as stack:
        # Before the first child starts: whatever ends this process must end its children, in order.
        leave_signals_to_the_command()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _request_stop)
        # stamina's own messages are meant for developers.
        stamina.instrumentation.set_on_retry_hooks(())
        settings = load_settings()
        child_lock = stack.enter_context(_lock_home(settings.home))
        _check_port(port)
        forget_simulator(settings.home)
        with open_store() as store:
            if simulate:
                require_kind(store.database, simulated=True)
            prepare_environment(settings)
            from dagster import DagsterInstance

            with DagsterInstance.get() as instance:
                close_orphans(instance, store.database)
                sync_series(instance, store.database)
        if simulate:
            stack.enter_context(_run_simulator(settings.home))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="marketdata-")))
        # One code server for webserver and daemon, so that a run outlives either. A socket's path has at most 100 bytes.
        sock, workspace = folder / "code", folder / "workspace.yaml"
        workspace.write_text(_WORKSPACE.format(socket=sock), encoding="utf-8")
        code = _Child(
            "code server", ["dagster", "api", "grpc", *_DEFINITIONS, "--socket", str(sock)], child_lock
        )
        children = [code]
        stack.callback(_stop_all, children)
        _wait_until_listening(sock, code)
        for name, arguments in (
            ("webserver", ["dagster_webserver", "-h", HOST, "-p", str(port)]),
            ("daemon", ["dagster._daemon", "run"]),
        ):
            children.append(_Child(name, [*arguments, "-w", str(workspace)], child_lock))
        child_lock.note(children)
        url = f"http://{HOST}:{port}"
        _wait_until_ready(url, children)
        typer.echo(f"Dagster at {url} (Ctrl-C stops it)")
        checked_at = time.monotonic()
        while True:
            is_due = time.monotonic() - checked_at >= _SERVER_SECONDS
            if is_due or any(child.process.poll() is not None for child in children):
                _revive_ended(settings, children)
                checked_at = time.monotonic()
            child_lock.note(children)
            with contextlib.suppress(subprocess.TimeoutExpired):
                children[0].process.wait(_WATCH_SECONDS)


class _ChildLock:
    """A file that ``up`` and its children keep locked; the file holds the process ids of the children.

    The kernel frees the lock when the last of these processes ends, so a process that takes the lock knows they are gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> None:
        """Take the lock. The kernel signals the children of a killed ``up`` to end; those that do not end are killed."""
        with contextlib.suppress(BlockingIOError):
            self._lock()
            return
        typer.echo("waiting for the processes of an earlier marketdata up to end", err=True)
        try:
            for attempt in stamina.retry_context(
                on=BlockingIOError, attempts=None, timeout=_LEFTOVER_SECONDS, wait_initial=0.1, wait_max=0.5
            ):
                with attempt:
                    self._lock()
        except BlockingIOError:
            for pid in self._path.read_text(encoding="ascii").split():
                _end_leftover(int(pid))
            for attempt in stamina.retry_context(
                on=BlockingIOError, attempts=None, timeout=5, wait_initial=0.1, wait_max=0.5
            ):
                with attempt:
                    self._lock()

    def note(self, children: Sequence[_Child]) -> None:
        """Write the process ids of ``children``, which hold the lock beside this process, to the file."""
        pids = "\n".join(str(child.process.pid) for child in children).encode("ascii")
        os.truncate(self.descriptor, 0)
        os.pwrite(self.descriptor, pids, 0)

    def _lock(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _end_leftover(pid: int) -> None:
    """Kill the child ``pid`` of a killed ``up``, unless another process has its id by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if any("dagster" in word for word in process.cmdline()):
            process.kill()


@contextlib.contextmanager
def _lock_home(home: Path) -> Iterator[_ChildLock]:
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "up.lock")
    try:
        with lock.acquire(timeout=0):
            child_lock = _ChildLock(home / "up.children")
            try:
                child_lock.take()
                yield child_lock
            finally:
                os.close(child_lock.descriptor)
    except Timeout:
        message = f"marketdata up already runs on {home}: use it, stop it, or set another MARKETDATA_HOME"
        raise ConfigurationError(message) from None


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            message = f"port {port} cannot be used ({error.strerror}): choose another with --port"
            raise ConfigurationError(message) from None


@contextlib.contextmanager
def _run_simulator(home: Path) -> Iterator[None]:
    from marketdata_assets.cli.simulator_address import publish_simulator
    from marketdata_assets.simulator import RunningSimulator, SimulatorConfig

    with RunningSimulator(SimulatorConfig(), port=0) as simulator, publish_simulator(home, simulator.url):
        os.environ["POLYGON_API_KEY"], os.environ["POLYGON_BASE_URL"] = "demo", simulator.url
        typer.echo(f"vendor simulator at {simulator.url}; commands in other terminals find it without a key")
        yield


class _Child:
    """A process in a group of its own, so that Ctrl-C does not reach all children at once but ``up`` ends them in order."""

    def __init__(self, name: str, arguments: list[str], child_lock: _ChildLock) -> None:
        self.name = name
        self._command = [sys.executable, "-m", *arguments]
        self._lock_of_children = child_lock
        self._ends: deque[float] = deque(maxlen=_MAX_ENDS)
        self.process = self._start()

    def check(self) -> None:
        """Raise :class:`MarketDataError` when the process has ended."""
        if self.process.poll() is not None:
            message = f"the {self.name} ended with {self.process.returncode}: see its messages above"
            raise MarketDataError(message)

    def revive(self) -> None:
        """Start the process again. Raises :class:`MarketDataError` when it has ended too often for that to help."""
        code = self.process.returncode
        self._ends.append(time.monotonic())
        if len(self._ends) == _MAX_ENDS and self._ends[-1] - self._ends[0] < _ENDS_SECONDS:
            message = (
                f"the {self.name} ended with {code}, {_MAX_ENDS} times within {_ENDS_SECONDS:.0f} s:"
                " see its messages above"
            )
            raise MarketDataError(message)
        typer.echo(f"marketdata: the {self.name} ended with {code} and is started again", err=True)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            start_new_session=True,
            pass_fds=[self._lock_of_children.descriptor],
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one call into libc, no lock
        )


def _stop_all(children: Sequence[_Child]) -> None:
    """End ``children`` at once, and kill those that take too long."""
    running = [child.process for child in children if child.process.poll() is None]
    for process in running:
        # SIGTERM works like SIGINT once Dagster has its handlers, and leaves no traceback before that.
        process.terminate()
    end = time.monotonic() + _STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            # Not its group: the runs that a code server waits for finish without it.
            process.kill()
            process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """Return a function that makes a child end when this process is killed; None except on Linux."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    return end_with_parent


def _wait_until_listening(path: Path, child: _Child) -> None:
    for attempt in stamina.retry_context(
        on=OSError, attempts=None, timeout=_START_SECONDS, wait_initial=0.1, wait_max=0.5
    ):
        with attempt, socket.socket(socket.AF_UNIX) as probe:
            child.check()
            probe.connect(str(path))


def _wait_until_ready(url: str, children: Sequence[_Child]) -> None:
    for attempt in stamina.retry_context(
        on=httpx.HTTPError, attempts=None, timeout=_START_SECONDS, wait_initial=0.2, wait_max=1
    ):
        with attempt:
            for child in children:
                child.check()
            httpx.get(f"{url}/server_info", timeout=5, trust_env=False).raise_for_status()


def _revive_ended(settings: Settings, children: Sequence[_Child]) -> None:
    """Restart the processes that have ended: the embedded server first, without which the children end again."""
    if settings.database_url is None:
        EmbeddedServer(settings.home).ensure_running()
    for child in children:
        if child.process.poll() is not None:
            child.revive()


class _StopRequested(KeyboardInterrupt):
    """Ctrl-C, or the end of the terminal or the service. As a KeyboardInterrupt, it makes psycopg cancel its statement."""


def _request_stop(_number: int, _frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the stop itself must not be interrupted
    note_stop()
    raise _StopRequested
