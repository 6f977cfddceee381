from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.gaps import EVIDENCE
from marketdata_assets.domain.scans import (
    NEVER_DUE,
    ScanChunk,
    ScannedDay,
    last_scan,
    scan_chunks,
    scan_windows,
    widen_to_evidence,
    widen_to_gaps,
)
from marketdata_assets.domain.series import AssetClass, Series, with_siblings
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

CLASSES = {"AAPL": AssetClass.STOCK, "BTC-USD": AssetClass.CRYPTO}
EVERY = [Series(symbol, timeframe) for symbol in CLASSES for timeframe in Timeframe]


@given(
    st.sets(st.sampled_from(EVERY), min_size=1),
    st.data(),
    st.dates(date(2024, 1, 1), date(2024, 12, 31)),
    st.integers(0, 40),
)
def test_a_scan_covers_the_days_of_all_siblings_and_whole_weeks_with_week_bars(
    tracked: set[Series], data: st.DataObject, first: date, length: int
) -> None:
    chosen = data.draw(st.sets(st.sampled_from(sorted(tracked, key=str)), min_size=1))
    days = {
        member: (first + timedelta(days=index), first + timedelta(days=index + length))
        for index, member in enumerate(sorted(chosen, key=str))
    }
    siblings = with_siblings(days, tracked)
    windows = scan_windows(days, siblings, CLASSES)
    assert list(windows) == siblings
    for member, window in windows.items():
        calendar = calendar_of(CLASSES[member.symbol])
        group = [
            each
            for each in siblings
            if (each.symbol, each.timeframe.base) == (member.symbol, member.timeframe.base)
        ]
        begin = min(days[each][0] for each in group if each in days)
        end = max(days[each][1] for each in group if each in days)
        if Timeframe.W1 in {each.timeframe for each in group}:
            begin, end = sunday_of(begin), sunday_of(end) + timedelta(days=6)
        assert window.start == calendar.day_start(begin)
        assert window.end == calendar.day_window(end).end


def test_a_day_counts_as_scanned_when_all_of_its_slots_were_expected_then() -> None:
    calendar = calendar_of(AssetClass.STOCK)
    tuesday, wednesday = date(2024, 1, 2), date(2024, 1, 3)
    early, late = (datetime(2024, 1, 4, hour, tzinfo=UTC) for hour in (9, 10))
    window = Window(calendar.day_start(tuesday), calendar.day_window(wednesday).end)
    slots = expected_slots(Timeframe.M1, window, calendar, late)
    whole = {tuesday: ScannedDay(390, late), wednesday: ScannedDay(390, early)}
    assert last_scan(slots, whole) == early
    assert last_scan(slots, {tuesday: whole[tuesday]}) is None
    assert last_scan(slots, {**whole, wednesday: ScannedDay(389, late)}) is None
    assert last_scan(slots.within(end=slots.calendar.day_start(tuesday)), {}) == NEVER_DUE


NO_GAPS = pl.DataFrame(
    schema={"symbol": pl.String, "timeframe": pl.String, "gap_start": UTC_TIME, "gap_end": UTC_TIME}
)
WEEK = Window(datetime(2024, 7, 1, 4, tzinfo=UTC), datetime(2024, 7, 6, 4, tzinfo=UTC))
DAILY = Series("AAPL", Timeframe.D1)


