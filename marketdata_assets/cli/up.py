"""``marketdata up``: Dagster's webserver and daemon over the persistent instance, until Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import httpx
import stamina
import typer
from filelock import FileLock, Timeout

from marketdata_assets.config import project_root
from marketdata_assets.domain.errors import ConfigurationError, MarketDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "127.0.0.1"
_START_SECONDS = 120
_STOP_SECONDS = 20
_WATCH_SECONDS = 1.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Loopback port of the UI.")] = 3000,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Run a simulated vendor beside it, so that no key is needed.")
    ] = False,
) -> None:
    """Serve Dagster's UI on 127.0.0.1 and run its daemon; Ctrl-C stops all of it."""
    from marketdata_assets.automation.instance import prepare_environment, sync_series
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.config import load_settings

    with contextlib.suppress(_StopRequested), ExitStack() as stack:
        # From before the first child on: whatever ends this process must end them.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
        stack.enter_context(_only_one(load_settings().home))
        _check_port(port)
        with open_store() as store:
            prepare_environment(store.settings)
            from dagster import DagsterInstance

            with DagsterInstance.get() as instance:
                sync_series(instance, store.database)
        if simulate:
            stack.enter_context(_simulator())
        workspace = str(project_root() / "workspace.yaml")
        webserver = [sys.executable, "-m", "dagster_webserver", "-h", HOST, "-p", str(port), "-w", workspace]
        daemon = [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace]
        children = [stack.enter_context(_child(command)) for command in (webserver, daemon)]
        url = f"http://{HOST}:{port}"
        _wait_until_ready(url, children)
        typer.echo(f"Dagster at {url} (Ctrl-C stops it)")
        _wait_for_the_end(children)


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "up.lock")
    try:
        with lock.acquire(timeout=0):
            yield
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
def _simulator() -> Iterator[None]:
    from marketdata_assets.polygon.simulator import RunningSimulator, SimulatorConfig

    with RunningSimulator(SimulatorConfig(), port=0) as simulator:
        os.environ["POLYGON_API_KEY"], os.environ["POLYGON_BASE_URL"] = "demo", simulator.url
        yield


@contextlib.contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own group, so that Ctrl-C reaches it in order and not all at once."""
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent())  # noqa: PLW1509 - one call into libc, no lock
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """What makes a child end when this process is killed: only Linux can say so."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGINT)

    return end_with_parent


def _wait_until_ready(url: str, children: list[subprocess.Popen[bytes]]) -> None:
    for attempt in stamina.retry_context(
        on=httpx.HTTPError, attempts=None, timeout=_START_SECONDS, wait_initial=0.2, wait_max=1
    ):
        with attempt:
            _check_alive(children)
            httpx.get(f"{url}/server_info", timeout=5, trust_env=False).raise_for_status()


def _check_alive(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is not None:
            message = f"a Dagster process ended with {child.returncode}: its messages stand above"
            raise MarketDataError(message)


def _wait_for_the_end(children: list[subprocess.Popen[bytes]]) -> None:
    """Until a signal asks to stop; a child that ends by itself is an error."""
    while True:
        _check_alive(children)
        with contextlib.suppress(subprocess.TimeoutExpired):
            children[0].wait(_WATCH_SECONDS)


class _StopRequested(BaseException):
    """Ctrl-C, or the end of the terminal or of the service."""


def _stop(_number: int, _frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what has begun to stop is not to be interrupted
    raise _StopRequested
