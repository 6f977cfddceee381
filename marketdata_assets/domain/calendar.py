"""Trading calendars: which local days have a session, and its hours.

A *session* is a local date on which the market opens. Local dates and clock times appear only here; every
other module speaks UTC. XNYS comes from ``exchange_calendars``, which knows half days and unscheduled
closures, plus the late opens that it lacks; crypto trades every UTC day.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_XNYS_FIRST, _XNYS_LAST = date(1990, 1, 1), date(2040, 12, 31)
# Polygon's stock minutes run from 04:00 to 20:00 Eastern (docs/vendor.md, "Bars").
_EXTENDED_OPEN, _EXTENDED_CLOSE = time(4), time(20)
_LATE_OPENS = {
    # Two and a half hours late, for the first anniversary of the attacks; 11:00 had been announced. Los Angeles
    # Times, 2002-09-12, "NYSE Pauses to Reflect"; Variety, 2002-09-11, "Market's mourning session".
    date(2002, 9, 11): time(12),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

WEEK: Final = timedelta(days=7)
"""The time from the Sunday on which a week begins to the next Sunday: the length of the longest bar."""


def sunday_of(day: date) -> date:
    """Return the Sunday on which the week of ``day`` begins."""
    return day - timedelta(days=(day.weekday() + 1) % 7)


def next_month(month: datetime) -> datetime:
    """Return the first moment of the UTC month after the one that begins at ``month``."""
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Session:
    """A local trading date.

    ``regular`` is the window in which bars are expected; ``extended`` is the window in which the vendor may
    have bars (pre-market and after-hours included). Both are UTC.
    """

    day: date
    regular: Window
    extended: Window


class SessionTable(NamedTuple):
    """Sessions in order, as arrays of one length. Moments are int64 microseconds since the epoch, in UTC."""

    days: npt.NDArray[np.datetime64]
    """Local dates."""
    midnights: npt.NDArray[np.int64]
    """The local midnight that opens each day."""
    opens: npt.NDArray[np.int64]
    closes: npt.NDArray[np.int64]


def microseconds(moment: datetime) -> int:
    """Return ``moment`` as microseconds since the epoch, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def milliseconds(moment: datetime) -> int:
    """Return ``moment`` as milliseconds since the epoch, rounded down."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_of(microseconds: int) -> datetime:
    """Return the moment that lies ``microseconds`` after the epoch: the inverse of :func:`microseconds`."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True, eq=False)
