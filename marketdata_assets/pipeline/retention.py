"""Retention: for how many days bars are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.config import load_settings
from marketdata_assets.domain.retention import DEFAULT_RETENTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.domain.timeframe import Timeframe


def chosen_retention() -> Mapping[Timeframe, int]:
    """Days that are kept, by timeframe: what ``MARKETDATA_RETENTION`` says, else the default."""
    return load_settings().retention or DEFAULT_RETENTION
