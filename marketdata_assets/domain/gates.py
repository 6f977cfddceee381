"""Gates: which partitions fail a check, and when that stops a whole run."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.domain.calendar import TradingCalendar

_SUNDAY = 6


def stops_run(failing: int, partitions: int) -> bool:
    """Whether a gate that ``failing`` of ``partitions`` do not pass stops everything behind it.

    A gate closes for a whole run. One bad partition of a thousand must not keep the others from what comes
    after: then the gate names the bad one, and what comes after leaves it out.
    """
    return failing >= partitions


def days_of_gap(
    start: datetime, end: datetime, timeframe: Timeframe, calendar: TradingCalendar
) -> Iterator[date]:
    """The local days whose partition lacks bars when ``[start, end)`` is a gap of ``timeframe``.

    Days on which no bar opens (weekends of an exchange, the days within a week bar) lack nothing.
    """
    first = calendar.local_day(start.astimezone(UTC))
    last = calendar.local_day(end.astimezone(UTC) - timedelta(microseconds=1))
    for offset in range((last - first).days + 1):
        day = first + timedelta(days=offset)
        opens = day.weekday() == _SUNDAY if timeframe is Timeframe.W1 else calendar.is_session(day)
        if opens:
            yield day


def lost_to_quarantine(quarantined: int, held: int) -> bool:
    """Whether rules took so many base bars out of a partition that what is left cannot be trusted.

    A few broken rows are the vendor's daily life. More ``quarantined`` than ``held`` ones are a broken day.
    """
    return quarantined > held
