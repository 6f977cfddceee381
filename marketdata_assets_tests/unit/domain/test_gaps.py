from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of, microseconds
from marketdata_assets.domain.gaps import (
    GAP_SCHEMA,
    JUDGED_SCHEMA,
    MAX_ATTEMPTS,
    GapState,
    SlotTraits,
    classify,
    find_gaps,
    gaps_of_flags,
    judge,
    slots_in_gaps,
    split_gaps,
)
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import StoredBars, expected_by_series, expected_slots, stored_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.frames import at, days_window, window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from marketdata_assets.domain.slots import Flags, Integers, Slots

XNYS = calendar_of(AssetClass.STOCK)
CRYPTO = calendar_of(AssetClass.CRYPTO)
LATER = at("2039-01-01T00:00")
AAPL = Series("AAPL", Timeframe.M1)


def slots_of(series: Series, first: date, last: date) -> Slots:
    calendar = CRYPTO if "-" in series.symbol else XNYS
    return expected_slots(series.timeframe, days_window(calendar, first, last), calendar, LATER)


def without(slots: Slots, removed: Integers | Flags | slice) -> StoredBars:
    """A bar in every slot but ``removed``."""
    keep = np.ones(len(slots), dtype=np.bool_)
    keep[removed] = False
    return StoredBars(slots.opens[keep], None)


def rows(gaps: pl.DataFrame) -> list[tuple[datetime, datetime, int]]:
    return gaps.select("gap_start", "gap_end", "missing_bars").rows()


def found(stored: StoredBars, slots: Slots, series: Series = AAPL) -> pl.DataFrame:
    return find_gaps({series: stored}, {series: slots})


