"""Fixtures of the tests that use the platform as people do: through a real browser, and through its daemon."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.ui.browsing import opened_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

_UI = REPOSITORY / "marketdata_assets_tests" / "ui"
_OPTIONS = (
    "--no-sandbox",  # the suite may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # or it looks up hosts of its maker
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_UI):
            # Dagster's processes and a browser take a minute to get going.
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium, without a screen.

    Not for longer than a module: while Playwright runs, no other test can start an event loop.
    """
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: install the distribution's package `chromium`, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page."""
    with opened_page(browser) as opened:
        yield opened
