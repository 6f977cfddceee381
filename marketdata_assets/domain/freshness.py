"""Freshness: whether each series holds what a daily run should have brought by now.

Bars count, and requests to the vendor, never the time at which something was materialized: a backfill of an old day
makes nothing fresh, and a weekend makes nothing stale.

What is due is counted in whole days: the last one whose bars had all closed, and settled, when the latest daily run
began that has had :data:`GRACE` to finish. Before that nobody is late: a series that is collected once a day is not
stale at noon for lack of today's bars. So every timeframe has the same tolerance, up to a day and the grace after the
close; a week bar closes with its week.

A series is *fresh* when it has the last bar that is due. Without it, it depends on whether the vendor was asked after
that bar had closed: if not, the series is stale, whatever its habits. If the vendor answered, the silence since the
newest bar is judged like any other gap (:mod:`~marketdata_assets.domain.gaps`): a fund that trades in a fifth of its
minutes is fresh without its last ones, a stock that stopped in the middle of a session is not.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.calendar import moment_of
from marketdata_assets.domain.gaps import SETTLING, find_gaps, judge
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.slots import Slots, StoredBars

DAILY_RUN: Final = time(2, tzinfo=UTC)
"""When the daily run begins."""
GRACE: Final = timedelta(hours=6)
"""How long a daily run may take, retries and repairs included, before what it should have brought is late."""

EVIDENCE: Final = {Timeframe.M1: timedelta(days=40), Timeframe.D1: timedelta(days=380)}
"""How far back the habits of a series are looked at, by base: somewhat more than the sessions that judging uses."""
_LONGEST_CLOSURE: Final = timedelta(days=21)
"""Longer than any stretch without a closed bar: an exchange has stayed shut for a week, and a week bar takes another."""


class Freshness(StrEnum):
    """What is known about the newest bars of a series."""

    FRESH = "fresh"
    """It has what is due, or the vendor was asked and its silence is usual."""
    NOT_ASKED = "not_asked"
    """Nobody asked the vendor since the last due bar closed."""
    FAILED = "failed"
    """The vendor was asked and failed, or its answer did not arrive whole."""
    SILENT = "silent"
    """The vendor answered, and has had no bar for longer than the series' habits explain."""


class Due(NamedTuple):
    """The last bar of a series that should be stored by now, UTC."""

    opens: datetime
    closes: datetime
    day: date
    """The local date of the open: its partition."""


class Known(NamedTuple):
    """What is stored about the newest bars of a series.

    Attributes:
        newest: The open of the newest bar; None without one.
        answered: Whether the vendor answered a request, made after the due bar had closed, that holds it.
        failure: How the latest such request failed, when none was answered since; None when none did.
    """

    newest: datetime | None
    answered: bool
    failure: str | None


class Verdict(NamedTuple):
    """Whether a series is fresh.

    Attributes:
        state: In a word.
        late: How many sessions, or weeks, that were due have no bar since the newest one; 0 for a fresh series.
            None when no bar is stored at all.
        reason: One sentence.
    """

    state: Freshness
    late: int | None
    reason: str


def last_daily_run(now: datetime) -> datetime:
    """When the latest daily run began that has had :data:`GRACE` to finish at ``now``."""
    run = datetime.combine((now - GRACE).astimezone(UTC).date(), DAILY_RUN)
    return run if run + GRACE <= now else run - timedelta(days=1)


def due(timeframe: Timeframe, calendar: TradingCalendar, now: datetime) -> Due | None:
    """The last bar of ``timeframe`` on ``calendar`` that should be stored at ``now``; None when there never was one."""
    slots = _due_slots(timeframe, calendar, now, _LONGEST_CLOSURE)
    if not len(slots):
        return None
    opens = moment_of(int(slots.opens[-1]))
    day = calendar.local_day(opens)
    return Due(opens, _closes(timeframe, calendar, opens), day)


def evidence_window(timeframe: Timeframe, calendar: TradingCalendar, now: datetime) -> Window:
    """Which bars :func:`judge_freshness` wants to see of a series whose silence it has to judge."""
    end = _due_end(timeframe, calendar, now)
    return Window(end - EVIDENCE[timeframe.base], end)


