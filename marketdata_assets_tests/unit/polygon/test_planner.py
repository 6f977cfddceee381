from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import TradingCalendar, calendar_of
from marketdata_assets.domain.series import AssetClass, Instrument, Series
from marketdata_assets.domain.timeframe import BASES, Timeframe
from marketdata_assets.domain.windows import Window, difference, union
from marketdata_assets.polygon.planner import (
    PAGE_BARS,
    Plan,
    _plan_groups,
    cheapest_ranges,
    fewest_pages,
    pages_of,
    plan_fetches,
    plan_refetches,
)
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.frames import at, days_window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AAPL = Instrument("AAPL", AssetClass.STOCK)
BTC = Instrument("BTC-USD", AssetClass.CRYPTO)
XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
M1, M5, H1, D1, W1 = Timeframe.M1, Timeframe.M5, Timeframe.H1, Timeframe.D1, Timeframe.W1
LONG_AFTER = at("2025-06-01T12:00")
NOTHING: dict[Series, list[Window]] = {}


def day_range(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def fetches_of(planned: Plan) -> list[tuple[Timeframe, Window]]:
    return [(request.base, request.window) for request in planned.requests]


# Examples


def test_one_request_serves_every_timeframe_of_a_base() -> None:
    days = day_range(date(2024, 7, 1), date(2024, 7, 12))
    rolled = [one for one in Timeframe if one.base is M1]
    planned = plan_fetches({AAPL: rolled}, days, NOTHING, now=LONG_AFTER)
    assert fetches_of(planned) == fetches_of(plan_fetches({AAPL: [M1]}, days, NOTHING, now=LONG_AFTER))
    [fetch] = planned.fetches
    assert fetch.timeframes == tuple(rolled)
    assert (fetch.request.symbol, fetch.request.asset_class) == ("AAPL", AssetClass.STOCK)
    assert fetch.request.window == days_window(XNYS, date(2024, 7, 1), date(2024, 7, 12))
    assert planned.rollups == ()


def test_the_eight_timeframes_take_two_requests() -> None:
    days = day_range(date(2024, 7, 7), date(2024, 7, 13))
    planned = plan_fetches({BTC: list(Timeframe)}, days, NOTHING, now=LONG_AFTER)
    whole = days_window(CRYPTO, days[0], days[-1])
    assert fetches_of(planned) == [(M1, whole), (D1, whole)]
    assert [fetch.timeframes for fetch in planned.fetches] == [tuple(Timeframe)[:6], (D1, W1)]


def test_timeframes_may_come_from_an_iterator() -> None:
    planned = plan_fetches({AAPL: iter([M1, M5, D1])}, [date(2024, 7, 2)], NOTHING, now=LONG_AFTER)
    assert [fetch.timeframes for fetch in planned.fetches] == [(M1, M5), (D1,)]


@pytest.mark.parametrize(
    ("instrument", "base", "sessions", "pages"),
    [(AAPL, M1, 252, 5), (BTC, M1, 366, 11), (AAPL, D1, 252, 1), (BTC, D1, 366, 1)],
)
def test_a_year_is_one_request_of_the_fewest_pages(
    instrument: Instrument, base: Timeframe, sessions: int, pages: int
) -> None:
    planned = plan_fetches(
        {instrument: [base]}, day_range(date(2024, 1, 1), date(2024, 12, 31)), NOTHING, now=LONG_AFTER
    )
    assert len(planned.fetches) == 1
    assert planned.pages == pages == pages_of(sessions, base, calendar_of(instrument.asset_class))


@pytest.mark.parametrize(
    ("sessions", "base", "calendar", "pages"),
    [
        (1, M1, XNYS, 1),
        (52, M1, XNYS, 1),  # 52 x 960 minutes from 04:00 to 20:00
        (53, M1, XNYS, 2),
        (34, M1, CRYPTO, 1),  # 34 x 1440
        (35, M1, CRYPTO, 2),
        (PAGE_BARS, D1, XNYS, 1),
        (PAGE_BARS + 1, D1, CRYPTO, 2),
    ],
)
def test_pages(sessions: int, base: Timeframe, calendar: TradingCalendar, pages: int) -> None:
    assert pages_of(sessions, base, calendar) == pages


@pytest.mark.parametrize(
    "days", [[], [date(2024, 7, 4)], day_range(date(2024, 7, 6), date(2024, 7, 7)), [date(2012, 10, 29)]]
)
def test_days_without_a_session_cost_nothing(days: list[date]) -> None:
    assert plan_fetches({AAPL: [M1, D1]}, days, NOTHING, now=LONG_AFTER, force=True) == Plan()


def test_a_week_is_wanted_by_its_sunday_and_asked_for_whole() -> None:
    week = days_window(XNYS, date(2024, 7, 7), date(2024, 7, 13))
    wanted = {AAPL: [W1]}
    assert fetches_of(plan_fetches(wanted, [date(2024, 7, 7)], NOTHING, now=LONG_AFTER)) == [(D1, week)]
    assert (
        plan_fetches(wanted, day_range(date(2024, 7, 8), date(2024, 7, 13)), NOTHING, now=LONG_AFTER)
        == Plan()
    )
    assert plan_fetches(wanted, [date(2024, 7, 7)], NOTHING, now=week.end - timedelta(minutes=1)) == Plan()
    assert fetches_of(plan_fetches(wanted, [date(2024, 7, 7)], NOTHING, now=week.end)) == [(D1, week)]


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2024-07-02T08:00:59", None),  # the first minute, 04:00 Eastern, has not closed
        ("2024-07-02T08:01", "2024-07-02T08:01"),
        ("2024-07-02T14:30:59", "2024-07-02T14:30"),
        ("2024-07-03T03:00", "2024-07-03T03:00"),
        ("2024-07-03T06:00", "2024-07-03T04:00"),
    ],
)
def test_what_has_not_closed_is_not_asked_for(now: str, end: str | None) -> None:
    planned = plan_fetches({AAPL: [M1, D1]}, [date(2024, 7, 2), date(2024, 7, 3)], NOTHING, now=at(now))
    minutes = [window for base, window in fetches_of(planned) if base is M1]
    assert minutes == ([] if end is None else [Window(at("2024-07-02T04:00"), at(end))])
    days = [window for base, window in fetches_of(planned) if base is D1]
    assert days == ([XNYS.day_window(date(2024, 7, 2))] if at(now) >= at("2024-07-03T00:00") else [])


