"""Freshness: whether the bars are stored that a daily run should have fetched by now.

It depends on stored bars and on requests to the vendor, never on the time of a materialization: a backfill of an old
day makes no series fresh, and a weekend makes no series stale.

Bars are due in whole days, up to the last day whose bars had all closed, :data:`~marketdata_assets.domain.gaps.SETTLING`
ago or earlier, when the latest daily run began that has had :data:`GRACE` to finish. Before that no series is late: one
that is collected once a day is not stale at noon because today's bars are missing. So every timeframe has the same
tolerance, up to a day and the grace after the close; a week bar closes with its week.

A series is *fresh* when it has the last bar that is due. Without that bar, the series is stale, whatever its
habits, unless the vendor has answered a request made after the bar had closed. If it has, the silence since the newest
bar is judged like any other gap (:mod:`~marketdata_assets.domain.gaps`): a fund that trades in a fifth of its
minutes is fresh without its last ones, a stock that stopped in the middle of a session is not.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from marketdata_assets.domain.calendar import moment_of
from marketdata_assets.domain.gaps import EVIDENCE, SETTLING, find_gaps, judge
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
"""How long a daily run may take, retries and repairs included, before the bars that it should have fetched are late."""

_LONGEST_CLOSURE: Final = timedelta(days=21)
"""Longer than any time without a closed bar: an exchange has been closed for a week, and a week bar takes another."""


class Freshness(StrEnum):
    """The state of the newest bars of a series."""

    FRESH = "fresh"
    """The last due bar is stored, or the vendor answered and the silence is usual for the series."""
    NOT_ASKED = "not_asked"
    """No request was made since the last due bar closed."""
    FAILED = "failed"
    """The request failed, or its answer did not arrive completely."""
    SILENT = "silent"
    """The vendor answered, and has had no bar for longer than the habits of the series explain."""


class Due(NamedTuple):
    """The last bar of a series that should be stored by now. Times are UTC."""

    opens: datetime
    closes: datetime
    day: date
    """The local date of the open, which is the partition of the bar."""


class Known(NamedTuple):
    """The facts on record about the newest bars of a series.

    Attributes:
        newest: The open of the newest bar, UTC; None without a bar.
        answered: Whether the vendor answered a request, made after the due bar had closed, whose window holds it.
        failure: How the latest such request failed, when none was answered since; None when none failed.
    """

    newest: datetime | None
    answered: bool
    failure: str | None


class Verdict(NamedTuple):
    """The judgement whether a series is fresh.

    Attributes:
        state: The judgement in a word.
        late: The number of due sessions, or weeks, without a bar since the newest bar; 0 for a fresh series. None when
            no bar is stored at all.
        reason: The judgement in a sentence.
    """

    state: Freshness
    late: int | None
    reason: str


def last_daily_run(now: datetime) -> datetime:
    """Return when the latest daily run began, UTC, that has had :data:`GRACE` to finish at ``now``."""
    run = datetime.combine((now - GRACE).astimezone(UTC).date(), DAILY_RUN)
    return run if run + GRACE <= now else run - timedelta(days=1)


def due(timeframe: Timeframe, calendar: TradingCalendar, now: datetime) -> Due | None:
    """Return the last bar of ``timeframe`` on ``calendar`` that should be stored at ``now``; None without a closed bar."""
    slots = _due_slots(timeframe, calendar, now, _LONGEST_CLOSURE)
    if not len(slots):
        return None
    opens = moment_of(int(slots.opens[-1]))
    day = calendar.local_day(opens)
    return Due(opens, _close_of(timeframe, calendar, opens), day)


def evidence_window(timeframe: Timeframe, calendar: TradingCalendar, now: datetime) -> Window:
    """Return the window of the bars by which :func:`judge_freshness` judges the silence of a series."""
    end = _due_end(timeframe, calendar, now)
    return Window(end - EVIDENCE[timeframe.base], end)


def is_decided(known: Known, last: Due) -> bool:
    """Whether ``known`` alone decides if the series is fresh, so that its stored bars need not be read."""
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
    """Judge whether ``series`` is fresh at ``now``, when ``last`` is due.

    ``stored`` are its bars in :func:`evidence_window`, with their ``base_bars``; None without bars, and not used when
    :func:`is_decided`. ``requested`` are the windows that were ever requested (None: all of the evidence window): days
    that were never fetched are not evidence of silence.
    """
    if known.newest is not None and known.newest >= last.opens:
        return Verdict(Freshness.FRESH, 0, "has the last bar that is due")
    late = _count_late(series.timeframe, calendar, known.newest, now)
    since = "no bar is stored" if known.newest is None else f"newest bar {known.newest:%Y-%m-%d %H:%M} UTC"
    if not known.answered:
        if known.failure is not None:
            return Verdict(Freshness.FAILED, late, f"{since}; the latest request failed: {known.failure}")
        reason = f"{since}; no request to the vendor since {last.closes:%Y-%m-%d %H:%M} UTC"
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
    answer = f"{since}; the vendor answered: {silence['incident_base']:,} {unit} without a trade"
    if silence["is_loss"]:
        usual = f"up to {silence['usual']:,} are usual" if silence["usual"] else "none is usual"
        return Verdict(Freshness.SILENT, late, f"{answer}, where {usual}")
    return Verdict(Freshness.FRESH, 0, f"{answer} are usual for the series (up to {silence['usual']:,})")


def _due_end(timeframe: Timeframe, calendar: TradingCalendar, now: datetime) -> datetime:
    """Return local midnight after the last due day, as UTC; for day and week bars, the moment until which bars are due."""
    closed = last_daily_run(now) - SETTLING
    today = calendar.local_day(closed)
    if timeframe.is_intraday:
        session = calendar.session(today)
        # A day is due as a whole: a daily run fetches whole days.
        is_over = session is not None and session.regular.end <= closed
        return calendar.day_window(today).end if is_over else calendar.day_start(today)
    return closed


def _due_slots(timeframe: Timeframe, calendar: TradingCalendar, now: datetime, length: timedelta) -> Slots:
    """Return the slots that should have a bar by now, in the latest ``length`` of time."""
    end = _due_end(timeframe, calendar, now)
    return expected_slots(timeframe, Window(end - length, end), calendar, end)


def _close_of(timeframe: Timeframe, calendar: TradingCalendar, opens: datetime) -> datetime:
    if timeframe is Timeframe.W1:
        return calendar.day_start(calendar.local_day(opens) + timeframe.duration)
    if timeframe is Timeframe.D1:
        return calendar.day_window(calendar.local_day(opens)).end - calendar.idle_before_midnight
    return opens + timeframe.duration


def _count_late(
    timeframe: Timeframe, calendar: TradingCalendar, newest: datetime | None, now: datetime
) -> int | None:
    """Count the due days, or weeks, that have a slot after ``newest`` without a bar, the day of ``newest`` included."""
    if newest is None:
        return None
    end = _due_end(timeframe, calendar, now)
    if newest >= end:
        return 0
    slots = expected_slots(timeframe, Window(newest, end), calendar, end)
    return slots.within(newest + timedelta(microseconds=1)).days().n_unique()
