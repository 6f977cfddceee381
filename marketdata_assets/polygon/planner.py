"""The planner, which turns wanted series and days into the fewest requests. Pure.

Only ``1m`` and ``1d`` bars are requested; one request serves every timeframe that is rolled up from its base.
Days without a session are never requested. Windows whose answer is stored are requested only if they lie in
the correction window (the vendor revises its latest sessions) or the caller forces it.

Day bars are fetched in one of two ways, whichever needs fewer requests: by ranges of days of each symbol, or by whole
days of a market. Some symbols of a market may be fetched in one way and the rest in the other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.calendar import WEEK, TradingCalendar, calendar_of, sunday_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS
from marketdata_assets.domain.series import Instrument, Series
from marketdata_assets.domain.timeframe import BASES, Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.polygon.grouped import DayRequest, Market
from marketdata_assets.polygon.request import FetchRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from marketdata_assets.polygon.vendor import BarRequest

PAGE_BARS: Final = 50_000
"""The number of base bars in one page: the vendor's largest ``limit``."""

_EXTENDED_MINUTES, _DAY_MINUTES = 16 * 60, 24 * 60


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request, and the timeframes that its bars are stored in."""

    request: FetchRequest
    timeframes: tuple[Timeframe, ...]
    pages: int
    """An upper bound of the number of pages in the vendor's answer."""