def test_covered_windows_are_skipped_unless_forced_or_in_the_correction_window() -> None:
    days = day_range(date(2024, 6, 24), date(2024, 7, 5))
    whole = days_window(XNYS, days[0], days[-1])
    covered = {Series("AAPL", M1): [whole]}
    now = at("2024-07-08T02:00")  # Sunday evening: the latest sessions are 5, 3 and 2 July
    assert fetches_of(plan_fetches({AAPL: [M1]}, days, covered, now=now)) == [
        (M1, days_window(XNYS, date(2024, 7, 2), date(2024, 7, 5)))
    ]
    assert fetches_of(plan_fetches({AAPL: [M1]}, days, covered, now=now, correction_sessions=1)) == [
        (M1, XNYS.day_window(date(2024, 7, 5)))
    ]
    assert plan_fetches({AAPL: [M1]}, days, covered, now=now, correction_sessions=0) == Plan()
    assert fetches_of(plan_fetches({AAPL: [M1]}, days, covered, now=now, force=True)) == [(M1, whole)]


def test_a_day_that_is_covered_in_part_is_asked_for_whole() -> None:
    day = date(2024, 7, 2)
    morning = Window(XNYS.day_start(day), at("2024-07-02T15:00"))
    planned = plan_fetches({AAPL: [M1]}, [day], {Series("AAPL", M1): [morning]}, now=LONG_AFTER)
    assert fetches_of(planned) == [(M1, XNYS.day_window(day))]


def test_a_longer_timeframe_of_stored_bars_costs_no_request() -> None:
    days = day_range(date(2024, 7, 1), date(2024, 7, 5))
    whole = days_window(XNYS, days[0], days[-1])
    planned = plan_fetches({AAPL: [M1, M5, H1]}, days, {Series("AAPL", M1): [whole]}, now=LONG_AFTER)
    assert planned.fetches == ()
    [rollup] = planned.rollups
    assert (rollup.instrument, rollup.base, rollup.window) == (AAPL, M1, whole)
    assert rollup.timeframes == (M5, H1)


def test_stored_bars_are_rolled_up_only_over_days_whose_base_bars_are_stored() -> None:
    first, last = date(2024, 7, 1), date(2024, 7, 12)
    stored = [XNYS.day_window(first), XNYS.day_window(last)]
    planned = plan_fetches({AAPL: [M5]}, [first, last], {Series("AAPL", M1): stored}, now=LONG_AFTER)
    assert planned.fetches == ()
    assert [rollup.window for rollup in planned.rollups] == stored


