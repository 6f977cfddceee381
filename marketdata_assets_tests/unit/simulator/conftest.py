"""The vendor simulator in this process: no socket, no thread."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.simulator import SimulatorConfig, create_app

from .client import Vendor

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def vendor() -> Callable[..., Vendor]:
    """Builds a client of a simulator with the given options, at noon UTC of 2025-06-30 by default."""

    def build(**options: Any) -> Vendor:  # noqa: ANN401  # the options of SimulatorConfig
        config = SimulatorConfig(**{"now": lambda: NOW, **options})
        return Vendor(create_app(config))

    return build


@pytest.fixture(scope="session")
def plain(vendor: Callable[..., Vendor]) -> Vendor:
    """One simulator without faults, shared by tests that only read."""
    return vendor()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Recorded vendor responses; the test is skipped where they are absent."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "polygon_api" / "fixtures"
    if not folder.is_dir():
        pytest.skip("the recorded vendor responses are absent")
    return folder