class TradingCalendar:
    """The sessions of a market and the time zone of its dates."""

    name: str
    timezone: ZoneInfo
    _days: Sequence[date] | None = field(repr=False)
    _opens: Sequence[datetime] = field(default=(), repr=False)
    _closes: Sequence[datetime] = field(default=(), repr=False)

    @property
    def is_always_open(self) -> bool:
        """Whether every day is a session of 24 hours."""
        return self._days is None

    @property
    def idle_before_midnight(self) -> timedelta:
        """The time from the last moment of a day at which the vendor may have bars to local midnight."""
        return timedelta(0) if self.is_always_open else timedelta(hours=24 - _EXTENDED_CLOSE.hour)

    def day_start(self, day: date) -> datetime:
        """Return the local midnight that opens ``day``, as UTC."""
        return datetime.combine(day, time(), self.timezone).astimezone(UTC)

    def day_window(self, day: date) -> Window:
        """Return the window of ``day``, from local midnight to local midnight: 23, 24 or 25 hours."""
        return Window(self.day_start(day), self.day_start(day + timedelta(days=1)))

    def local_day(self, moment: datetime) -> date:
        """Return the local date on which ``moment`` falls."""
        return moment.astimezone(self.timezone).date()

    def last_day_before(self, end: datetime) -> date:
        """Return the local date of the last moment before ``end``, the exclusive end of a window."""
        return self.local_day(end - timedelta(microseconds=1))

    def is_session(self, day: date) -> bool:
        """Whether the market opens on ``day``."""
        if self._days is None:
            return True
        position = bisect_left(self._days, day)
        return position < len(self._days) and self._days[position] == day

    def sessions(self, first: date, last: date) -> list[date]:
        """Return the sessions from ``first`` to ``last``, both inclusive."""
        if self._days is None:
            return [first + timedelta(days=n) for n in range((last - first).days + 1)]
        return list(
            self._days[bisect_left(self._days, first) : bisect_left(self._days, last + timedelta(days=1))]
        )

    def session(self, day: date) -> Session | None:
        """Return the session of ``day``, or None when the market is closed all day."""
        window = self.day_window(day)
        if self._days is None:
            return Session(day, window, window)
        position = bisect_left(self._days, day)
        if position == len(self._days) or self._days[position] != day:
            return None
        extended = Window(
            datetime.combine(day, _EXTENDED_OPEN, self.timezone).astimezone(UTC),
            datetime.combine(day, _EXTENDED_CLOSE, self.timezone).astimezone(UTC),
        )
        return Session(day, Window(self._opens[position], self._closes[position]), extended)

    def session_table(self, first: date, last: date) -> SessionTable:
        """Return the sessions from ``first`` to ``last``, both inclusive, with their regular hours."""
        if self._days is None:
            days = np.arange(np.datetime64(first, "D"), np.datetime64(last, "D") + 1)
            edges = np.append(days, days[-1:] + 1).astype("datetime64[us]").astype(np.int64)
            return SessionTable(days, edges[:-1], edges[:-1], edges[1:])
        indices = slice(bisect_left(self._days, first), bisect_left(self._days, last + timedelta(days=1)))
        days, midnights, opens, closes = self._table
        return SessionTable(days[indices], midnights[indices], opens[indices], closes[indices])

    @cached_property
    def _table(self) -> SessionTable:
        days = self._days or ()
        return SessionTable(
            np.array(days, dtype="datetime64[D]"),
            np.array([microseconds(self.day_start(day)) for day in days], dtype=np.int64),
            np.array([microseconds(moment) for moment in self._opens], dtype=np.int64),
            np.array([microseconds(moment) for moment in self._closes], dtype=np.int64),
        )

    def last_sessions(self, today: date, count: int) -> list[date]:
        """Return the ``count`` latest sessions up to and including ``today``, in order."""
        if self._days is None:
            return self.sessions(today - timedelta(days=count - 1), today)
        end = bisect_left(self._days, today + timedelta(days=1))
        return list(self._days[max(0, end - count) : end])

    def final_before(self, now: datetime, sessions: int) -> datetime:
        """Return local midnight of the earliest of the latest ``sessions`` sessions that have begun at ``now``, as UTC."""
        today = self.local_day(now)
        latest = self.last_sessions(today, sessions + 1)
        begun = [day for day in latest if (session := self.session(day)) and session.extended.start <= now]
        return self.day_start(begun[-sessions])


@cache
def _xnys() -> TradingCalendar:
    # Imported here: pandas and the calendar's tables take a second to load, which `marketdata --help` need not spend.
    import exchange_calendars  # noqa: PLC0415

    calendar = exchange_calendars.get_calendar(
        "XNYS", start=_XNYS_FIRST.isoformat(), end=_XNYS_LAST.isoformat()
    )
    zone = ZoneInfo("America/New_York")
    days = calendar.sessions.to_numpy().astype("datetime64[D]").astype(object).tolist()
    opens = _to_utc(calendar.opens.dt.tz_convert(None).to_numpy())
    for day, clock_time in _LATE_OPENS.items():
        opens[bisect_left(days, day)] = datetime.combine(day, clock_time, zone).astimezone(UTC)
    return TradingCalendar(
        name="XNYS",
        timezone=zone,
        _days=days,
        _opens=opens,
        _closes=_to_utc(calendar.closes.dt.tz_convert(None).to_numpy()),
    )


def _to_utc(moments: np.ndarray) -> list[datetime]:
    return [moment.replace(tzinfo=UTC) for moment in moments.astype("datetime64[us]").astype(object)]


@cache
def _always_open() -> TradingCalendar:
    return TradingCalendar(name="24/7", timezone=ZoneInfo("UTC"), _days=None)


def calendar_of(asset_class: AssetClass) -> TradingCalendar:
    """Return the calendar of an asset class: XNYS for stocks, ETFs and indices, 24/7 for crypto."""
    return _always_open() if asset_class is AssetClass.CRYPTO else _xnys()