# Properties


def cost(stretches: Iterable[tuple[int, int]], base: Timeframe, calendar: TradingCalendar) -> tuple[int, int]:
    spans = [last - first + 1 for first, last in stretches]
    return sum(pages_of(span, base, calendar) for span in spans), sum(spans)


@given(
    places=st.sets(st.integers(0, 160), max_size=9).map(sorted),
    base=st.sampled_from(BASES),
    calendar=st.sampled_from([XNYS, CRYPTO]),
)
def test_fewest_pages_are_the_fewest_of_all_ways(
    places: list[int], base: Timeframe, calendar: TradingCalendar
) -> None:
    stretches = fewest_pages(places, base, calendar)
    assert all(any(first <= place <= last for first, last in stretches) for place in places)
    every_way = [
        [(part[0], part[-1]) for part in _parts(places, cuts)]
        for count in range(max(len(places), 1))
        for cuts in combinations(range(1, len(places)), count)
    ]
    assert cost(stretches, base, calendar) == min(cost(way, base, calendar) for way in every_way)


def _parts(places: list[int], cuts: Sequence[int]) -> list[list[int]]:
    edges = [0, *cuts, len(places)]
    return [places[start:end] for start, end in pairwise(edges) if start < end]


# A half day, Independence Day, both changes of the clock and their weekends lie in these stretches.
FIRST_DAYS = [date(2024, 6, 24), date(2024, 3, 4), date(2024, 10, 28)]
LENGTH = 60


@st.composite
def situations(
    draw: st.DrawFn,
) -> tuple[Instrument, list[Timeframe], list[date], dict[Series, list[Window]], datetime]:
    instrument = draw(st.sampled_from([AAPL, BTC]))
    calendar = calendar_of(instrument.asset_class)
    timeframes = sorted(draw(st.sets(st.sampled_from(Timeframe), min_size=1)))
    first = draw(st.sampled_from(FIRST_DAYS))
    days = draw(
        st.one_of(
            st.sets(st.integers(0, LENGTH), min_size=2, max_size=12),
            st.tuples(st.integers(0, LENGTH), st.integers(0, 40)).map(
                lambda pair: set(range(pair[0], sum(pair)))
            ),
        )
    )
    stretch = st.tuples(st.integers(-2, LENGTH), st.integers(1, 20))

    def covered(pair: tuple[int, int]) -> Window:
        start, length = pair
        return days_window(
            calendar, first + timedelta(days=start), first + timedelta(days=start + length - 1)
        )

    coverage = {
        Series(instrument.symbol, timeframe): draw(
            st.lists(stretch.map(covered), min_size=2 * timeframe.is_base, max_size=1 + 3 * timeframe.is_base)
        )
        for timeframe in Timeframe
    }
    last_minute = (LENGTH + 20) * 24 * 60
    after = draw(st.sampled_from([last_minute, None])) or draw(st.integers(0, last_minute))
    now = datetime.combine(first, datetime.min.time(), UTC) + timedelta(minutes=after, seconds=after % 60)
    return instrument, timeframes, [first + timedelta(days=n) for n in sorted(days)], coverage, now


def expected_windows(
    calendar: TradingCalendar, timeframe: Timeframe, days: list[date], now: datetime
) -> list[Window]:
    """Model: where bars of ``timeframe`` that belong to ``days`` can have closed, one window per bar span."""
    found = []
    for day in days:
        session = calendar.session(day)
        if timeframe is W1:
            week = days_window(calendar, day, day + timedelta(days=6))
            if f"{day:%a}" == "Sun" and week.end <= now:
                found += [calendar.day_window(one) for one in calendar.sessions(day, day + timedelta(days=6))]
        elif session is not None and timeframe is D1:
            found += [calendar.day_window(day)] if calendar.day_window(day).end <= now else []
        elif session is not None:
            closed = min(session.extended.end, now.replace(second=0, microsecond=0))
            found += [Window(session.extended.start, closed)] if closed > session.extended.start else []
    return found


