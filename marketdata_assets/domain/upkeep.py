"""Upkeep: which days a scheduled run takes, which series are traded now, and when something is asked for again.

Days are local dates, but for :func:`nightly_days`, which takes UTC dates: the platform's nights are UTC's.
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
"""How far back a nightly run reaches for days that were missed: a year's absence is a backfill's business."""

INTRADAY: Final = timedelta(minutes=15)
"""Between two looks at an open market."""

LONGEST_PAUSE: Final = timedelta(hours=24)
"""Between two requests for the same thing."""


class Days(NamedTuple):
    """Days from ``first`` to ``last``, both inclusive."""

    first: date
    last: date


def nightly_days(
    collected: Mapping[AssetClass, Collection[Timeframe]],
    now: datetime,
    *,
    earliest: date,
    requested_until: datetime | None = None,
) -> Days | None:
    """What a nightly run takes: yesterday, and before it what late trades still revise or was missed.

    It begins with the earliest session of the correction window, or with the Sunday of the latest closed week when
    that week's last session lies in it (a week bar is its Sunday's), or with the first day that was missed.

    Args:
        collected: The timeframes that are collected of each asset class.
        now: The moment of the run, UTC.
        earliest: The first day that is a partition.
        requested_until: Up to where the vendor was asked about the series that lags most; None when about none.

    Returns:
        None when nothing is collected, or yesterday lies before ``earliest``.
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
    """The local day whose regular session is open at ``now`` or whose last bars may just have come; else None."""
    today = calendar.local_day(now)
    session = calendar.session(today)
    if session is None or not session.regular.start <= now < session.regular.end + SETTLING + INTRADAY:
        return None
    return today


def initial_days(
    series: Iterable[Series], today: date, *, days: int, minute_days: int, earliest: date
) -> dict[Series, Days]:
    """The days of the initial backfill of each of ``series``: the last ``days``, ``minute_days`` of 1m, up to today.

    1m takes as many days as the longest timeframe of the same symbol that is rolled up from it: its minutes are
    fetched anyway. Nothing before ``earliest``.
    """
    wanted = list(series)
    on_minutes = {
        one.symbol
        for one in wanted
        if one.timeframe.base is Timeframe.M1 and one.timeframe is not Timeframe.M1
    }
    found = {}
    for one in wanted:
        is_short = one.timeframe is Timeframe.M1 and one.symbol not in on_minutes
        first = today - timedelta(days=(minute_days if is_short else days) - 1)
        found[one] = Days(min(today, max(earliest, first)), today)
    return found


def may_ask_again(
    attempts: int, asked_at: datetime | None, now: datetime, *, pause: timedelta, limit: int
) -> bool:
    """Whether something that was asked for ``attempts`` times, last at ``asked_at``, is asked for again at ``now``.

    The pause doubles with every attempt, up to :data:`LONGEST_PAUSE`; after ``limit`` attempts it never is.
    """
    if attempts == 0 or asked_at is None:
        return True
    doubled = pause * 2 ** (min(attempts, limit) - 1)
    return attempts < limit and now >= asked_at + min(doubled, LONGEST_PAUSE)


def stretches(days: Iterable[Days], bridge: timedelta) -> list[Days]:
    """``days`` in order, those that overlap or lie up to ``bridge`` apart as one."""
    merged: list[Days] = []
    for first, last in sorted(days):
        if merged and first - merged[-1].last <= bridge:
            merged[-1] = Days(merged[-1].first, max(merged[-1].last, last))
        else:
            merged.append(Days(first, last))
    return merged