def together(frames: Iterable[pl.DataFrame], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    """The gaps of the whole, from gaps that were found part by part."""
    return gaps_of_flags(slots_in_gaps(pl.concat([GAP_SCHEMA.to_frame(), *frames]), expected), expected)


def judged(stored: StoredBars, slots: Slots, series: Series = AAPL) -> pl.DataFrame:
    return judge(found(stored, slots, series), {series: stored}, {series: slots})


JULY = slots_of(AAPL, date(2024, 7, 1), date(2024, 7, 9))


def test_a_whole_series_has_no_gap() -> None:
    gaps = found(StoredBars(JULY.opens, None), JULY)
    assert gaps.schema == GAP_SCHEMA
    assert gaps.is_empty()


def test_a_gap_is_one_row_over_nights_weekends_and_holidays() -> None:
    [only] = rows(found(without(JULY, slice(389, -1)), JULY))
    # From the last minute of Monday over a half day, Independence Day and a weekend to Tuesday's last but one.
    assert only == (at("2024-07-01T19:59"), at("2024-07-09T19:59"), 1 + 390 + 210 + 390 + 390 + 389)


def test_a_series_without_bars_is_one_gap() -> None:
    gaps = find_gaps({}, {AAPL: JULY})
    assert gaps.select(pl.exclude("gap_start", "gap_end")).rows() == [("AAPL", "1m", 2160, date(2024, 7, 1))]


@pytest.mark.parametrize(
    ("timeframe", "start", "end", "day"),
    [
        ("1m", "2024-11-01T19:59", "2024-11-01T20:00", date(2024, 11, 1)),
        ("1h", "2024-11-01T19:00", "2024-11-01T20:00", date(2024, 11, 1)),
        ("4h", "2024-11-01T16:00", "2024-11-01T20:00", date(2024, 11, 1)),
        ("1d", "2024-11-01T04:00", "2024-11-02T04:00", date(2024, 11, 1)),
        ("1w", "2024-11-03T04:00", "2024-11-10T05:00", date(2024, 11, 3)),  # the clock changes in it
    ],
)
def test_a_gap_ends_with_the_close_of_its_last_slot(timeframe: str, start: str, end: str, day: date) -> None:
    series = Series("AAPL", Timeframe(timeframe))
    slots = slots_of(series, date(2024, 10, 25), date(2024, 11, 12))
    removed = slots.opens == pl.Series([at(start)]).cast(UTC_TIME).to_physical()[0]
    gaps = found(without(slots, removed), slots, series)
    assert rows(gaps) == [(at(start), at(end), 1)]
    assert gaps["day"].to_list() == [day]


def test_bars_of_extended_hours_neither_fill_nor_make_a_gap() -> None:
    days = slots_of(AAPL, date(2024, 7, 2), date(2024, 7, 3))
    # Before the first session, between the two and after the second; none in regular hours.
    evenings = np.setdiff1d(
        np.arange(days.opens[0] - 3_600_000_000, days.opens[-1] + 3_600_000_000, 60_000_000), days.opens
    )
    assert rows(found(StoredBars(evenings, None), days)) == [
        (at("2024-07-02T13:30"), at("2024-07-03T17:00"), 600)
    ]


def test_gaps_of_many_series_are_sorted_by_key() -> None:
    series = {
        Series(symbol, Timeframe(timeframe)): AssetClass.CRYPTO if "-" in symbol else AssetClass.STOCK
        for symbol in ("MSFT", "BTC-USD", "AAPL")
        for timeframe in ("1m", "1h", "1d")
    }
    expected = expected_by_series(series, window("2024-07-01T00:00", "2024-07-10T00:00"), LATER)
    gaps = find_gaps({}, expected)
    assert gaps.height == 9
    assert gaps.equals(gaps.sort("symbol", "timeframe", "gap_start"))


cut = st.one_of(
    st.sets(st.integers(0, len(JULY) - 1), max_size=40),
    st.lists(st.tuples(st.integers(0, len(JULY) - 1), st.integers(1, 900)), max_size=5).map(
        lambda holes: {slot for start, size in holes for slot in range(start, min(start + size, len(JULY)))}
    ),
)


@given(cut)
def test_gaps_are_disjoint_maximal_and_cover_what_is_missing(removed: set[int]) -> None:
    gaps = found(without(JULY, np.array(sorted(removed), dtype=np.int64)), JULY)
    starts = np.searchsorted(JULY.opens, gaps["gap_start"].to_physical().to_numpy())
    ends = np.searchsorted(JULY.opens, gaps["gap_end"].to_physical().to_numpy())
    covered = [slot for start, end in zip(starts, ends, strict=True) for slot in range(start, end)]
    assert covered == sorted(removed)
    assert (starts[1:] > ends[:-1]).all()
    assert (ends - starts).tolist() == gaps["missing_bars"].to_list()


@given(cut, st.sampled_from([Timeframe.M1, Timeframe.M30, Timeframe.H4, Timeframe.D1]))
def test_gaps_found_by_partition_merge_into_those_of_the_whole(
    removed: set[int], timeframe: Timeframe
) -> None:
    series = {Series("AAPL", timeframe): AssetClass.STOCK, Series("BTC-USD", timeframe): AssetClass.CRYPTO}
    whole = {member: slots_of(member, date(2024, 7, 1), date(2024, 7, 9)) for member in series}
    stored = {
        member: without(slots, np.array(sorted(removed), dtype=np.int64) % max(len(slots), 1))
        for member, slots in whole.items()
    }
    by_day = [
        find_gaps(stored, expected_by_series({member: asset_class}, calendar.day_window(day), LATER))
        for member, asset_class in series.items()
        for calendar in (calendar_of(asset_class),)
        for day in (date(2024, 7, 1) + timedelta(days=n) for n in range(9))
    ]
    assert_frame_equal(together(reversed(by_day), whole), find_gaps(stored, whole))


def test_merging_drops_what_is_not_expected_and_counts_overlaps_once() -> None:
    stored = without(JULY, slice(100, 500))
    gaps = found(stored, JULY)
    assert together([gaps, gaps], {AAPL: JULY}).equals(gaps)
    assert together([gaps], {}).is_empty()
    assert together([], {AAPL: JULY}).is_empty()
    since = JULY.within(at("2024-07-02T13:30"))
    assert together([gaps], {AAPL: since})["missing_bars"].to_list() == [110]


# Judging

MONTH = slots_of(AAPL, date(2024, 5, 1), date(2024, 6, 7))
DENSE = np.ones(len(MONTH), dtype=np.bool_)


def traded(density: float, slots: Slots = MONTH, seed: int = 7) -> Flags:
    return np.random.default_rng(seed).random(len(slots)) < density


def lost(bars: Flags, slots: Slots = MONTH, series: Series = AAPL) -> pl.DataFrame:
    result = judged(without(slots, ~bars), slots, series)
    assert result.schema == JUDGED_SCHEMA
    return result.filter("is_loss")


def emptied(bars: Flags, *holes: tuple[int, int]) -> Flags:
    changed = bars.copy()
    for start, length in holes:
        changed[start : start + length] = False
    return changed


@pytest.mark.parametrize(("length", "is_loss"), [(1, False), (5, False), (15, False), (30, True), (60, True)])
def test_a_dense_series_may_pause_for_a_halt_and_not_for_an_hour(length: int, *, is_loss: bool) -> None:
    assert lost(emptied(DENSE, (8000, length))).height == is_loss


def test_scattered_quiet_minutes_are_no_loss() -> None:
    assert lost(traded(0.98)).is_empty()


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_a_thin_series_raises_no_alarm_a_minute(density: float, seed: int) -> None:
    assert lost(traded(density, seed=seed)).is_empty()


@pytest.mark.parametrize("seed", range(5))
def test_trading_that_is_thin_at_midday_is_no_loss(seed: int) -> None:
    # An hour in the morning and one at the end trade twice and a half as often as the rest, 20 % in all.
    minute = np.arange(len(MONTH)) % 390
    busy = (minute < 90) | (minute > 330)
    bars = np.where(busy, traded(0.36, seed=seed), traded(0.1, seed=seed + 100))
    assert lost(bars).is_empty()


@pytest.mark.parametrize("density", [0.07, 0.2, 0.5, 1.0])
def test_a_whole_absent_session_is_a_loss_even_of_a_thin_series(density: float) -> None:
    losses = lost(emptied(traded(density), (20 * 390, 390)))
    assert losses.height == 1
    assert losses["missing_base"].item() >= 390


def test_something_that_trades_twice_a_day_may_have_an_empty_session() -> None:
    assert lost(emptied(traded(2 / 390), (20 * 390, 390))).is_empty()


def test_a_hole_does_not_excuse_the_next_one() -> None:
    year = slots_of(AAPL, date(2023, 1, 1), date(2023, 12, 31))
    bars = emptied(np.ones(len(year), dtype=np.bool_), (3000, 60_000), (63_100, 60), (80_000, 5))
    result = judged(without(year, ~bars), year)
    assert result["is_loss"].to_list() == [True, True, False]
    assert result["density"][0] == 1
    assert result["usual"].to_list() == [18, 18, 18]


def test_runs_with_few_bars_between_are_one_incident() -> None:
    apart = emptied(DENSE, (5000, 15), (5300, 15))
    assert lost(apart).is_empty()
    together = lost(emptied(DENSE, (5000, 15), (5017, 15)))
    assert together.select("missing_base", "incident_base").rows() == [(15, 30), (15, 30)]


def test_quiet_minutes_beside_a_loss_of_a_thin_series_stay_quiet_minutes() -> None:
    bars = emptied(traded(0.2), (5000, 390))
    bars[[4999, 4997, 5390, 5392]] = True
    assert lost(bars)["missing_base"].to_list() == [390]


def test_without_any_bar_to_judge_by_a_gap_is_a_loss() -> None:
    result = judged(StoredBars(MONTH.opens[:0], None), MONTH)
    assert result.select("density", "usual", "is_loss").rows() == [(None, None, True)]
    [reason] = classify(requested(result))["reason"]
    assert reason == f"{len(MONTH)} minutes missing, and the series has no bar to judge by"


def test_bars_after_a_gap_are_evidence_where_history_begins() -> None:
    assert lost(emptied(traded(0.2), (0, 60))).is_empty()
    assert lost(emptied(DENSE, (0, 60)))["missing_base"].to_list() == [60]


def rolled_up(slots: Slots, base_bars: int, removed: Sequence[int]) -> StoredBars:
    keep = np.ones(len(slots), dtype=np.bool_)
    keep[list(removed)] = False
    return StoredBars(slots.opens[keep], np.full(int(keep.sum()), base_bars, dtype=np.int64))


@pytest.mark.parametrize("timeframe", ["1d", "1w"])
def test_each_missing_bar_of_a_complete_daily_or_weekly_series_is_a_loss(timeframe: str) -> None:
    series = Series("AAPL", Timeframe(timeframe))
    slots = slots_of(series, date(2020, 1, 1), date(2023, 12, 31))
    stored = rolled_up(slots, 5 if timeframe == "1w" else 1, [50, 100, 103, 150])
    assert judged(stored, slots, series)["is_loss"].to_list() == [True] * 4


def test_a_stock_that_skips_days_may_skip_some() -> None:
    series = Series("AAPL", Timeframe.D1)
    slots = slots_of(series, date(2020, 1, 1), date(2023, 12, 31))
    bars = traded(0.6, slots)
    assert lost(bars, slots, series).is_empty()
    assert lost(emptied(bars, (600, 30)), slots, series).height == 1


@pytest.mark.parametrize(
    ("base_bars", "removed", "is_loss"),
    [
        (60, [50], True),
        (60, [20, 50, 80], True),  # the same hour lost thrice
        (10, [50], False),
        (10, [49, 50, 51, 52, 53, 54, 55], True),  # a session and more
    ],
)
def test_an_empty_hour_bar_is_sixty_empty_minutes(
    base_bars: int, removed: list[int], *, is_loss: bool
) -> None:
    series = Series("AAPL", Timeframe.H1)
    slots = slots_of(series, date(2024, 5, 1), date(2024, 6, 7))
    result = judged(rolled_up(slots, base_bars, removed), slots, series)
    assert result["is_loss"].to_list() == [is_loss] * result.height
    assert result["missing_base"].sum() in {60 * len(removed), 60 * len(removed) - 30}


def test_rolled_up_bars_are_not_judged_without_their_base_bars() -> None:
    series = Series("AAPL", Timeframe.H1)
    slots = slots_of(series, date(2024, 5, 1), date(2024, 5, 7))
    with pytest.raises(ValueError, match="base_bars"):
        judged(without(slots, slice(3, 4)), slots, series)


def test_a_gap_may_begin_before_the_evidence() -> None:
    stored = without(MONTH, slice(0, 5000))
    tail = MONTH.within(at("2024-05-17T13:30"))
    gaps = found(stored, MONTH)
    result = judge(gaps, {AAPL: stored}, {AAPL: tail})
    assert result["missing_base"].to_list() == [5000]
    assert result["is_loss"].to_list() == [True]


# Classifying


def requested(gaps: pl.DataFrame, attempts: int = MAX_ATTEMPTS, failure: str | None = None) -> pl.DataFrame:
    return gaps.with_columns(
        attempts=pl.lit(attempts), failure=pl.lit(failure, pl.String), quarantined=pl.lit(value=False)
    )


ONE_EACH = judged(without(MONTH, ~emptied(DENSE, (3000, 1), (8000, 90))), MONTH)
QUIET = (
    "the vendor has no bar here; 1 empty minute can be a quiet moment or a trading halt (up to 18), even in a"
    " series that trades in 100 % of its minutes"
)
LOSS = (
    "90 minutes missing from a series that has 100 % of its minutes, where quiet stretches last up to 18 minutes: an"
    " outage at the vendor or the exchange"
)


@pytest.mark.parametrize(
    ("attempts", "failure", "quiet", "loss"),
    [
        (0, None, ("open", "not refetched yet"), ("open", "not refetched yet")),
        (1, None, ("no_trades", QUIET), ("open", f"refetch 1 of 2 returned no bar: {LOSS}")),
        (2, None, ("no_trades", QUIET), ("unfilled", LOSS)),
        *(
            (attempts, "HTTP 500", (state, text), (state, text))
            for attempts, state in ((1, "open"), (2, "unfilled"))
            for text in [f"the vendor failed at refetch {attempts} of 2: HTTP 500"]
        ),
    ],
)
def test_the_state_follows_from_attempts_answer_and_evidence(
    attempts: int, failure: str | None, quiet: tuple[str, str], loss: tuple[str, str]
) -> None:
    result = classify(requested(ONE_EACH, attempts, failure))
    assert result.select("state", "reason").rows() == [quiet, loss]


def test_the_reason_of_a_thin_series_says_how_thin_it_is() -> None:
    result = classify(requested(judged(without(MONTH, ~traded(0.2)), MONTH)))
    row = result.filter(pl.col("missing_base") == 7).row(0, named=True)
    assert row["state"] == GapState.NO_TRADES
    percent = round(100 * row["density"])
    assert row["reason"] == (
        f"the vendor has no bar here; the series trades in {percent} % of its minutes, so a stretch of 7 empty"
        f" minutes is usual (up to {row['usual']})"
    )


def test_the_reason_of_a_daily_gap_speaks_of_sessions() -> None:
    series = Series("AAPL", Timeframe.D1)
    slots = slots_of(series, date(2023, 1, 1), date(2023, 12, 31))
    result = judged(without(slots, slice(100, 101)), slots, series)
    assert classify(requested(result))["reason"].item() == (
        "1 session missing from a series that has 100 % of its sessions, so that none can be quiet: an outage at"
        " the vendor or the exchange"
    )


def test_no_gaps_are_no_states() -> None:
    none = judge(GAP_SCHEMA.to_frame(), {}, {})
    assert none.schema == JUDGED_SCHEMA
    assert classify(requested(none)).is_empty()


@pytest.mark.parametrize(
    ("symbol", "runs"), [("BTC-USD", [(1006, 1), (1008, 432)]), ("ETH-USD", [(1008, 4), (1013, 427)])]
)
def test_the_shape_of_the_coinbase_outage(symbol: str, runs: list[tuple[int, int]]) -> None:
    """2018-04-04: minutes lost from 16:46 to midnight, one stray bar in between; complete before and after."""
    series = Series(symbol, Timeframe.M1)
    slots = slots_of(series, date(2018, 4, 3), date(2018, 4, 5))
    bars = emptied(np.ones(len(slots), dtype=np.bool_), *((1440 + start, size) for start, size in runs))
    result = classify(requested(judged(without(slots, ~bars), slots, series)))
    assert result["missing_bars"].to_list() == [size for _, size in runs]
    assert result["state"].to_list() == ["unfilled", "unfilled"]
    total = sum(size for _, size in runs)
    assert [
        reason.startswith((f"{size} minute missing, ", f"{size} minutes missing, "))
        and f"{total} minutes in the whole incident" in reason
        and "outage" in reason
        for (_, size), reason in zip(runs, result["reason"], strict=True)
    ] == [True, True]


# Days that were never fetched


class Blocks(NamedTuple):
    """Stretches of fetched days, with never-fetched days before, between and after them."""

    sizes: list[int]
    before: list[int]
    """Never-fetched days before each stretch."""
    after: int

    def days(self) -> list[date]:
        """The fetched days."""
        days, day = [], date(2024, 1, 1)
        for size, before in zip(self.sizes, self.before, strict=True):
            day += timedelta(days=before)
            days += [day + timedelta(days=offset) for offset in range(size)]
            day += timedelta(days=size)
        return days

    def slots(self, series: Series) -> Slots:
        """The slots of the fetched days."""
        days = self.days()
        every = slots_of(series, date(2024, 1, 1), days[-1] + timedelta(days=self.after))
        requested = [CRYPTO.day_window(day) for day in days]
        return every.requested_in(requested, np.zeros(len(every), dtype=np.bool_))


blocks_of_days = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=4).flatmap(
    lambda drawn: st.integers(0, 9).map(
        lambda after: Blocks([size for size, _ in drawn], [before for _, before in drawn], after)
    )
)


