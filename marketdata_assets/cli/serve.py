"""``marketdata serve``: the HTTP API until Ctrl-C."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from marketdata_assets.domain.errors import ConfigurationError


def serve(
    *,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; unless it is loopback, everything but /health needs a key."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
    requests_per_second: Annotated[
        float,
        typer.Option(
            min=0.1, help="Limit per client and process; every 1,000 rows count as one more request."
        ),
    ] = 100.0,
    require_key: Annotated[
        bool,
        typer.Option("--require-key", help="Require a key from local programs too; needed behind any proxy."),
    ] = False,
) -> None:
    """Serve bars, features, gaps and completeness over HTTP; the page /docs describes every route.

    Reads from this machine need no key, reads from elsewhere do (`marketdata keys create NAME`). There is no TLS: to
    serve other machines, put a proxy with TLS in front. Behind any proxy use --require-key, because requests through
    a proxy on this machine look local.
    """
    # Responses are small and made several at a time: Polars' threads would only compete with each other.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from marketdata_assets.cli.session import open_store

    with open_store():  # migrates once, before several processes open the store
        pass
    _require_free(host, port)
    from marketdata_assets.api.server import ServeOptions
    from marketdata_assets.api.server import serve as run
    from marketdata_assets.config import is_loopback_host

    shown = f"[{host}]" if ":" in host else host
    is_open = is_loopback_host(host) and not require_key
    line = (
        f"serving on http://{shown}:{port}, described at http://{shown}:{port}/docs"
        f"{'; reads need no key: behind any proxy, add --require-key' if is_open else ''}; Ctrl-C ends it"
    )
    run(
        ServeOptions(host, port, workers, requests_per_second, require_key),
        lambda: typer.echo(line, err=True),
    )


def _require_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        message = (
            f"{host} port {port} cannot be listened on ({error.strerror}): choose another --host or --port"
        )
        raise ConfigurationError(message) from None
