"""Scans of a series one after the other, as a store and a vendor would see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA
from marketdata_assets.domain.gap_scan import (
    KNOWN_GAP_SCHEMA,
    GapContext,
    Refetch,
    open_windows,
    rescan,
    scan_gaps,
    settle,
)
from marketdata_assets.domain.gaps import MAX_ATTEMPTS
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import Slots, StoredBars, expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets_tests.examples import examples

BITCOIN = Series("BTC-USD", Timeframe.H1)
CRYPTO = calendar_of(AssetClass.CRYPTO)
FIRST, DAYS = date(2024, 1, 1), 20
ALL = range(DAYS * 24)


def slots_of(first: int = 0, last: int = DAYS) -> Slots:
    window = Window(CRYPTO.day_start(day(first)), CRYPTO.day_start(day(last)))
    return expected_slots(Timeframe.H1, window, CRYPTO, datetime(2025, 1, 1, tzinfo=UTC))


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def hours(first: int, last: int | None = None) -> set[int]:
    """All hours of the days ``first`` to ``last``, inclusive."""
    return set(range(first * 24, ((first if last is None else last) + 1) * 24))


@dataclass
class World:
    """A store, as hours since the first day, and what the vendor would answer."""

    stored: set[int]
    vendor: set[int] = field(default_factory=set)
    down: bool = False
    gaps: dict[datetime, dict[str, object]] = field(default_factory=dict)
    days: dict[date, dict[str, object]] = field(default_factory=dict)
    requests: int = 0
    minutes: int = 60
    """Minutes with a bar in each hour that has one."""

    def stored_bars(self) -> dict[Series, StoredBars]:
        opens = slots_of().opens[sorted(self.stored)]
        return {BITCOIN: StoredBars(opens, np.full(len(opens), self.minutes))}

    def scan(self, first: int, last: int | None = None, *, repair: bool = True) -> None:
        """Scan the days ``first`` to ``last``, and write what the scan settles."""
        window = Window(
            CRYPTO.day_start(day(first)), CRYPTO.day_start(day((first if last is None else last) + 1))
        )
        rows = [row for row in self.gaps.values() if row["state"] != "filled"]
        known = pl.DataFrame(rows, schema=KNOWN_GAP_SCHEMA)
        scanned = scan_gaps(
            GapContext({BITCOIN: window}, {BITCOIN: window}, {BITCOIN: slots_of()}, known, self.stored_bars())
        )
        for _ in range(MAX_ATTEMPTS if repair else 0):
            due = open_windows(scanned)
            if not due:
                break
            self.requests += 1
            if not self.down:
                for part in due[BITCOIN]:
                    begin, end = (
                        int((edge - CRYPTO.day_start(FIRST)) / timedelta(hours=1))
                        for edge in (part.start, part.end)
                    )
                    self.stored |= self.vendor & set(range(begin, end))
            refetch = Refetch("BTC-USD", Timeframe.M1, window, "HTTP 500" if self.down else None)
            scanned = rescan(scanned, [refetch], self.stored_bars())
            if self.down:
                break
        result = settle(scanned)
        span, (from_day, to_day) = result.spans[BITCOIN], result.days[BITCOIN]
        self.gaps = {
            start: row
            for start, row in self.gaps.items()
            if row["state"] == "filled" or not (start < span.end and _end(row) > span.start)
        } | {row["gap_start"]: row for row in result.gaps.iter_rows(named=True)}
        self.days = {day: row for day, row in self.days.items() if not from_day <= day <= to_day} | {
            row["day"]: row for row in result.daily.iter_rows(named=True)
        }

    def summary(self) -> list[tuple[int, object, object, object]]:
        """Each gap: its first hour, how many bars, its state and attempts."""
        start = CRYPTO.day_start(FIRST)
        return [
            (int((begin - start) / timedelta(hours=1)), row["missing_bars"], row["state"], row["attempts"])
            for begin, row in sorted(self.gaps.items())
        ]


def _end(row: dict[str, object]) -> datetime:
    end = row["gap_end"]
    assert isinstance(end, datetime)
    return end


def world(missing: set[int], *, vendor_has: set[int] | None = None) -> World:
    return World(set(ALL) - missing, set(ALL) - missing | (vendor_has or set()))


def test_what_lies_outside_of_the_window_stays_when_the_inside_is_filled() -> None:
    store = world(hours(5, 6))
    store.scan(0, 19, repair=False)
    store.vendor = set(ALL)
    store.scan(6)
    assert store.summary() == [(120, 24, "open", 0), (144, 24, "filled", 1)]
    assert (store.days[day(5)]["missing_bars"], store.days[day(6)]["missing_bars"]) == (24, 0)
    store.scan(5)
    assert [state for _, _, state, _ in store.summary()] == ["filled", "filled"]


def test_what_is_found_and_filled_in_one_look_is_written_down() -> None:
    store = world(hours(5), vendor_has=hours(5))
    store.scan(0, 19)
    assert store.summary() == [(120, 24, "filled", 1)]


def test_attempts_count_for_what_was_asked_for_alone() -> None:
    store = world(hours(5, 9))
    store.scan(0, 19, repair=False)
    store.scan(7)
    assert store.summary() == [(120, 48, "open", 0), (168, 24, "unfilled", 2), (192, 48, "open", 0)]
    before = store.requests
    store.scan(0, 19)
    assert store.summary() == [(120, 120, "unfilled", 2)]
    assert store.requests - before == 2


def test_an_outage_that_grows_is_asked_for_where_it_is_new() -> None:
    store = world(hours(5))
    store.scan(0, 5)
    assert store.summary() == [(120, 24, "unfilled", 2)]
    store.stored -= hours(6)
    store.vendor -= hours(6)
    before = store.requests
    store.scan(6)
    assert store.summary() == [(120, 48, "unfilled", 2)]
    assert store.requests - before == 2


def test_a_quiet_hour_stays_quiet_when_an_outage_begins_beside_it() -> None:
    thin = {hour for hour in ALL if hour % 4 > 1}
    store = world(thin)
    store.minutes = 3
    store.scan(0, 9)
    assert {state for _, _, state, _ in store.summary()} == {"no_trades"}
    store.stored -= hours(10, 14)
    store.vendor -= hours(10, 14)
    store.scan(10, 14)
    quiet, lost = store.summary()[-2:]
    assert quiet == (238, 2, "no_trades", 1)
    assert lost == (240, 120, "unfilled", 2)


def test_a_vendor_that_is_down_costs_one_attempt_a_look() -> None:
    store = world(hours(5), vendor_has=hours(5))
    store.down = True
    store.scan(0, 19)
    assert store.summary() == [(120, 24, "open", 1)]
    store.down = False
    store.scan(0, 19)
    assert store.summary() == [(120, 24, "filled", 2)]


def test_days_before_the_first_bar_are_forgotten() -> None:
    store = world(hours(0, 3))
    store.scan(0, 19, repair=False)
    assert store.days[day(2)]["status"] == "empty"
    window = Window(CRYPTO.day_start(FIRST), CRYPTO.day_start(day(DAYS)))
    known = pl.DataFrame(list(store.gaps.values()), schema=KNOWN_GAP_SCHEMA)
    result = settle(
        scan_gaps(
            GapContext(
                {BITCOIN: window}, {BITCOIN: window}, {BITCOIN: slots_of(4)}, known, store.stored_bars()
            )
        )
    )
    assert result.gaps.is_empty()
    assert result.days[BITCOIN] == (FIRST, day(DAYS - 1))
    assert result.daily["day"].min() == day(4)
    assert result.daily.schema == DAILY_COMPLETENESS_SCHEMA


missing_hours = st.sets(st.sampled_from(ALL), max_size=60).flatmap(
    lambda some: st.integers(0, DAYS - 3).map(lambda start: some | hours(start, start + 2))
)


@examples(50)
@given(missing_hours, st.permutations(range(4)))
def test_looks_at_the_parts_find_what_a_look_at_the_whole_does(missing: set[int], order: list[int]) -> None:
    whole, parts = world(missing), world(missing)
    whole.scan(0, DAYS - 1, repair=False)
    for part in order:
        parts.scan(part * 5, part * 5 + 4, repair=False)
    assert parts.summary() == whole.summary()
    assert parts.days == whole.days


@examples(30)
@given(missing_hours, st.permutations(range(4)), st.sets(st.sampled_from(ALL), max_size=200))
def test_nothing_is_asked_for_more_than_twice_and_nothing_is_forgotten(
    missing: set[int], order: list[int], vendor_has: set[int]
) -> None:
    store = world(missing, vendor_has=vendor_has)
    for part in [*order, *order]:
        store.scan(part * 5, part * 5 + 4)
    spent = store.requests
    store.scan(0, DAYS - 1)
    assert store.requests == spent
    left = {
        hour
        for start, bars, state, _ in store.summary()
        if state != "filled" and isinstance(bars, int)
        for hour in range(start, start + bars)
    }
    assert left == missing - vendor_has
    assert {state for _, _, state, _ in store.summary()} <= {"filled", "no_trades", "unfilled"}
    counted = sum(row["missing_bars"] for row in store.days.values() if isinstance(row["missing_bars"], int))
    lost = sum(bars for _, bars, state, _ in store.summary() if state == "unfilled" and isinstance(bars, int))
    assert counted == lost


def test_quarantined_rows_are_not_a_lack_of_trades() -> None:
    store = world({hour for hour in ALL if hour % 4 > 1})
    store.minutes = 3
    rows = pl.DataFrame({"symbol": "BTC-USD", "timeframe": "1m", "time": [CRYPTO.day_start(day(3))]})
    quarantined = rows.with_columns(pl.col("time") + timedelta(hours=2, minutes=7)).cast({"time": UTC_TIME})
    window = Window(CRYPTO.day_start(FIRST), CRYPTO.day_start(day(DAYS)))
    scanned = scan_gaps(
        GapContext(
            {BITCOIN: window},
            {BITCOIN: window},
            {BITCOIN: slots_of()},
            KNOWN_GAP_SCHEMA.to_frame(),
            store.stored_bars(),
            quarantined,
        )
    )
    for _ in range(MAX_ATTEMPTS):
        scanned = rescan(scanned, [Refetch("BTC-USD", Timeframe.M1, window, None)], store.stored_bars())
    (faulty,) = settle(scanned).gaps.filter(pl.col("state") != "no_trades").iter_rows(named=True)
    assert (faulty["gap_start"], faulty["state"]) == (
        CRYPTO.day_start(day(3)) + timedelta(hours=2),
        "unfilled",
    )
    assert "ohlcv_quarantine" in faulty["reason"]


def a_known_gap(first: int, last: int, **facts: object) -> dict[str, object]:
    """A row of ``KNOWN_GAP_SCHEMA``: the hours from ``first`` up to ``last``, open and never refetched but for ``facts``."""
    start, end = (CRYPTO.day_start(FIRST) + timedelta(hours=hour) for hour in (first, last))
    unknown = dict.fromkeys(KNOWN_GAP_SCHEMA.names())
    key = {"symbol": "BTC-USD", "timeframe": "1h", "gap_start": start, "gap_end": end}
    return (
        unknown
        | key
        | {"missing_bars": last - first, "day": start.date(), "state": "open", "attempts": 0}
        | facts
    )


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({"attempts": 0}, {"attempts": 1}),
        ({"attempts": 1}, {"attempts": 1, "failure": "HTTP 500"}),
        ({"attempts": 1, "failure": "HTTP 500"}, {"attempts": 1, "failure": "HTTP 503"}),
        ({"attempts": 0}, {"attempts": 0, "state": "no_trades"}),
    ],
)
def test_a_gap_is_divided_where_what_is_known_of_its_slots_differs(
    first: dict[str, object], other: dict[str, object]
) -> None:
    window = Window(CRYPTO.day_start(FIRST), CRYPTO.day_start(day(DAYS)))
    known = pl.DataFrame(
        [a_known_gap(120, 130, **first), a_known_gap(130, 144, **other)], schema=KNOWN_GAP_SCHEMA
    )
    stored = world(hours(5)).stored_bars()
    context = GapContext({BITCOIN: window}, {BITCOIN: window}, {BITCOIN: slots_of()}, known, stored)
    gaps = settle(scan_gaps(context)).gaps
    assert gaps["missing_bars"].to_list() == [10, 14]
    assert gaps["attempts"].to_list() == [first["attempts"], other["attempts"]]
    assert gaps["failure"].to_list() == [first.get("failure"), other.get("failure")]


def test_a_filled_run_has_the_most_attempts_and_the_earliest_time_of_its_slots() -> None:
    window = Window(CRYPTO.day_start(FIRST), CRYPTO.day_start(day(DAYS)))
    late, early = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
    known = pl.DataFrame(
        [
            a_known_gap(120, 130, attempts=2, state="unfilled", detected_at=late),
            a_known_gap(130, 144, attempts=1, detected_at=early),
            a_known_gap(200, 201),
        ],
        schema=KNOWN_GAP_SCHEMA,
    )
    context = GapContext(
        {BITCOIN: window}, {BITCOIN: window}, {BITCOIN: slots_of()}, known, world(set()).stored_bars()
    )
    gaps = settle(scan_gaps(context)).gaps
    assert gaps["state"].to_list() == ["filled", "filled"]
    assert gaps["attempts"].to_list() == [2, 0]
    assert gaps["detected_at"].to_list() == [early, None]