def judged_by_slot(slots: Slots, has_bar: Flags, series: Series) -> list[dict[str, Any]]:
    """The classified gaps, each with the positions of its slots."""
    stored = {series: StoredBars(slots.opens[has_bar], np.full(int(has_bar.sum()), 5))}
    gaps = judge(find_gaps(stored, {series: slots}), stored, {series: slots})
    nothing, never = np.zeros(len(slots), dtype=np.int64), np.zeros(len(slots), dtype=np.bool_)
    pieces = split_gaps(gaps, {series: slots}, {series: SlotTraits(nothing, nothing, never, never)})
    assert pieces.select(gaps.columns).equals(gaps)
    rows = classify(requested(pieces)).to_dicts()
    for row in rows:
        edges = [microseconds(row[edge]) for edge in ("gap_start", "gap_end")]
        row["slots"] = range(*np.searchsorted(slots.opens, edges).tolist())
        assert len(row["slots"]) == row["missing_bars"]
        # No gap spans a day that was never fetched.
        assert row["gap_end"] - row["gap_start"] == row["missing_bars"] * series.timeframe.duration
    return rows


@examples(25)
@given(
    blocks_of_days,
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 60)), max_size=6),
    st.floats(0.02, 1.0),
    st.sampled_from([Timeframe.H1, Timeframe.H4, Timeframe.D1]),
)
def test_days_that_were_never_fetched_change_no_judgement(
    blocks: Blocks, holes: list[tuple[int, int]], density: float, timeframe: Timeframe
) -> None:
    """The same fetched days, side by side and with other days before, between and after them."""
    series = Series("BTC-USD", timeframe)
    side_by_side = Blocks(blocks.sizes, [0] * len(blocks.sizes), 0).slots(series)
    apart = blocks.slots(series)
    assert len(apart) == len(side_by_side)
    a_day = int(timedelta(days=1) / timeframe.duration)
    seams = set((np.cumsum(blocks.sizes)[:-1] * a_day).tolist())

    has_bar = np.random.default_rng(3).random(len(apart)) < density
    for start, size in [*holes, *((seam - 1, 2) for seam in seams if holes)]:
        has_bar[start % len(apart) : start % len(apart) + size] = False

    together, divided = (judged_by_slot(slots, has_bar, series) for slots in (side_by_side, apart))
    verdicts = [
        {
            slot: [row[name] for name in ("state", "is_loss", "density", "usual", "incident_base")]
            for row in rows
            for slot in row["slots"]
        }
        for rows in (together, divided)
    ]
    assert verdicts[0] == verdicts[1]
    # A gap differs only where it touches never-fetched days on both of its sides: it is divided there.
    reasons = {row["slots"]: row["reason"] for row in divided}
    for row in together:
        if seams.isdisjoint(range(row["slots"].start + 1, row["slots"].stop)):
            assert reasons[row["slots"]] == row["reason"]