@examples(150)
@given(situations(), st.booleans())
def test_a_plan_leaves_no_wanted_slot_unanswered(
    situation: tuple[Instrument, list[Timeframe], list[date], dict[Series, list[Window]], datetime],
    force: bool,  # noqa: FBT001 - drawn by Hypothesis
) -> None:
    instrument, timeframes, days, coverage, now = situation
    calendar = calendar_of(instrument.asset_class)
    planned = plan_fetches({instrument: timeframes}, days, coverage, now=now, force=force)
    for timeframe in timeframes:
        served = [
            *(fetch.request.window for fetch in planned.fetches if timeframe in fetch.timeframes),
            *(rollup.window for rollup in planned.rollups if timeframe in rollup.timeframes),
            *([] if force else coverage[Series(instrument.symbol, timeframe)]),
        ]
        assert difference(expected_windows(calendar, timeframe, days, now), served) == []
    for rollup in planned.rollups:
        first, last = (
            calendar.local_day(moment)
            for moment in (rollup.window.start, rollup.window.end - timedelta(microseconds=1))
        )
        stored = coverage[Series(instrument.symbol, rollup.base)]
        needed = [calendar.day_window(day) for day in calendar.sessions(first, last)]
        assert difference(needed, stored) == []


@pytest.mark.parametrize(
    ("now", "last"),
    [
        ("2026-11-28T00:59", date(2026, 11, 26)),  # 19:59 on Friday in New York
        ("2026-11-28T01:00", date(2026, 11, 27)),
        ("2026-11-28T02:47", date(2026, 11, 27)),
        ("2026-11-28T05:00", date(2026, 11, 27)),
        ("2026-11-29T00:59", date(2026, 11, 27)),
    ],
)
def test_the_current_week_is_asked_for_up_to_the_last_day_that_is_due(now: str, last: date) -> None:
    days = day_range(date(2026, 11, 8), date(2026, 11, 25))
    [(_, window)] = fetches_of(plan_fetches({AAPL: [D1, W1]}, days, NOTHING, now=at(now)))
    assert window.start == XNYS.day_start(date(2026, 11, 8))
    for day in XNYS.sessions(date(2026, 11, 8), date(2026, 11, 29)):
        assert (window.intersection(XNYS.day_window(day)) is not None) == (day <= last)
        assert window.covers(XNYS.day_window(day)) == (day <= last)


@examples(150)
@given(situations(), st.booleans(), st.integers(0, 9 * 24 * 60))
def test_day_bars_are_asked_for_by_whole_days_that_are_due(
    situation: tuple[Instrument, list[Timeframe], list[date], dict[Series, list[Window]], datetime],
    force: bool,  # noqa: FBT001 - drawn by Hypothesis
    minutes: int,
) -> None:
    instrument, timeframes, days, coverage, _ = situation
    calendar = calendar_of(instrument.asset_class)
    now = calendar.day_start(max(days, default=FIRST_DAYS[0])) + timedelta(minutes=minutes)
    for request in plan_fetches({instrument: timeframes}, days, coverage, now=now, force=force).requests:
        if request.base is D1:
            edges = (request.window.start, request.window.end)
            assert all(edge == calendar.day_start(calendar.local_day(edge)) for edge in edges)
            assert request.window.end - calendar.idle_before_midnight <= now


@examples(150)
@given(situations())
def test_a_plan_asks_for_nothing_in_vain(
    situation: tuple[Instrument, list[Timeframe], list[date], dict[Series, list[Window]], datetime],
) -> None:
    instrument, timeframes, days, coverage, now = situation
    calendar = calendar_of(instrument.asset_class)
    planned = plan_fetches({instrument: timeframes}, days, coverage, now=now)
    revised_from = calendar.last_sessions(calendar.local_day(now), 3)[0]

    def is_needed(day: date, base: Timeframe) -> bool:
        """Whether any timeframe lacks the day, or it lies in the correction window (a week counts as one)."""
        for timeframe in timeframes:
            sunday = day - timedelta(days=(day.weekday() + 1) % 7)
            unit = [sunday] if timeframe is W1 else [day]
            wanted = expected_windows(calendar, timeframe, [one for one in unit if one in days], now)
            if timeframe.base is base and wanted:
                last = calendar.local_day(wanted[-1].start)
                covered = coverage[Series(instrument.symbol, timeframe)]
                if last >= revised_from or difference([_traded(calendar, day, base)], covered):
                    return True
                if timeframe is W1 and difference(wanted, covered):
                    return True
        return False

    for fetch in planned.fetches:
        window, base = fetch.request.window, fetch.request.base
        assert base in BASES
        assert all(timeframe.base is base for timeframe in fetch.timeframes)
        assert window.end <= now
        stretch = calendar.sessions(
            calendar.local_day(window.start), calendar.local_day(window.end - timedelta(microseconds=1))
        )
        needed = [day for day in stretch if is_needed(day, base)]
        assert needed
        if W1 not in fetch.timeframes:
            # Neither end is a day without a session, or one that is stored.
            assert window.start == calendar.day_start(needed[0])
            assert calendar.local_day(window.end - timedelta(microseconds=1)) == needed[-1]
            assert fetch.pages == pages_of(len(stretch), base, calendar)
            if needed != stretch:
                runs = _runs([stretch.index(day) for day in needed])
                assert fetch.pages < sum(pages_of(len(run), base, calendar) for run in runs)
    windows_of_a_base = [[window for base, window in fetches_of(planned) if base is one] for one in BASES]
    for windows in windows_of_a_base:
        assert sum((one.duration for one in union(windows)), timedelta()) == sum(
            (one.duration for one in windows), timedelta()
        ), "no moment is asked for twice"


