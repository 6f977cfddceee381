"""Maintenance: the days of a scheduled run, the series that are traded now, and which histories and repairs are due.

Days are local dates, except for :func:`daily_run_days`, which takes UTC dates: the schedule is in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from marketdata_assets.domain.calendar import WEEK, calendar_of, sunday_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS
from marketdata_assets.domain.gaps import SETTLING
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.domain.series import AssetClass, Series

CATCH_UP: Final = timedelta(days=31)
"""How far back a daily run reaches for days that were missed: longer absences need a backfill."""

INTRADAY: Final = timedelta(minutes=15)
"""The time between two runs during an open session."""

LONGEST_PAUSE: Final = timedelta(hours=24)
"""The longest time between two requests for the same data."""

MAX_HISTORY_RUNS: Final = 4
"""The number of runs that request the history of a series; after that it takes a `marketdata backfill`."""

HISTORY_PAUSE: Final = timedelta(minutes=10)
"""The pause between a run that fetched no history and the next one."""

SHORT_ABSENCE: Final = timedelta(days=3)
"""The absence that daily runs make up for by themselves: the correction window."""

MAX_REPAIRS: Final = 8
"""The number of runs that refetch a gap: two that reach the vendor close it, so the others have failed."""

_NEAR: Final = timedelta(days=7)
"""Gaps of a series that are no farther apart are repaired together."""

_Gap = TypeVar("_Gap")


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


@dataclass(frozen=True, slots=True)
class History:
    """The history of a series as it was requested, from ``first_day``, in the latest of ``attempts`` requests.

    ``untracked_since`` is the day since which the series was not collected, until it is requested again.
    """

    request: str
    first_day: date
    attempts: int
    requested_at: datetime
    is_fetched: bool = False
    untracked_since: date | None = None
    is_reported: bool = False
    """Whether an alert reported that the history was given up."""


@dataclass(frozen=True, slots=True)
class RequestState:
    """The state of the runs of one request: the id of the first that waits or runs, the last end, what they fetched."""

    unfinished_run: str | None = None
    ended_at: datetime | None = None
    fetched: frozenset[str] = frozenset()
    """The symbols whose bars were fetched and scanned."""


class DueHistory(NamedTuple):
    """A history to request now, as request number ``attempt`` for these days."""

    days: Days
    attempt: int


@dataclass(frozen=True, slots=True)
class HistoryPlan:
    """The histories that need something at a moment, and those that wait."""

    arrived: Sequence[Series] = ()
    """The series whose history is now fetched."""
    returned: Sequence[Series] = ()
    """The series that are collected again after an absence that daily runs make up for."""
    due: Mapping[Series, DueHistory] = field(default_factory=dict)
    """The series whose history is requested now."""
    given_up: Sequence[Series] = ()
    """The series whose history is not requested again."""
    unreported: Sequence[Series] = ()
    """Those of ``given_up`` that no alert has reported."""
    waiting: Mapping[str, Sequence[Series]] = field(default_factory=dict)
    """The series that wait for a run that is queued or under way, by its id."""


def plan_histories(
    tracked: Sequence[Series],
    known: Mapping[Series, History],
    states: Mapping[str, RequestState],
    now: datetime,
    *,
    days: int,
    minute_days: int,
    earliest: date,
) -> HistoryPlan:
    """Decide which histories have arrived, are requested at ``now``, are given up or wait for their runs.

    Args:
        tracked: The series that are collected.
        known: The histories of ``tracked`` that were requested before; a series without one is new.
        states: The state of each request whose history is not fetched; a missing one has no run yet.
        now: The moment of the decision, UTC.
        days: How many days the history of a new series takes.
        minute_days: How many days it takes of 1m.
        earliest: The first day that is a partition; before it, nothing needs anything.
    """
    today = now.date()
    if today < earliest:
        return HistoryPlan()
    new = [series for series in tracked if series not in known]
    spans = initial_days(new, today, days=days, minute_days=minute_days, earliest=earliest)
    due = {series: DueHistory(span, 1) for series, span in spans.items()}
    arrived: list[Series] = []
    given_up: list[Series] = []
    waiting: dict[str, list[Series]] = {}
    requested = {series: known[series] for series in tracked if series in known}
    for series, history in requested.items():
        state = states.get(history.request, RequestState())
        if history.is_fetched:
            if (first := _first_missed_day(history, today)) is not None:
                due[series] = DueHistory(Days(max(earliest, first), today), 1)
        elif state.unfinished_run is not None:
            waiting.setdefault(state.unfinished_run, []).append(series)
        elif series.symbol in state.fetched:
            arrived.append(series)
        elif _is_history_due(history, state, now):
            due[series] = DueHistory(Days(max(earliest, history.first_day), today), history.attempts + 1)
        elif history.attempts >= MAX_HISTORY_RUNS:
            given_up.append(series)
    return HistoryPlan(
        arrived,
        _list_returned(requested, today),
        due,
        given_up,
        [series for series in given_up if not known[series].is_reported],
        waiting,
    )


def _first_missed_day(history: History, today: date) -> date | None:
    """Return the first day to request of a fetched ``history`` after a long absence; None without one."""
    if history.untracked_since is None or _was_away_briefly(history, today):
        return None
    return history.untracked_since - SHORT_ABSENCE


def _list_returned(histories: Mapping[Series, History], today: date) -> list[Series]:
    """List the series that are collected again after an absence that daily runs make up for."""
    return [series for series, history in histories.items() if _was_away_briefly(history, today)]


def _is_history_due(history: History, state: RequestState, now: datetime) -> bool:
    # A run may have waited in the queue for hours, so the pause begins at the end of the last run.
    since = max(history.requested_at, state.ended_at or history.requested_at)
    return may_request_again(history.attempts, since, now, pause=HISTORY_PAUSE, limit=MAX_HISTORY_RUNS)


def _was_away_briefly(history: History, today: date) -> bool:
    """Whether the series is collected again ``today``, after an absence that daily runs make up for."""
    return history.untracked_since is not None and today - history.untracked_since <= SHORT_ABSENCE


@dataclass(frozen=True, slots=True)
class RepairState:
    """An open gap as the repairs see it: its local days, and how often and when a repair was last requested."""

    series: Series
    days: Days
    repairs: int
    requested_at: datetime | None


def due_repairs(
    gaps: Mapping[_Gap, RepairState],
    now: datetime,
    *,
    pause: timedelta,
    earliest: date,
    busy: Sequence[Rectangle],
) -> list[_Gap]:
    """Return those of ``gaps`` whose repair is due at ``now``.

    The pause after a request doubles. Gaps that end before ``earliest``, and gaps in the partitions ``busy`` of runs that
    wait or are under way, are left out: a run may wait in the queue for longer than the pause.
    """
    return [
        gap
        for gap, state in gaps.items()
        if may_request_again(state.repairs, state.requested_at, now, pause=pause, limit=MAX_REPAIRS)
        and state.days.last >= earliest
        and not is_covered(state, busy)
    ]


def is_covered(gap: RepairState, runs: Iterable[Rectangle]) -> bool:
    """Whether one of ``runs`` includes the last day of ``gap``."""
    return any(gap.series in run.series and run.first <= gap.days.last <= run.last for run in runs)


def days_to_repair(gaps: Iterable[RepairState], earliest: date) -> list[tuple[Series, date, date]]:
    """Return the days that repair ``gaps``, from ``earliest``: the series with the first and last day, near gaps merged."""
    by_series: dict[Series, list[Days]] = {}
    for gap in gaps:
        by_series.setdefault(gap.series, []).append(Days(max(earliest, gap.days.first), gap.days.last))
    return [(series, *days) for series, spans in by_series.items() for days in merge_days(spans, _NEAR)]
