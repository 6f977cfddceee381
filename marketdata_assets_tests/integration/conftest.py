"""Fixtures of the tests that run on a real Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from marketdata_assets.storage.connection import Database

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database."""
    with Database(database_url, application_name="test") as opened:
        yield opened