@dataclass(frozen=True, slots=True)
class StoredRollup:
    """Bars that can be rolled up from stored base bars, without a request."""

    instrument: Instrument
    base: Timeframe
    window: Window
    timeframes: tuple[Timeframe, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The work after which every wanted series has every wanted day.

    Attributes:
        fetches: The ranges of single symbols to request.
        rollups: The bars to roll up from stored bars.
        days: The days of whole markets to request, in order.
        replaced: The ranges that ``days`` stand for, which are requested where a day leaves a question open.
    """

    fetches: tuple[Fetch, ...] = ()
    rollups: tuple[StoredRollup, ...] = ()
    days: tuple[DayRequest, ...] = ()
    replaced: tuple[Fetch, ...] = ()

    @property
    def requests(self) -> list[BarRequest]:
        """The requests to make, days of markets first."""
        return [*self.days, *(fetch.request for fetch in self.fetches)]

    @property
    def pages(self) -> int:
        """An upper bound of the number of HTTP requests, without retries."""
        return len(self.days) + sum(fetch.pages for fetch in self.fetches)

    def without_requests(self) -> Plan:
        """Return the part of the plan that costs no request."""
        return Plan(rollups=self.rollups)


def plan_fetches(
    wanted: Mapping[Instrument, Iterable[Timeframe]],
    days: Iterable[date],
    coverage: Mapping[Series, Sequence[Window]],
    *,
    now: datetime,
    force: bool = False,
    correction_sessions: int = CORRECTION_SESSIONS,
    tracked: Mapping[Instrument, Iterable[Timeframe]] | None = None,
) -> Plan:
    """Plan the fewest requests that fetch the ``wanted`` series over ``days``.

    Args:
        wanted: Timeframes by instrument.
        days: Local dates, in any order; a bar belongs to the local date of its open.
        coverage: The windows of each series that were requested and stored completely before.
        now: The present, UTC. Bars that close later are not requested.
        force: Whether to request days that are stored.
        correction_sessions: The number of latest sessions that are requested even if they are stored.
        tracked: Timeframes by instrument in which fetched bars are stored even if they are not wanted: that costs no
            request, and the timeframes of a symbol agree.
    """
    return _group_days(
        _plan_groups(
            wanted,
            days,
            coverage,
            now=now,
            force=force,
            correction_sessions=correction_sessions,
            tracked=tracked,
        )
    )


def _plan_groups(
    wanted: Mapping[Instrument, Iterable[Timeframe]],
    days: Iterable[date],
    coverage: Mapping[Series, Sequence[Window]],
    *,
    now: datetime,
    force: bool,
    correction_sessions: int,
    tracked: Mapping[Instrument, Iterable[Timeframe]] | None,
) -> list[_GroupPlanner]:
    """Make one planner for each base of each instrument, in the order of ``wanted``."""
    sorted_days = sorted(set(days))
    planners = []
    for instrument, timeframes in wanted.items():
        chosen = set(timeframes)
        for base in BASES:
            group = tuple(
                timeframe for timeframe in Timeframe if timeframe in chosen and timeframe.base is base
            )
            if group and sorted_days:
                siblings = {
                    timeframe for timeframe in (tracked or {}).get(instrument, ()) if timeframe.base is base
                }
                planner = _GroupPlanner(instrument, base, group, coverage, now, siblings=siblings)
                planner.sort_days(sorted_days, force=force, correction_sessions=correction_sessions)
                planners.append(planner)
    return planners


def _group_days(planners: Sequence[_GroupPlanner]) -> Plan:
    """Plan what ``planners`` want, with days of whole markets in place of ranges where that needs fewer requests."""
    ranges = [planner.fetches() for planner in planners]
    by_market: dict[Market, dict[tuple[date, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, (planner, fetches) in enumerate(zip(planners, ranges, strict=True)):
        market = Market.of(planner.instrument.asset_class)
        # If day bars are not kept, weeks are rolled up from the answer itself, and a day is too short for a week.
        if market is not None and fetches and all(Timeframe.D1 in fetch.timeframes for fetch in fetches):
            by_market[market][planner.wanted_days].append(position)
    requests: list[DayRequest] = []
    replaced: set[int] = set()
    for market, patterns in by_market.items():
        costs = {
            days: sum(fetch.pages for position in positions for fetch in ranges[position])
            for days, positions in patterns.items()
        }
        by_day = sorted(costs.keys() - cheapest_ranges(costs))
        grouped = {days: patterns[days] for days in by_day}
        replaced.update(position for positions in grouped.values() for position in positions)
        requests += _day_requests(
            market,
            {
                days: [(position, planners[position].instrument.symbol) for position in positions]
                for days, positions in grouped.items()
            },
        )
    return Plan(
        tuple(fetch for position, own in enumerate(ranges) if position not in replaced for fetch in own),
        tuple(rollup for planner in planners for rollup in planner.rollups()),
        tuple(requests),
        tuple(fetch for position in sorted(replaced) for fetch in ranges[position]),
    )


def _day_requests(
    market: Market, wanted: Mapping[tuple[date, ...], Sequence[tuple[int, str]]]
) -> list[DayRequest]:
    """Make one request a day, for the symbols that want it, in their order.

    ``wanted`` holds the positions and names of symbols by the days that they want.
    """
    by_day: dict[date, list[tuple[date, ...]]] = defaultdict(list)
    for days in wanted:
        for day in days:
            by_day[day].append(days)
    # Days that the same symbols want share one tuple: ten thousand names for each of 5,000 days take much memory.
    symbols: dict[tuple[int, ...], tuple[str, ...]] = {}
    requests = []
    for day in sorted(by_day):
        key = tuple(map(id, by_day[day]))
        if key not in symbols:
            positioned = sorted(pair for days in by_day[day] for pair in wanted[days])
            symbols[key] = tuple(symbol for _, symbol in positioned)
        requests.append(DayRequest(market, day, symbols[key]))
    return requests


def cheapest_ranges(costs: Mapping[tuple[date, ...], int]) -> set[tuple[date, ...]]:
    """Choose the sets of days to fetch by ranges, so that these and one request for each day of the rest are few.

    The choice never costs more than all ranges or all days. Of equal choices the one with more ranges is taken: an
    empty range proves more than an absent row.

    Args:
        costs: The number of requests that ranges need, by set of days.
    """
    # First the sets whose ranges save the most days per request.
    ordered = sorted(costs, key=lambda days: (-len(days) / costs[days], days))
    left: set[date] = set()
    days_of_rest = [0]
    for days in reversed(ordered):
        left.update(days)
        days_of_rest.append(len(left))
    days_of_rest.reverse()
    spent = [0]
    for days in ordered:
        spent.append(spent[-1] + costs[days])
    best = min(range(len(ordered) + 1), key=lambda count: (spent[count] + days_of_rest[count], -count))
    return set(ordered[:best])


def plan_refetches(
    wanted: Mapping[Instrument, Mapping[Timeframe, Sequence[Window]]],
    *,
    now: datetime,
    tracked: Mapping[Instrument, Iterable[Timeframe]] | None = None,
) -> Plan:
    """Plan the fewest requests that refetch the days of windows in which bars are missing.

    Whole local days are requested, so that longer bars can be rolled up from all their base bars. They are requested by
    ranges only: bars that a day of a market left out need another kind of request.
    """
    fetches: list[Fetch] = []
    for instrument, by_timeframe in wanted.items():
        calendar = calendar_of(instrument.asset_class)
        for base in BASES:
            group = {
                timeframe: windows for timeframe, windows in by_timeframe.items() if timeframe.base is base
            }
            days = {
                day
                for windows in group.values()
                for window in windows
                for day in _days(window, calendar)
                if calendar.is_session(day)
            }
            # A week is wanted by its Sunday, on which there may be no session.
            days |= {
                day
                for window in group.get(Timeframe.W1, ())
                for day in _days(window, calendar)
                if day == sunday_of(day)
            }
            planners = _plan_groups(
                {instrument: group},
                days,
                {},
                now=now,
                force=True,
                correction_sessions=CORRECTION_SESSIONS,
                tracked=tracked,
            )
            fetches += (fetch for planner in planners for fetch in planner.fetches())
    return Plan(tuple(fetches))


def _days(window: Window, calendar: TradingCalendar) -> Iterable[date]:
    """Return the local days that ``window`` touches."""
    first, last = calendar.local_day(window.start), calendar.last_day_before(window.end)
    return (first + timedelta(days=offset) for offset in range((last - first).days + 1))


class _GroupPlanner:
    """A planner of the timeframes of one symbol that share a base."""

    def __init__(
        self,
        instrument: Instrument,
        base: Timeframe,
        timeframes: tuple[Timeframe, ...],
        coverage: Mapping[Series, Sequence[Window]],
        now: datetime,
        *,
        siblings: set[Timeframe],
    ) -> None:
        self.instrument = instrument
        self._base = base
        self._timeframes = timeframes
        self._siblings = siblings
        self._calendar = calendar_of(instrument.asset_class)
        self._now = now
        self._covered = {
            timeframe: union(coverage.get(Series(instrument.symbol, timeframe), ()))
            for timeframe in {base, *timeframes}
        }
        self._to_fetch: dict[date, set[Timeframe]] = defaultdict(set)
        self._to_roll_up: dict[date, set[Timeframe]] = defaultdict(set)

    def sort_days(self, days: Sequence[date], *, force: bool, correction_sessions: int) -> None:
        """Sort the sessions of ``days`` into those to fetch and those to roll up from the store."""
        revised_from = date.max
        if correction_sessions > 0:
            final_before = self._calendar.final_before(self._now, correction_sessions)
            revised_from = self._calendar.local_day(final_before)
        for timeframe in self._timeframes:
            for unit in self._units(timeframe, days):
                renew = force or unit[-1] >= revised_from
                if not renew and all(self._is_covered(timeframe, day) for day in unit):
                    continue
                stored = not renew and all(self._is_covered(self._base, day) for day in unit)
                target = self._to_roll_up if stored else self._to_fetch
                for day in unit:
                    target[day].add(timeframe)

    def _units(self, timeframe: Timeframe, days: Sequence[date]) -> Iterable[list[date]]:
        """Yield the sessions that are stored together: a week for ``1w``, else a day. Unfinished ones are left out."""
        calendar = self._calendar
        if timeframe is Timeframe.W1:
            for sunday in (day for day in days if day == sunday_of(day)):
                following = sunday + WEEK
                if calendar.day_start(following) <= self._now and (
                    sessions := calendar.sessions(sunday, following - timedelta(days=1))
                ):
                    yield sessions
            return
        chosen = set(days)
        for day in calendar.sessions(days[0], days[-1]):
            if day in chosen and self._has_closed_bar(day):
                yield [day]

    def _has_closed_bar(self, day: date) -> bool:
        window = self._trading_window(day)
        if self._base is Timeframe.D1:
            return window.end - self._calendar.idle_before_midnight <= self._now
        return window.start + self._base.duration <= self._now

    def _last_close(self) -> datetime:
        """Return the latest moment at which a base bar that is due can close.

        For day bars it lies after the present: they are due when trading has ended, and close at local midnight.
        """
        if self._base is Timeframe.D1:
            present = self._now + self._calendar.idle_before_midnight
            return self._calendar.day_start(self._calendar.local_day(present))
        return self._now.astimezone(UTC).replace(second=0, microsecond=0)

    def _trading_window(self, day: date) -> Window:
        """Return the window of a session in which the vendor may have base bars."""
        session = self._calendar.session(day)
        if session is None or self._base is Timeframe.D1:
            return self._calendar.day_window(day)
        return session.extended

    def _is_covered(self, timeframe: Timeframe, day: date) -> bool:
        trading_window = self._trading_window(day)
        return any(window.covers(trading_window) for window in self._covered[timeframe])

    @property
    def wanted_days(self) -> tuple[date, ...]:
        """The sessions to fetch, in order."""
        return tuple(sorted(self._to_fetch))

    def fetches(self) -> list[Fetch]:
        """Return one :class:`Fetch` per request."""
        return [
            Fetch(
                FetchRequest(self.instrument.symbol, self.instrument.asset_class, self._base, window),
                tuple(member for member in Timeframe if member in {*timeframes, *self._siblings}),
                pages_of(len(self._calendar.sessions(first, last)), self._base, self._calendar),
            )
            for first, last, window, timeframes in self._windows(self._to_fetch, bridge=True)
        ]

    def rollups(self) -> list[StoredRollup]:
        """Return one :class:`StoredRollup` per stretch of days."""
        return [
            StoredRollup(self.instrument, self._base, window, timeframes)
            # Never bridged: the base bars of a day in between may never have been requested.
            for _, _, window, timeframes in self._windows(self._to_roll_up, bridge=False)
        ]

    def _windows(
        self, wanted: Mapping[date, set[Timeframe]], *, bridge: bool
    ) -> Iterable[tuple[date, date, Window, tuple[Timeframe, ...]]]:
        if not wanted:
            return
        sessions = self._calendar.sessions(min(wanted), max(wanted))
        positions = [position for position, day in enumerate(sessions) if day in wanted]
        closed = self._last_close()
        stretches = (
            fewest_pages(positions, self._base, self._calendar) if bridge else _stretches_of(positions)
        )
        for first, last in stretches:
            days = sessions[first : last + 1]
            start = self._calendar.day_start(days[0])
            end = self._calendar.day_window(days[-1]).end
            if self._base is not Timeframe.D1:
                end = min(end, closed)
            served = set().union(*(wanted.get(day, set()) for day in days))
            if Timeframe.W1 in served:
                # A week bar needs its whole week in the request, Sunday and Saturday included.
                start = min(start, self._calendar.day_start(sunday_of(days[0])))
                end = max(end, min(self._calendar.day_start(sunday_of(days[-1]) + WEEK), closed))
            yield days[0], days[-1], Window(start, end), tuple(t for t in Timeframe if t in served)


def pages_of(sessions: int, base: Timeframe, calendar: TradingCalendar) -> int:
    """Return an upper bound of the pages that ``sessions`` sessions of base bars fill."""
    per_session = (
        1 if base is Timeframe.D1 else _DAY_MINUTES if calendar.is_always_open else _EXTENDED_MINUTES
    )
    return -(-sessions * per_session // PAGE_BARS)


def _stretches_of(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Return the stretches ``(first, last)``, inclusive, of neighbours in the ascending ``positions``."""
    stretches: list[tuple[int, int]] = []
    for position in positions:
        if stretches and position == stretches[-1][1] + 1:
            stretches[-1] = (stretches[-1][0], position)
        else:
            stretches.append((position, position))
    return stretches


def fewest_pages(
    positions: Sequence[int], base: Timeframe, calendar: TradingCalendar
) -> list[tuple[int, int]]:
    """Return the stretches ``(first, last)``, inclusive, that cover ``positions`` with the fewest pages.

    ``positions`` are ascending positions in a list of sessions. Days that are not wanted are bridged when that saves a
    page; of equal choices the one with the fewest sessions is taken.
    """
    stretches = _stretches_of(positions)
    # best[k] covers stretches[:k]: (pages, sessions, the stretch at which the last bridged one begins).
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(stretches) + 1):
        options = []
        for begin in range(end - 1, -1, -1):
            sessions = stretches[end - 1][1] - stretches[begin][0] + 1
            pages = best[begin][0] + pages_of(sessions, base, calendar)
            options.append((pages, best[begin][1] + sessions, begin))
        best.append(min(options))
    bridged: list[tuple[int, int]] = []
    end = len(stretches)
    while end:
        begin = best[end][2]
        bridged.append((stretches[begin][0], stretches[end - 1][1]))
        end = begin
    return bridged[::-1]
