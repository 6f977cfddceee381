"""Maintenance: which days a scheduled run covers, which series are traded now, and when a failed request is repeated.

Days are local dates, except for :func:`daily_run_days`, which takes UTC dates: the schedule is in UTC.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.calendar import WEEK, calendar_of, sunday_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS
from marketdata_assets.domain.gaps import SETTLING
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import AssetClass, Series

CATCH_UP: Final = timedelta(days=31)
"""How far back a daily run reaches for days that were missed: longer absences need a backfill."""

INTRADAY: Final = timedelta(minutes=15)
"""The time between two runs during an open session."""

LONGEST_PAUSE: Final = timedelta(hours=24)
"""The longest time between two requests for the same data."""


class Days(NamedTuple):
    """The days from ``first`` to ``last``, both inclusive."""

    first: date
    last: date


def daily_run_days(
    collected: Mapping[AssetClass, Collection[Timeframe]],
    now: datetime,
    *,
    earliest: date,
    requested_until: datetime | None = None,
) -> Days | None:
    """Return the days of a daily run: yesterday, and before it the days that late trades still revise or that were missed.

    They begin with the earliest session of the correction window, or with the Sunday of the latest closed week when
    the last session of that week lies in it (a week bar belongs to its Sunday), or with the first day
    that was missed.

    Args:
        collected: The timeframes that are collected, by asset class.
        now: The moment of the run, UTC.
        earliest: The first day that is a partition.
        requested_until: The end of the requested windows of the series that lags most; None when nothing was requested.

    Returns:
        The days, or None when nothing is collected or yesterday lies before ``earliest``.
    """
    last = now.date() - timedelta(days=1)
    if not collected or last < earliest:
        return None
    firsts = [last]
    for asset_class, timeframes in collected.items():
        calendar = calendar_of(asset_class)
        corrected = calendar.local_day(calendar.final_before(now, CORRECTION_SESSIONS))
        firsts.append(corrected)
        sunday = sunday_of(calendar.local_day(now)) - WEEK
        sessions = calendar.sessions(sunday, sunday + timedelta(days=6))
        if Timeframe.W1 in timeframes and sessions and sessions[-1] >= corrected:
            firsts.append(sunday)
    if requested_until is not None:
        firsts.append(max(requested_until.date(), last - CATCH_UP))
    return Days(max(earliest, min(firsts)), last)


def traded_day(calendar: TradingCalendar, now: datetime) -> date | None:
    """Return the local day whose regular session is open at ``now`` or whose last bars may just have arrived; else None."""
    today = calendar.local_day(now)
    session = calendar.session(today)
    if session is None or not session.regular.start <= now < session.regular.end + SETTLING + INTRADAY:
        return None
    return today


def initial_days(
    series: Iterable[Series], today: date, *, days: int, minute_days: int, earliest: date
) -> dict[Series, Days]:
    """Return the days of the initial backfill of each of ``series``: the last ``days``, or ``minute_days`` for 1m, to today.

    1m takes as many days as the longest timeframe of the same symbol that is rolled up from it: its minutes are
    fetched anyway. No day lies before ``earliest``.
    """
    wanted = list(series)
    on_minutes = {
        member.symbol
        for member in wanted
        if member.timeframe.base is Timeframe.M1 and member.timeframe is not Timeframe.M1
    }
    found = {}
    for member in wanted:
        is_short = member.timeframe is Timeframe.M1 and member.symbol not in on_minutes
        first = today - timedelta(days=(minute_days if is_short else days) - 1)
        found[member] = Days(min(today, max(earliest, first)), today)
    return found


def may_request_again(
    attempts: int, requested_at: datetime | None, now: datetime, *, pause: timedelta, limit: int
) -> bool:
    """Whether data that was requested ``attempts`` times, last at ``requested_at``, is requested again at ``now``.

    The pause doubles with every attempt, up to :data:`LONGEST_PAUSE`; there are at most ``limit`` attempts.
    """
    if attempts == 0 or requested_at is None:
        return True
    doubled = pause * 2 ** (min(attempts, limit) - 1)
    return attempts < limit and now >= requested_at + min(doubled, LONGEST_PAUSE)


def merge_days(days: Iterable[Days], bridge: timedelta) -> list[Days]:
    """Merge those of ``days`` that overlap or lie up to ``bridge`` apart, and return all in order."""
    merged: list[Days] = []
    for first, last in sorted(days):
        if merged and first - merged[-1].last <= bridge:
            merged[-1] = Days(merged[-1].first, max(merged[-1].last, last))
        else:
            merged.append(Days(first, last))
    return merged