@pytest.mark.parametrize("timeframe", ["1m", "1h", "4h", "1d", "1w"])
def test_a_slot_before_days_that_were_never_fetched_holds_no_more_than_itself(timeframe: str) -> None:
    series = Series("AAPL", Timeframe(timeframe))
    is_long = not series.timeframe.is_intraday
    first, last = (date(2022, 1, 2), date(2023, 12, 30)) if is_long else (date(2024, 5, 1), date(2024, 7, 31))
    every = slots_of(series, first, last)
    middle = len(every) // 2
    hole = every.days()[middle : middle + len(every) // 5].unique()
    slots = every.requested_in([], ~every.days().is_in(hole.implode()).to_numpy())
    edge = int(np.flatnonzero(slots.ends_before_a_hole(np.arange(len(slots) - 1)))[0])
    base = {"1m": 1, "1h": 60, "4h": 240, "1d": 1, "1w": 5}[timeframe]
    # The slots on both sides of the hole are empty: two gaps, and neither speaks of the days in between.
    result = classify(requested(judged(rolled_up(slots, base, [edge, edge + 1]), slots, series)))
    assert result["missing_bars"].to_list() == [1, 1]
    assert max(result["missing_base"]) <= base
    edges = result.select("gap_start", "gap_end").rows()
    assert all(end - start <= series.timeframe.duration for start, end in edges)
    assert set(result["state"]) == {"no_trades" if timeframe == "1m" else "unfilled"}


@examples(25)
@given(
    st.sampled_from(Timeframe),
    st.sets(st.integers(0, 3000), max_size=40),
    st.floats(0.1, 1),
    st.sampled_from([1, 2]),
)
def test_the_first_number_of_a_reason_is_the_number_of_missing_bars(
    timeframe: Timeframe, removed: set[int], density: float, attempts: int
) -> None:
    series = Series("AAPL", timeframe)
    first = date(2024, 6, 24) if timeframe.is_intraday else date(2023, 1, 1)
    slots = slots_of(series, first, date(2024, 7, 9))
    keep = np.ones(len(slots), dtype=np.bool_) if density > 0.9 else traded(density, slots)
    keep[np.array(sorted(removed), dtype=np.int64) % len(slots)] = False
    stored = StoredBars(slots.opens[keep], np.ones(int(keep.sum()), dtype=np.int64))
    noun = {"1m": "minute", "1d": "session"}.get(timeframe.value, "bar")
    for row in classify(requested(judged(stored, slots, series), attempts)).iter_rows(named=True):
        text = re.sub("^refetch 1 of 2 returned no bar: ", "", row["reason"])
        own = re.search(r"(\d+) (?:empty )?(bar|minute|session)s?\b", text)
        assert own is not None
        assert (int(own[1]), own[2]) == (row["missing_bars"], noun)
        assert "up to 0" not in text


# Real bars


def real(realdata: Path, name: str, series: Series) -> dict[Series, StoredBars]:
    bars = pl.read_parquet(realdata / "data" / f"lean_{name}_1m.parquet")
    return stored_by_series(
        bars.select(
            symbol=pl.lit(series.symbol),
            timeframe=pl.lit(series.timeframe.value),
            time=pl.col("ts").cast(UTC_TIME),
        )
    )


def recorded_gaps(days: dict[str, Any]) -> list[tuple[datetime, int]]:
    return [
        (datetime.fromisoformat(gap["first"]).astimezone(UTC), gap["bars"])
        for day in sorted(days)
        for gap in days[day]["gaps"]
    ]


def test_the_quiet_minutes_of_goog_are_no_trades(realdata: Path) -> None:
    facts = json.loads((realdata / "expected" / "A03_goog_half_day_holiday.json").read_text())["expected"]
    series = Series("GOOG", Timeframe.M1)
    slots = slots_of(series, date(2015, 12, 23), date(2015, 12, 28))
    assert len(slots) == sum(day["expected_regular"] for day in facts["days"].values())
    result = classify(requested(judged(real(realdata, "goog", series)[series], slots, series)))
    assert result.select("gap_start", "missing_bars").rows() == recorded_gaps(facts["days"])
    assert result["missing_bars"].sum() == facts["total_missing"]
    assert set(result["state"]) == {GapState.NO_TRADES}


@pytest.mark.parametrize(
    ("name", "symbol", "first", "last", "states"),
    [
        ("coinbase_btcusd", "BTC-USD", date(2018, 4, 4), date(2018, 4, 6), {"unfilled"}),
        ("coinbase_btcusd", "BTC-USD", date(2016, 10, 7), date(2016, 10, 9), {"no_trades"}),
        ("coinbase_btcusd", "BTC-USD", date(2017, 9, 3), date(2017, 9, 4), set()),
        ("coinbase_ethusd", "ETH-USD", date(2018, 4, 4), date(2018, 4, 5), {"unfilled"}),
    ],
)
def test_coinbase_as_it_was(
    realdata: Path, name: str, symbol: str, *, first: date, last: date, states: set[str]
) -> None:
    facts = json.loads((realdata / "expected" / "A04_coinbase_outage.json").read_text())["expected"]
    days = {
        day: fact for day, fact in facts[symbol.replace("-", "")].items() if str(first) <= day <= str(last)
    }
    series = Series(symbol, Timeframe.M1)
    stored, slots = real(realdata, name, series)[series], slots_of(series, first, last)
    result = classify(requested(judged(stored, slots, series)))
    # A stretch over midnight is one gap here and two in a list by day.
    by_day = [
        find_gaps(
            {series: stored},
            {series: slots_of(series, date.fromisoformat(day), date.fromisoformat(day))},
        )
        for day in sorted(days)
    ]
    assert pl.concat(by_day).select("gap_start", "missing_bars").rows() == recorded_gaps(days)
    assert result["missing_bars"].sum() == sum(fact["missing"] for fact in days.values())
    assert set(result["state"]) == states


@pytest.mark.parametrize("share", [0.4, 0.46, 0.8])
def test_a_session_that_loses_bars_here_and_there_is_a_loss(share: float) -> None:
    session = slice(15 * 390, 16 * 390)
    kept = np.ones(len(MONTH), dtype=np.bool_)
    kept[session] = np.random.default_rng(7).random(390) >= share
    gaps = judged(without(MONTH, ~kept), MONTH)
    assert gaps.height > 50
    assert gaps["is_loss"].all()
    assert set(gaps["incident_base"]) == {int((~kept).sum())}


@given(st.sampled_from([0.05, 0.2, 0.5, 0.8, 0.95, 0.995]), st.integers(0, 10_000))
def test_an_ordinary_session_is_no_loss_however_thin_the_series(density: float, seed: int) -> None:
    kept = np.random.default_rng(seed).random(len(MONTH)) < density
    gaps = judged(without(MONTH, ~kept), MONTH)
    assert not gaps["is_loss"].any()
