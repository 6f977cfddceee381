"""Serving the app with uvicorn: in this process, or in several that share the port."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import uvicorn

from marketdata_assets.api.metrics import MULTIPROCESS_FOLDER
from marketdata_assets.config import is_loopback_host, load_settings
from marketdata_assets.storage.connection import resolve_database_url

if TYPE_CHECKING:
    from fastapi import FastAPI

_OPTIONS: Final = "MARKETDATA_SERVE_OPTIONS"
"""How the processes of one server hear what its command line said; what is secret they read where it did."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says: see ``marketdata serve --help``."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    requests_per_second: float = 100.0
    require_key: bool = False


def serve(options: ServeOptions) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    os.environ[_OPTIONS] = msgspec.json.encode(asdict(options)).decode()
    with tempfile.TemporaryDirectory(prefix="marketdata-api-") as folder:
        if options.workers > 1:
            os.environ[MULTIPROCESS_FOLDER] = folder
        uvicorn.run(
            "marketdata_assets.api.server:app_of_environment",
            factory=True,
            host=options.host,
            port=options.port,
            workers=options.workers,
            # X-Forwarded-For is whatever a client writes there: it must not make anybody local.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=10,
            # A worker that is still importing on a busy machine would be killed, and its successor again.
            timeout_worker_healthcheck=60,
        )


def app_of_environment() -> FastAPI:
    """The app that :func:`serve` asks for, in whatever process."""
    # Here, because the metrics decide where they are kept when they are imported.
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
