"""The server of a simulator: in this thread until Ctrl-C, or in a thread of its own."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Self

import uvicorn

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.simulator.app import Simulator, create_app

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.applications import Starlette

    from marketdata_assets.simulator.config import SimulatorConfig

_HOST = "127.0.0.1"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class _Server(uvicorn.Server):
    """A server with an event that is set when it listens."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="critical",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class RunningSimulator:
    """A simulator on a loopback port, served by a thread of this process until the ``with`` block ends.

    ``url`` is the value for POLYGON_BASE_URL; ``simulator`` gives the log and the fault plan.
    Raises :class:`ConfigurationError` for a taken port and for a folder that cannot be replayed.
    """

    def __init__(self, config: SimulatorConfig | None = None, *, port: int = 0) -> None:
        app = create_app(config)
        self.simulator: Simulator = app.state.simulator
        self._socket = _listen(port)
        self.url = f"http://{_HOST}:{self._socket.getsockname()[1]}"
        self._server = _Server(app)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="vendor-simulator", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._server.listening.wait(_START_SECONDS):
            message = (
                f"the vendor simulator did not start at {self.url} within {_START_SECONDS:g} s: try again"
            )
            raise MarketDataError(message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
        self._socket.close()

    def run_until_interrupted(self) -> None:
        """Serve in this thread until Ctrl-C or SIGTERM."""
        try:
            self._server.run([self._socket])
        except KeyboardInterrupt:
            return
        finally:
            self._socket.close()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        message = f"port {port} cannot be used by the simulator ({reason}): choose another, or 0 for any"
        raise ConfigurationError(message) from None
    listener.listen(128)
    return listener