def is_final(known: Known, last: Due) -> bool:
    """Whether ``known`` alone tells if the series is fresh: no habits have to be looked at."""
    return not known.answered or (known.newest is not None and known.newest >= last.opens)


def judge_freshness(
    series: Series,
    calendar: TradingCalendar,
    last: Due,
    known: Known,
    *,
    stored: StoredBars | None,
    now: datetime,
    requested: Iterable[Window] | None = None,
) -> Verdict:
    """Whether ``series`` is fresh at ``now``, when ``last`` is due.

    ``stored`` are its bars, with their ``base_bars``, in :func:`evidence_window`; not used when
    :func:`is_settled`, None when there is none. ``requested`` are the windows of it that were ever asked for (None: all of
    it): days that were never fetched are no evidence of silence.
    """
    if known.newest is not None and known.newest >= last.opens:
        return Verdict(Freshness.FRESH, 0, "has the last bar that is due")
    late = _late(series.timeframe, calendar, known.newest, now)
    since = "no bar is stored" if known.newest is None else f"newest bar {known.newest:%Y-%m-%d %H:%M} UTC"
    if not known.answered:
        if known.failure is not None:
            return Verdict(Freshness.FAILED, late, f"{since}; asked for, and it failed: {known.failure}")
        reason = f"{since}; nobody has asked the vendor since {last.closes:%Y-%m-%d %H:%M} UTC"
        return Verdict(Freshness.NOT_ASKED, late, reason)
    slots = _due_slots(series.timeframe, calendar, now, EVIDENCE[series.timeframe.base])
    if stored is None or not len(stored.times):
        return Verdict(Freshness.SILENT, late, f"{since}; the vendor answered and has none")
    slots = slots.within(moment_of(int(stored.times[0])))
    if requested is not None:
        slots = slots.requested_in(requested, slots.on_days_of(stored.times))
    gaps = judge(find_gaps({series: stored}, {series: slots}), {series: stored}, {series: slots})
    # The last slot is empty, so the last gap is the silence.
    silence = gaps.row(-1, named=True)
    unit = "minutes" if series.timeframe.is_intraday else "sessions"
    told = f"{since}; the vendor answered: {silence['incident_base']:,} {unit} without a trade"
    if silence["is_loss"]:
        usual = f"up to {silence['usual']:,} are usual" if silence["usual"] else "none is usual"
        return Verdict(Freshness.SILENT, late, f"{told}, where {usual}")
    return Verdict(Freshness.FRESH, 0, f"{told} are usual for it (up to {silence['usual']:,})")


def _due_end(timeframe: Timeframe, calendar: TradingCalendar, now: datetime) -> datetime:
    """Local midnight after the last day that is due, UTC; for week bars the end of their days."""
    closed = last_daily_run(now) - SETTLING
    today = calendar.local_day(closed)
    if timeframe.is_intraday:
        session = calendar.session(today)
        # A day is due as a whole: its daily run asks for whole days.
        is_over = session is not None and session.regular.end <= closed
        return calendar.day_window(today).end if is_over else calendar.day_start(today)
    return closed


def _due_slots(timeframe: Timeframe, calendar: TradingCalendar, now: datetime, length: timedelta) -> Slots:
    """The slots that should have a bar by now, of the latest ``length`` of time."""
    end = _due_end(timeframe, calendar, now)
    return expected_slots(timeframe, Window(end - length, end), calendar, end)


def _closes(timeframe: Timeframe, calendar: TradingCalendar, opens: datetime) -> datetime:
    if timeframe is Timeframe.W1:
        return calendar.day_start(calendar.local_day(opens) + timedelta(days=7))
    if timeframe is Timeframe.D1:
        return calendar.day_window(calendar.local_day(opens)).end - calendar.idle_before_midnight
    return opens + timeframe.duration


def _late(
    timeframe: Timeframe, calendar: TradingCalendar, newest: datetime | None, now: datetime
) -> int | None:
    """Due days, or weeks, without a bar after that of ``newest``, one in part included."""
    if newest is None:
        return None
    end = _due_end(timeframe, calendar, now)
    if newest >= end:
        return 0
    slots = expected_slots(timeframe, Window(newest, end), calendar, end)
    return slots.within(newest + timedelta(microseconds=1)).days().n_unique()
