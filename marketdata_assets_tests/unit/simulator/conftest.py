"""The vendor simulator in this process: no socket, no thread."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.polygon.simulator import SimulatorConfig, create_app

from .client import Vendor

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def vendor() -> Callable[..., Vendor]:
    """A client of a simulator with the given options, at noon UTC of 2025-06-30 unless `now` says otherwise."""

    def build(**options: Any) -> Vendor:
        config = SimulatorConfig(**{"now": lambda: NOW, **options})
        return Vendor(create_app(config))

    return build


@pytest.fixture(scope="session")
def plain(vendor: Callable[..., Vendor]) -> Vendor:
    """One simulator without faults, shared by tests that only read."""
    return vendor()


def _shared(variable: str, default: str) -> Path:
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get(variable, root.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Recorded market data; the test is skipped where it is absent."""
    return _shared("MARKETDATA_REALDATA", "realdata")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Recorded vendor responses; the test is skipped where they are absent."""
    return _shared("MARKETDATA_FIXTURES", "polygon_api/fixtures")
