"""Retention: how long bars of a timeframe are kept, where that ends for each market, and what goes with them.

Only what is named is ever pruned. A timeframe is pruned by itself: bars that were rolled up from others stay when
those go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.calendar import WEEK, moment_of, next_month
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar

DEFAULT_RETENTION: Final[Mapping[Timeframe, int]] = MappingProxyType({Timeframe.M1: 30})
"""Days that are kept, by timeframe; the others are kept for ever. A month of minutes holds the 20 sessions by which
gaps are judged."""

SHORTEST_DAYS: Final = 14
"""The fewest days to keep: fewer would remove sessions that the next run fetches again, or days that a week bar is made of."""

LONGEST_DAYS: Final = 36_500
"""The most days to keep, longer than any history."""


def parse_retention(text: str) -> dict[Timeframe, int]:
    """Parse days by timeframe, such as ``1m:30,5m:365``; raise :class:`ConfigurationError` with what is wrong."""
    retention: dict[Timeframe, int] = {}
    for item in text.replace(",", " ").split():
        name, separator, days = item.partition(":")
        if not separator or not days.isascii() or not days.isdigit():
            message = f"{item!r} is not a retention: write TIMEFRAME:DAYS, as in 1m:30,5m:365"
            raise ConfigurationError(message)
        timeframe = Timeframe.parse(name)
        if timeframe in retention:
            message = f"{timeframe} is given twice: give one number of days for each timeframe"
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
    """Return ``days`` when so many may be kept; raises :class:`ConfigurationError` when they are too few or too many."""
    if days > LONGEST_DAYS:
        message = f"{days} days are more than any history: leave the timeframe out, and it is kept for ever"
        raise ConfigurationError(message)
    if days < SHORTEST_DAYS:
        message = (
            f"{days} days are too few to keep: the latest sessions are fetched again every day; give"
            f" {SHORTEST_DAYS} or more"
        )
        raise ConfigurationError(message)
    return days


def first_kept_days(retention: Mapping[Timeframe, int], now: datetime) -> dict[Timeframe, date]:
    """Return the first local day of each timeframe whose bars stay at ``now``, UTC.

    Raises :class:`ConfigurationError` when something that is kept needs what goes.
    """
    check_retention(retention)
    today = now.astimezone(UTC).date()
    return {timeframe: today - timedelta(days=days) for timeframe, days in retention.items()}


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed of a timeframe, or would be.

    Attributes:
        timeframe: Of the bars.
        before: The first local day whose bars stay.
        bars: How many bars.
        features: How many rows of features went with them.
        bytes_returned: Space that returned to the disk: that of whole months.
        bytes_reusable: About how much space inside the tables later bars will fill.
    """

    timeframe: Timeframe
    before: date
    bars: int = 0
    features: int = 0
    bytes_returned: int = 0
    bytes_reusable: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return replace(
            self,
            bars=self.bars + other.bars,
            features=self.features + other.features,
            bytes_returned=self.bytes_returned + other.bytes_returned,
            bytes_reusable=self.bytes_reusable + other.bytes_reusable,
        )


class ShortenedGap(NamedTuple):
    """What stays of a gap that reaches from pruned days into kept ones."""

    start: datetime
    day: date
    missing_bars: int


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """Which bars of one timeframe retention removes: those of the local days before ``before``.

    ``calendars`` has the calendar of every symbol, of unknown ones as well.
    """

    timeframe: Timeframe
    before: date
    calendars: Mapping[str, TradingCalendar]

    def removed(
        self, bars: int = 0, features: int = 0, *, bytes_returned: int = 0, bytes_reusable: int = 0
    ) -> Pruned:
        """Return the report of so many removed rows of this plan."""
        return Pruned(self.timeframe, self.before, bars, features, bytes_returned, bytes_reusable)

    def cut(self, symbol: str) -> datetime:
        """Return the local midnight from which on bars of ``symbol`` stay."""
        return self.calendars[symbol].day_start(self.before)

    def finished_months(self, months: Iterable[datetime]) -> list[datetime]:
        """Choose those of the UTC ``months``, in order, that are over for every market and go as a whole."""
        if self.timeframe is not Timeframe.M1:
            return []
        # Local midnight comes first in UTC: no other market's first kept day begins before it does there.
        end = datetime.combine(self.before, time(), UTC)
        return sorted(month for month in months if next_month(month) <= end)

    def end_of_month(self, symbol: str, month: datetime) -> datetime:
        """Return the first local midnight of ``symbol`` at which ``month`` is over: UTC months end within a local day."""
        return self.calendars[symbol].day_start(next_month(month).date())

    def end_of_batch(self, symbol: str, first: datetime, beyond: datetime | None) -> datetime:
        """Return up to which local midnight a batch removes bars of ``symbol``: whole days, and at least one.

        ``first`` is the first stored open, ``beyond`` the first that is too many for the batch; None when all fit.
        """
        cut, calendar = self.cut(symbol), self.calendars[symbol]
        if beyond is None:
            return cut
        day = max(calendar.local_day(beyond), calendar.local_day(first) + timedelta(days=1))
        return min(cut, calendar.day_start(day))

    def start_of_day(self, symbol: str, moment: datetime | None) -> datetime | None:
        """Return the local midnight before ``moment``; None for None."""
        if moment is None:
            return None
        calendar = self.calendars[symbol]
        return calendar.day_start(calendar.local_day(moment))

    def shorten_gap(self, symbol: str, until: datetime, end: datetime) -> ShortenedGap | None:
        """Return what stays of a gap that ends at ``end`` when bars up to ``until`` are pruned; None for nothing.

        What is pruned is not missing.
        """
        calendar = self.calendars[symbol]
        left = expected_slots(self.timeframe, Window(until, end), calendar, end + WEEK)
        if not len(left):
            return None
        opens = moment_of(int(left.opens[0]))
        return ShortenedGap(opens, calendar.local_day(opens), len(left))
