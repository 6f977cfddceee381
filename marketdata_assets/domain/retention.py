"""Retention: how long bars of a timeframe are kept, and where that ends for each market.

Only what is named is ever pruned. A timeframe is pruned by itself: bars that were rolled up from others stay when
those go.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

DEFAULT_RETENTION: Final[Mapping[Timeframe, int]] = MappingProxyType({Timeframe.M1: 30})
"""Days that are kept, by timeframe; the others are kept for ever. A month of minutes holds the 20 sessions by which
gaps are judged."""

SHORTEST_DAYS: Final = 14
"""Fewer would prune sessions that the next run asks for again, or the days that a week is still made of."""

LONGEST_DAYS: Final = 36_500
"""More than any history."""


def parse_retention(text: str) -> dict[Timeframe, int]:
    """Days by timeframe from ``1m:30,5m:365``; raises :class:`ConfigurationError` saying what is wrong with it."""
    retention: dict[Timeframe, int] = {}
    for item in text.replace(",", " ").split():
        name, separator, days = item.partition(":")
        if not separator or not days.isascii() or not days.isdigit():
            message = f"{item!r} is no retention: write TIMEFRAME:DAYS, as in 1m:30,5m:365"
            raise ConfigurationError(message)
        timeframe = Timeframe.parse(name)
        if timeframe in retention:
            message = f"{timeframe} stands there twice: give one number of days for each timeframe"
            raise ConfigurationError(message)
        retention[timeframe] = kept_days(int(days))
    if not retention:
        message = "no timeframe given: write TIMEFRAME:DAYS, as in 1m:30"
        raise ConfigurationError(message)
    check_retention(retention)
    return retention


def check_retention(retention: Mapping[Timeframe, int]) -> None:
    """Raise :class:`ConfigurationError` when something that ``retention`` keeps needs what it removes."""
    days = retention.get(Timeframe.D1)
    if days is not None and retention.get(Timeframe.W1, LONGEST_DAYS + 1) > days:
        message = (
            "a week that a split divides is adjusted by its days: keep 1d bars as long as 1w bars"
            f" (1d:{days} goes with 1w:{days})"
        )
        raise ConfigurationError(message)


def kept_days(days: int) -> int:
    """``days`` when so many may be kept; raises :class:`ConfigurationError` when they are too few or too many."""
    if days > LONGEST_DAYS:
        message = f"{days} days are more than any history: leave the timeframe out, and it is kept for ever"
        raise ConfigurationError(message)
    if days < SHORTEST_DAYS:
        message = (
            f"{days} days are too few to keep: the latest sessions are asked for again every day; give"
            f" {SHORTEST_DAYS} or more"
        )
        raise ConfigurationError(message)
    return days


def first_kept_days(retention: Mapping[Timeframe, int], now: datetime) -> dict[Timeframe, date]:
    """The first local day of each timeframe whose bars stay at ``now``, UTC.

    Raises :class:`ConfigurationError` when something that is kept needs what goes.
    """
    check_retention(retention)
    today = now.astimezone(UTC).date()
    return {timeframe: today - timedelta(days=days) for timeframe, days in retention.items()}
