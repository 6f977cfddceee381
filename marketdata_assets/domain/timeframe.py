"""Timeframes: the eight bar lengths and the two base resolutions that they are made from."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Final

from marketdata_assets.domain.errors import ConfigurationError

_UNITS: Final = {
    **dict.fromkeys(("m", "t", "min", "mins", "minute", "minutes"), timedelta(minutes=1)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), timedelta(hours=1)),
    **dict.fromkeys(("d", "day", "days"), timedelta(days=1)),
    **dict.fromkeys(("w", "wk", "week", "weeks"), timedelta(days=7)),
}
_SPELLING: Final = re.compile(
    # Without ASCII, \u017f passes for an s, and has no entry in _UNITS.
    rf"(?P<count>[1-9][0-9]{{0,3}})? ?(?P<unit>{'|'.join(_UNITS)})",
    re.IGNORECASE | re.ASCII,
)


class Timeframe(StrEnum):
    """The length of a bar. The value is its name in partition keys, columns and commands."""

    M1 = "1m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"
    W1 = "1w"

    @classmethod
    def parse(cls, text: str) -> Timeframe:
        """Return the timeframe named ``text``, as here or as other libraries write it: ``1D``, ``5min``, ``60m``, ``1wk``.

        A capital M alone means a month elsewhere, so ``1M`` is refused.

        Raises:
            ConfigurationError: ``text`` names none of the eight.
        """
        name = text.strip()
        for timeframe in cls:
            if timeframe.value == name:
                return timeframe
        found = _SPELLING.fullmatch(name)
        if found is not None and found["unit"] != "M":
            length = int(found["count"] or 1) * _UNITS[found["unit"].lower()]
            for timeframe, duration in _DURATION.items():
                if duration == length:
                    return timeframe
        message = f"unknown timeframe {text!r}: use one of {', '.join(cls)}"
        raise ConfigurationError(message)

    @property
    def multiplier(self) -> int:
        """The number of the vendor's ``timespan`` units in a bar."""
        return _VENDOR[self][0]

    @property
    def timespan(self) -> str:
        """The vendor's unit: ``minute``, ``hour``, ``day`` or ``week``."""
        return _VENDOR[self][1]

    @property
    def duration(self) -> timedelta:
        """The nominal length of a bar. A local day is 23 or 25 hours long when the clock changes."""
        return _DURATION[self]

    @property
    def base(self) -> Timeframe:
        """The fetched resolution that this timeframe is rolled up from: ``1m`` or ``1d`` (itself, for a base)."""
        return Timeframe.M1 if self.is_intraday else Timeframe.D1

    @property
    def is_base(self) -> bool:
        """Whether bars of this timeframe are fetched rather than rolled up."""
        return self in (Timeframe.M1, Timeframe.D1)

    @property
    def is_intraday(self) -> bool:
        """Whether a bar is shorter than a day."""
        return self not in (Timeframe.D1, Timeframe.W1)


def parse_timeframes(text: str) -> tuple[Timeframe, ...]:
    """Return the timeframes of ``text``, separated by commas or spaces, shortest first, each once.

    Raises:
        ConfigurationError: One of them is unknown, or none is given.
    """
    chosen = {Timeframe.parse(name) for name in text.replace(",", " ").split()}
    if not chosen:
        message = f"no timeframe given: use some of {', '.join(Timeframe)}"
        raise ConfigurationError(message)
    return tuple(timeframe for timeframe in Timeframe if timeframe in chosen)


_VENDOR: dict[Timeframe, tuple[int, str]] = {
    Timeframe.M1: (1, "minute"),
    Timeframe.M5: (5, "minute"),
    Timeframe.M15: (15, "minute"),
    Timeframe.M30: (30, "minute"),
    Timeframe.H1: (1, "hour"),
    Timeframe.H4: (4, "hour"),
    Timeframe.D1: (1, "day"),
    Timeframe.W1: (1, "week"),
}

_DURATION: dict[Timeframe, timedelta] = {
    Timeframe.M1: timedelta(minutes=1),
    Timeframe.M5: timedelta(minutes=5),
    Timeframe.M15: timedelta(minutes=15),
    Timeframe.M30: timedelta(minutes=30),
    Timeframe.H1: timedelta(hours=1),
    Timeframe.H4: timedelta(hours=4),
    Timeframe.D1: timedelta(days=1),
    Timeframe.W1: timedelta(days=7),
}

BASES: tuple[Timeframe, Timeframe] = (Timeframe.M1, Timeframe.D1)
"""The two resolutions that are fetched from the vendor."""
