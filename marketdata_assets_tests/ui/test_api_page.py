"""The page of the HTTP API in a real browser that reaches no other host."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
from playwright.sync_api import expect

from marketdata_assets.api.app import create_app
from marketdata_assets.api.connections import Connection
from marketdata_assets.api.service import ServiceOptions
from marketdata_assets_tests.ui.browsing import photograph

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from playwright.sync_api import Page, Route

SECONDS = 120


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def serving(database_url: str) -> Iterator[str]:
    app = create_app(ServiceOptions(database_url, open_reads=True, threads=2))
    server = _Server(uvicorn.Config(app, port=0, http=Connection, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.listening.wait(SECONDS)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)


def test_the_root_leads_to_a_page_that_lists_every_route_without_another_host(
    page: Page, database_url: str
) -> None:
    foreign, complaints = [], []

    def only_here(route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    page.route("**/*", only_here)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    with serving(database_url) as url:
        page.goto(url)
        expect(page.locator(".opblock-summary")).to_have_count(12)
        page.get_by_text("/api/v1/symbols", exact=True).first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".response-col_status", has_text="200").first).to_be_visible()
        photograph(page, "api")
        page.goto("about:blank")
    assert (foreign, complaints) == ([], [])
