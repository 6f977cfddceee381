"""Pages of a browser, and pictures of them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

_SECONDS = 120


@contextmanager
def opened_page(browser: Browser) -> Iterator[Page]:
    """An empty page that waits up to two minutes for what it is asked about: machines are shared."""
    expect.set_options(timeout=_SECONDS * 1000)
    with browser.new_context(viewport={"width": 1500, "height": 1000}) as context:
        context.set_default_timeout(_SECONDS * 1000)
        page = context.new_page()
        try:
            yield page
        except Exception:
            photograph(page, "failed")
            raise


def photograph(page: Page, name: str) -> None:
    """Keep a picture of ``page`` in the folder that SCREENSHOTS names; nothing where it is not set."""
    if folder := os.environ.get("SCREENSHOTS"):
        # Finished, or dialogs are half there.
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")