def _traded(calendar: TradingCalendar, day: date, base: Timeframe) -> Window:
    session = calendar.session(day)
    assert session is not None
    return session.extended if base is M1 else calendar.day_window(day)


def _runs(places: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


@examples(150)
@given(situations())
def test_what_a_plan_brought_is_not_planned_again(
    situation: tuple[Instrument, list[Timeframe], list[date], dict[Series, list[Window]], datetime],
) -> None:
    instrument, timeframes, days, coverage, _ = situation
    planned = plan_fetches({instrument: timeframes}, days, coverage, now=LONG_AFTER, correction_sessions=0)
    for served, window in [
        *((fetch.timeframes, fetch.request.window) for fetch in planned.fetches),
        *((rollup.timeframes, rollup.window) for rollup in planned.rollups),
    ]:
        for timeframe in served:
            coverage[Series(instrument.symbol, timeframe)].append(window)
    again = plan_fetches({instrument: timeframes}, days, coverage, now=LONG_AFTER, correction_sessions=0)
    assert again == Plan()


# Days of whole markets

STOCKS = [Instrument(symbol, AssetClass.STOCK) for symbol in ("A", "B", "C", "D", "E")]
ETF, INDEX = Instrument("SPY", AssetClass.ETF), Instrument("VIX", AssetClass.INDEX)
PAIRS = [Instrument(symbol, AssetClass.CRYPTO) for symbol in ("BTC-USD", "ETH-USD", "SOL-USD")]
MARKETS: list[list[Instrument]] = [[*STOCKS, ETF], PAIRS]


def test_many_symbols_come_by_days_and_few_by_ranges() -> None:
    days = [date(2024, 7, 1), date(2024, 7, 2)]
    planned = plan_fetches({key: [D1, M1] for key in [*STOCKS, ETF, INDEX]}, days, NOTHING, now=LONG_AFTER)
    assert [(str(one), one.symbols) for one in planned.days] == [
        (f"stocks on {day}", ("A", "B", "C", "D", "E", "SPY")) for day in days
    ]
    assert [(one.request.symbol, one.request.base) for one in planned.fetches if one.request.base is D1] == [
        ("VIX", D1)
    ]
    few = plan_fetches({key: [D1] for key in STOCKS[:2]}, days, NOTHING, now=LONG_AFTER)
    assert (few.days, len(few.fetches)) == ((), 2)


def test_a_new_symbol_comes_by_its_range_and_the_others_by_days() -> None:
    days = day_range(date(2024, 6, 3), date(2024, 7, 5))
    covered = [days_window(XNYS, days[0], date(2024, 7, 2))]
    planned = plan_fetches(
        {key: [D1] for key in STOCKS},
        days,
        {Series(one.symbol, D1): covered for one in STOCKS[1:]},
        now=at("2024-07-06T12:00"),
        correction_sessions=0,
    )
    assert [one.request.symbol for one in planned.fetches] == ["A"]
    assert [(one.day, one.symbols) for one in planned.days] == [
        (day, ("B", "C", "D", "E")) for day in (date(2024, 7, 3), date(2024, 7, 5))
    ]


def test_a_symbol_of_which_no_day_bar_is_kept_comes_by_its_range() -> None:
    sunday = date(2024, 6, 23)
    planned = plan_fetches({key: [W1] for key in [*STOCKS, ETF]}, [sunday], NOTHING, now=LONG_AFTER)
    assert (planned.days, len(planned.fetches)) == ((), 6)
    planned = plan_fetches(
        {key: [W1] for key in [*STOCKS, ETF]},
        [sunday],
        NOTHING,
        now=LONG_AFTER,
        tracked={key: [D1, W1] for key in [*STOCKS, ETF]},
    )
    assert (len(planned.days), len(planned.fetches), len(planned.replaced)) == (5, 0, 6)


def test_what_a_gap_lacks_is_requested_by_ranges() -> None:
    window = XNYS.day_window(date(2024, 7, 1))
    planned = plan_refetches({one: {D1: [window]} for one in STOCKS}, now=LONG_AFTER)
    assert (planned.days, len(planned.fetches)) == ((), len(STOCKS))


Wanted = tuple[dict[Instrument, list[Timeframe]], list[date], dict[Series, list[Window]], datetime]


@st.composite
def markets(draw: st.DrawFn) -> Wanted:
    """Symbols of one market, each covered in some stretches of a fortnight, and some of its days."""
    instruments = draw(st.sampled_from(MARKETS))
    chosen = draw(st.lists(st.sampled_from(instruments), unique=True, max_size=len(instruments)))
    calendar = calendar_of(instruments[0].asset_class)
    first = draw(st.sampled_from(FIRST_DAYS))
    last = 16
    days = sorted(draw(st.sets(st.integers(0, last))))
    covered = {}
    for instrument in chosen:
        edges = sorted(draw(st.sets(st.integers(0, last), max_size=4)))
        covered[Series(instrument.symbol, D1)] = [
            days_window(calendar, first + timedelta(days=start), first + timedelta(days=end))
            for start, end in zip(edges[::2], edges[1::2], strict=False)
        ]
    now = calendar.day_start(first) + timedelta(hours=draw(st.integers(0, 24 * (last + 3))))
    timeframes = {one: draw(st.sampled_from([[D1], [D1, W1]])) for one in chosen}
    return timeframes, [first + timedelta(days=n) for n in days], covered, now


def needed_cells(wanted: Wanted, *, force: bool) -> set[tuple[str, date]]:
    """The (symbol, day) of which a day bar has to come: what each symbol needs that is planned alone."""
    timeframes, days, covered, now = wanted
    cells = set()
    for instrument, own in timeframes.items():
        alone = _plan_groups(
            {instrument: own}, days, covered, now=now, force=force, correction_sessions=3, tracked=None
        )
        cells |= {(instrument.symbol, day) for planner in alone for day in planner.wanted_days}
    return cells


@examples(200)
@given(markets(), st.booleans())
def test_days_and_ranges_bring_what_ranges_alone_bring_with_no_more_requests(
    wanted: Wanted,
    force: bool,  # noqa: FBT001 - drawn by Hypothesis
) -> None:
    timeframes, days, covered, now = wanted
    planned = plan_fetches(timeframes, days, covered, now=now, force=force)
    cells = needed_cells(wanted, force=force)
    by_days = {(symbol, one.day) for one in planned.days for symbol in one.symbols}
    by_ranges = {
        (fetch.request.symbol, day)
        for fetch in planned.fetches
        for day in {day for _, day in cells}
        if fetch.request.window.covers(calendar_of(fetch.request.asset_class).day_window(day))
    }
    # A symbol comes in one way, with all that it needs and, by days, with nothing else.
    assert by_days <= cells
    assert cells <= by_days | by_ranges
    assert not {symbol for symbol, _ in by_days} & {fetch.request.symbol for fetch in planned.fetches}
    assert {fetch.request.symbol for fetch in planned.replaced} == {symbol for symbol, _ in by_days}
    needed = {symbol for symbol, _ in cells}
    requests = len(planned.requests)
    assert requests <= min(len(needed), len({day for _, day in cells}))
    assert planned.pages == requests
    for one in planned.days:
        assert one.market.calendar.is_session(one.day)
        assert one.window.end - one.market.calendar.idle_before_midnight <= now
    assert list(planned.days) == sorted(planned.days, key=lambda one: one.day)
    assert planned == plan_fetches(timeframes, days, covered, now=now, force=force)


@given(
    st.dictionaries(
        st.sets(st.integers(1, 6), min_size=1).map(
            lambda numbers: tuple(date(2024, 7, number) for number in sorted(numbers))
        ),
        st.integers(1, 5),
        max_size=6,
    )
)
def test_ranges_are_chosen_so_that_requests_are_no_more_than_either_way(
    costs: dict[tuple[date, ...], int],
) -> None:
    ranges = cheapest_ranges(costs)
    days = {day for chosen in costs.keys() - ranges for day in chosen}
    total = sum(costs[chosen] for chosen in ranges) + len(days)
    assert total <= min(sum(costs.values()), len({day for chosen in costs for day in chosen}))
