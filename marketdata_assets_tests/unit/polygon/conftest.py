"""Fixtures of the vendor edge's unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vendor_fixtures() -> Path:
    """The folder of recorded and documented responses of the vendor."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "polygon_api" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"no recorded responses at {folder}")
    return folder