@given(
    st.lists(st.sampled_from([f"S{number}" for number in range(40)]), min_size=1, unique=True),
    st.sets(st.sampled_from(list(Timeframe)), min_size=1),
    st.integers(1, 3000),
)
def test_chunks_are_of_one_base_and_divide_no_siblings(
    symbols: list[str], timeframes: set[Timeframe], days: int
) -> None:
    window = Window(WEEK.start, WEEK.start + timedelta(days=days))
    windows = {Series(symbol, timeframe): window for symbol in symbols for timeframe in sorted(timeframes)}
    chunks = list(scan_chunks(windows, dict.fromkeys(symbols, AssetClass.STOCK)))
    scanned = [series for chunk in chunks for series in chunk.windows]
    assert sorted(scanned, key=str) == sorted(windows, key=str)
    families = [{(member.symbol, member.timeframe.base) for member in chunk.windows} for chunk in chunks]
    assert len(set().union(*families)) == sum(map(len, families))
    for chunk, family in zip(chunks, families, strict=True):
        assert {EVIDENCE[base] for _, base in family} == {chunk.evidence}
        assert chunk.classes.keys() == chunk.windows.keys()


@given(
    st.sampled_from(EVERY),
    st.lists(st.tuples(st.integers(-90_000, 90_000), st.integers(1, 40_000)), max_size=4),
    st.integers(0, 60),
)
def test_a_widened_window_is_whole_days_and_cuts_no_gap(
    series: Series, gaps: list[tuple[int, int]], before: int
) -> None:
    calendar = calendar_of(CLASSES[series.symbol])
    begun = [WEEK.start + timedelta(minutes=start) for start, _ in gaps]
    rows = [
        (series.symbol, series.timeframe.value, start, start + timedelta(minutes=size))
        for start, (_, size) in zip(begun, gaps, strict=True)
    ]
    chunk = ScanChunk({series: WEEK}, {series: CLASSES[series.symbol]})
    known = pl.DataFrame(rows, schema=NO_GAPS.schema, orient="row")
    wider = widen_to_gaps(chunk, {series: WEEK}, known, before=timedelta(days=before))[series]
    first = min([WEEK.start, *(start - timedelta(days=before) for start in begun)])
    last = max([WEEK.end, *(row[3] for row in rows)])
    assert wider.start == calendar.day_start(calendar.local_day(first))
    assert wider.end == calendar.day_window(calendar.local_day(last - timedelta(microseconds=1))).end


def test_scanned_days_beyond_a_hole_are_evidence_and_later_ones_fill_up() -> None:
    chunk = ScanChunk({DAILY: WEEK}, {DAILY: AssetClass.STOCK})
    calendar = calendar_of(AssetClass.STOCK)
    usual = widen_to_evidence(chunk, {}, NO_GAPS)[DAILY]
    assert usual.start == calendar.day_start(calendar.local_day(WEEK.start - EVIDENCE[Timeframe.D1]))
    years_ago = [date(2020, 3, 2) - timedelta(days=number) for number in range(400)]
    wider = widen_to_evidence(chunk, {DAILY: (years_ago, ())}, NO_GAPS)[DAILY]
    sessions = calendar.sessions(calendar.local_day(usual.start), date(2024, 6, 30))
    assert wider.start == calendar.day_start(years_ago[len(sessions) - 1])
    assert wider.end == usual.end
    later = [date(2024, 9, 3), date(2024, 9, 4)]
    wider = widen_to_evidence(chunk, {DAILY: (years_ago[:3], later)}, NO_GAPS)[DAILY]
    assert (wider.start, wider.end) == (
        calendar.day_start(years_ago[2]),
        calendar.day_window(later[-1]).end,
    )


@pytest.mark.parametrize("days", [1, 40])
def test_a_gap_that_reaches_into_a_window_is_judged_by_what_lies_before_it(days: int) -> None:
    minutes = Series("AAPL", Timeframe.M1)
    chunk = ScanChunk({minutes: WEEK}, {minutes: AssetClass.STOCK})
    start = WEEK.start - timedelta(days=days)
    known = pl.DataFrame([("AAPL", "1m", start, WEEK.end)], schema=NO_GAPS.schema, orient="row")
    wider = widen_to_evidence(chunk, {}, known)[minutes]
    calendar = calendar_of(AssetClass.STOCK)
    assert wider.start == calendar.day_start(calendar.local_day(start - EVIDENCE[Timeframe.M1]))
