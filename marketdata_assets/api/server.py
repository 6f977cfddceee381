"""The server: uvicorn serves the app in this process, or in several that share the port."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from marketdata_assets.api.metrics import MULTIPROCESS_FOLDER
from marketdata_assets.config import is_loopback_host, load_settings
from marketdata_assets.storage.connection import resolve_database_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from fastapi import FastAPI
    from uvicorn.supervisors.multiprocess import Process

_OPTIONS: Final = "MARKETDATA_SERVE_OPTIONS"
"""The variable that passes the options of the command line to the processes of one server; secrets are not in it."""
_READY_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of the command line: see ``marketdata serve --help``."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    requests_per_second: float = 100.0
    require_key: bool = False


class _Server(uvicorn.Server):
    """A server that calls ``announce`` once it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._announce()


class _Workers(Multiprocess):
    """Processes that share a port; ``announce`` is called once all of them listen."""

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], announce: Callable[[], None]
    ) -> None:
        super().__init__(config, sockets)
        self._announce = announce

    def init_processes(self) -> None:
        super().init_processes()
        waiting: dict[Any, Process] = {process.parent_conn: process for process in self.processes}
        for pipe in waiting:
            pipe.send(b"ping")
        while waiting and not self.should_exit.is_set():
            self.handle_signals()
            if not all(process.process.is_alive() for process in waiting.values()):
                return  # the supervisor starts the process again, or reports why it cannot
            answered: list[Any] = multiprocessing.connection.wait(list(waiting), timeout=_READY_SECONDS)
            for pipe in answered:
                if pipe.recv():
                    del waiting[pipe]
                else:
                    self.should_exit.wait(_READY_SECONDS)
                    pipe.send(b"ping")
        if not waiting:
            self._announce()


def serve(options: ServeOptions, announce: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; ``announce`` is called once all processes listen."""
    os.environ[_OPTIONS] = msgspec.json.encode(asdict(options)).decode()
    with tempfile.TemporaryDirectory(prefix="marketdata-api-") as folder:
        if options.workers > 1:
            os.environ[MULTIPROCESS_FOLDER] = folder
        config = uvicorn.Config(
            "marketdata_assets.api.server:app_of_environment",
            factory=True,
            http="marketdata_assets.api.connections:Connection",
            ws="none",
            host=options.host,
            port=options.port,
            workers=options.workers,
            # A client may write anything into X-Forwarded-For: it must not make a caller local.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            # uvicorn logs a warning for each bad request, without limit; the refusal log names the client and is limited.
            log_level="error",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=10,
            # With a shorter timeout, a worker that is still importing on a busy machine is killed, again and again.
            timeout_worker_healthcheck=60,
        )
        with contextlib.suppress(KeyboardInterrupt):
            if options.workers > 1:
                _Workers(config, [config.bind_socket()], announce).run()
                return
            config.load_app()
            server = _Server(config, announce)
            server.run()
            if not server.started:
                sys.exit(STARTUP_FAILURE)


def app_of_environment() -> FastAPI:
    """Return the app with the options of :func:`serve`, in any of its processes."""
    # Imported here, because the metrics choose where they are kept when they are imported.
    from marketdata_assets.api.app import create_app  # noqa: PLC0415
    from marketdata_assets.api.service import ServiceOptions  # noqa: PLC0415
    from marketdata_assets.api.store_metrics import StoreCollector  # noqa: PLC0415

    options = msgspec.json.decode(os.environ[_OPTIONS], type=ServeOptions)
    settings = load_settings()
    database_url = resolve_database_url(settings)
    return create_app(
        ServiceOptions(
            database_url=database_url,
            open_reads=is_loopback_host(options.host) and not options.require_key,
            read_keys=settings.read_keys,
            requests_per_second=options.requests_per_second,
        ),
        collectors=[StoreCollector(database_url, settings)],
    )
