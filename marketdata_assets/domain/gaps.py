"""Gaps: maximal runs of expected slots without a bar, and what each of them means.

Finding is a set difference on sorted integers. Judging asks whether a run is longer than the series' own
habits explain, so that a fund that trades in a fifth of its minutes raises no alarm a minute and a liquid
stock that loses an hour does.

The evidence of a gap is the stretch of slots before it (20 sessions, or 250 for day and week bars; filled up
with slots after it at the start of a history), the gap left out. Everything is counted in base slots, regular
minutes or sessions, so that an empty hour bar is 60 empty minutes and is judged like them. With ``d`` the share
of the evidence's N base slots that have a bar, and ``q`` the chance that a slot stays empty after an empty one,
N·(1-q)·q^n runs of n or more are to be expected in as much evidence. A run is *usual* while that number is
1/100 or more; a longer one is a loss.

- Minutes: trading clusters. In the thinner half of a session it runs at half its mean rate, which makes
  ``q = sqrt(1-d)`` and not ``1-d``. Nor is any minute surer than a coin flip, ``q >= 1/2``: that excuses 18
  minutes in the densest stock, hence the trading halts of 5, 10 and 15 minutes, and no hour.
- Sessions do not cluster: ``q = 1-d``. A few empty ones are more likely lost than quiet: up to two, or up to
  2 %, the series counts as complete, and every missing bar of it is a loss.
- Days that were never fetched do not exist here: no gap spans them, they are no evidence, and what lies on both
  sides of them is judged as if it lay side by side.
- A loss is no evidence of thin trading: what is judged lost leaves the evidence, and the rest is judged again
  until nothing changes. A hole of months does not excuse the next one.
- Runs with up to five stray bars between them are one incident and judged by their sum, unless the series is so
  thin that runs lie that close by chance.
- A session that has far fewer bars than the 20 around it lead to expect (six standard deviations, clustering
  and an even chance of 5 % allowed for) is a loss as a whole, however its bars are scattered.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME, bucket_close
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import base_slots_before, each_position, local_day
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.slots import Flags, Integers, Slots, StoredBars

    Floats = npt.NDArray[np.float64]

GAP_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "timeframe": pl.String(),
        "gap_start": UTC_TIME,
        "gap_end": UTC_TIME,
        "missing_bars": pl.Int64(),
        "day": pl.Date(),
    }
)
"""Gaps of any number of series, sorted by symbol, timeframe and start.

``gap_start`` is the open of the first missing slot, ``gap_end`` the close of the last; between them lie
``missing_bars`` expected slots, all empty. ``day`` is the local date of ``gap_start``.
"""

JUDGED_SCHEMA: Final = pl.Schema(
    {
        **GAP_SCHEMA,
        "missing_base": pl.Int64(),
        "incident_base": pl.Int64(),
        "density": pl.Float64(),
        "usual": pl.Int64(),
        "is_loss": pl.Boolean(),
    }
)
"""Gaps with the evidence for and against a loss.

``missing_base`` counts the gap's base slots (regular minutes, or sessions), ``incident_base`` those of its
whole incident. ``density`` is the share of base slots with a bar in the evidence and ``usual`` the longest run
that it explains; both are null when the series has no bar to judge by, and the gap then counts as a loss.
"""

MAX_ATTEMPTS: Final = 2
"""How many times a gap is re-fetched."""

SETTLING: Final = timedelta(minutes=20)
"""How long after its close a bar is not missed: the vendor's delayed plans answer 15 minutes late."""


class GapState(StrEnum):
    """What is known about a gap."""

    OPEN = "open"
    """Missing, and re-fetch attempts remain."""
    FILLED = "filled"
    """The bars have arrived."""
    NO_TRADES = "no_trades"
    """Re-fetched; the vendor has none, and the series' habits explain it."""
    UNFILLED = "unfilled"
    """Attempts are used up, and it is a loss or the vendor failed."""


LOSSES: Final = (GapState.OPEN.value, GapState.UNFILLED.value)
"""The states of a gap that nothing explains: its bars count as lost."""


_EVIDENCE_SESSIONS: Final = {Timeframe.M1: 20, Timeframe.D1: 250}
"""How many sessions of evidence there are, by base."""
_MINUTES_OF_A_SESSION: Final = 390
_MINUTES_OF_A_DAY: Final = 1440
_RARE: Final = 0.01
_SUREST_MINUTE: Final = 0.5
_FEW_EMPTY_SESSIONS, _SMALL_SHARE_OF_SESSIONS = 2, 0.02
_STRAY_BARS: Final = 5
_BY_CHANCE: Final = 0.05
_DEVIATIONS: Final = 6
_EVEN_CHANCE: Final = 0.05
_FEWEST_SESSIONS: Final = 3
"""Sessions besides its own without which a session is not compared."""


def find_gaps(stored: Mapping[Series, StoredBars], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    """The gaps of each series of ``expected``, as :data:`GAP_SCHEMA`.

    Two missing slots are neighbours when no slot of the calendar lies between them: a run goes on over closed hours,
    weekends and holidays, and ends at days that ``expected`` leaves out. Bars outside the expected slots are ignored;
    a series without an entry in ``stored`` has no bar.
    """
    return gaps_of_flags(missing_slots(stored, expected), expected)


def missing_slots(
    stored: Mapping[Series, StoredBars], expected: Mapping[Series, Slots]
) -> dict[Series, Flags]:
    """Whether each slot of each series of ``expected`` is without a bar."""
    return {
        series: ~slots.stored(stored[series].times)
        if series in stored
        else np.ones(len(slots), dtype=np.bool_)
        for series, slots in expected.items()
    }


def merge_gaps(frames: Iterable[pl.DataFrame], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    """The maximal runs of the whole from gaps (:data:`GAP_SCHEMA`) that were found part by part.

    ``expected`` covers all parts. Gaps with no expected slot between them become one; overlapping ones count
    once; what ``expected`` does not hold is dropped.
    """
    inside = slots_in_gaps(pl.concat([GAP_SCHEMA.to_frame(), *frames]), expected)
    return gaps_of_flags(inside, expected)


def slots_in_gaps(gaps: pl.DataFrame, expected: Mapping[Series, Slots]) -> dict[Series, Flags]:
    """Whether each expected slot of each series lies in one of ``gaps`` (at least the key, start and end)."""
    by_series = _by_series(gaps)
    inside = {}
    for series, slots in expected.items():
        runs = (
            _Stretches(*slots.positions(by_series[series]))
            if series in by_series
            else _Stretches(_NONE, _NONE)
        )
        inside[series] = _covered(runs.starts, runs.ends, len(slots))
    return inside


def judge(
    gaps: pl.DataFrame, stored: Mapping[Series, StoredBars], expected: Mapping[Series, Slots]
) -> pl.DataFrame:
    """``gaps`` (:data:`GAP_SCHEMA`) with the evidence of their series, as :data:`JUDGED_SCHEMA`.

    ``gaps`` holds every gap of its series in ``expected``, or incidents and earlier losses go unseen.
    ``expected`` and ``stored`` reach as far before the gaps as there is evidence to use; a gap may begin before
    them. Bars of a rolled-up timeframe need their ``base_bars``: ValueError without.
    """
    judged = [
        _judge_series(part, stored.get(series), expected[series]) for series, part in _by_series(gaps).items()
    ]
    return pl.concat([JUDGED_SCHEMA.to_frame(), *judged])


def classify(gaps: pl.DataFrame) -> pl.DataFrame:
    """``gaps`` with ``state``, a :class:`GapState`, and ``reason``, one sentence with the numbers.

    Takes :data:`JUDGED_SCHEMA`, ``attempts`` (re-fetches made), ``failure`` (how the vendor failed at the last of
    them, such as ``HTTP 500``; null when it answered) and ``rejected`` (whether the vendor sent rows for it that
    broke a rule: no habit explains that).

    A re-fetch that was answered with nothing settles a run that the series' habits explain: no_trades, whether or
    not attempts remain. Anything else stays open while attempts remain, and is unfilled when they are used up.
    """
    attempts, failure = pl.col("attempts"), pl.col("failure")
    answered = (attempts > 0) & failure.is_null()
    left = attempts < MAX_ATTEMPTS
    made = pl.format(f"re-fetch {{}} of {MAX_ATTEMPTS}", attempts)
    rejected = pl.lit("the vendor sends rows that break a rule: see ohlcv_quarantine")
    cases = (
        (attempts == 0, GapState.OPEN, pl.lit("not re-fetched yet")),
        (
            answered & left & pl.col("rejected"),
            GapState.OPEN,
            pl.format("{} brought no sound bar: {}", made, rejected),
        ),
        (answered & pl.col("rejected"), GapState.UNFILLED, rejected),
        (answered & ~pl.col("is_loss"), GapState.NO_TRADES, _why_usual()),
        (answered & left, GapState.OPEN, pl.format("{} brought nothing: {}", made, _why_loss())),
        (answered, GapState.UNFILLED, _why_loss()),
        (left, GapState.OPEN, pl.format("the vendor failed at {}: {}", made, failure)),
        (pl.lit(value=True), GapState.UNFILLED, pl.format("the vendor failed at {}: {}", made, failure)),
    )
    return gaps.with_columns(
        state=pl.coalesce(pl.when(case).then(pl.lit(state.value)) for case, state, _ in cases),
        reason=pl.coalesce(pl.when(case).then(reason) for case, _, reason in cases),
    )


class SlotTraits(NamedTuple):
    """What earlier scans and refetches left on the slots of one series: a value for each slot."""

    attempts: Integers
    """How many refetches were made."""
    failure: Integers
    """The code of how the vendor failed at the last refetch; 0 when it answered."""
    is_explained: Flags
    """Known to be empty because nothing traded: a loss that begins beside the slot does not change that."""
    rejected: Flags
    """Empty, and the vendor sent rows for the slot that broke a rule."""


PIECE_SCHEMA: Final = pl.Schema(
    {
        **JUDGED_SCHEMA,
        "stretch_start": UTC_TIME,
        "stretch_end": UTC_TIME,
        "attempts": pl.Int64(),
        "failure": pl.Int64(),
        "is_explained": pl.Boolean(),
        "rejected": pl.Boolean(),
    }
)
"""Pieces of gaps: all slots of a piece have the same :class:`SlotTraits`.

``stretch_start`` and ``stretch_end`` are the edges of the gap that a piece is part of. What was judged of the whole gap holds
for its pieces.
"""


def split_gaps(
    gaps: pl.DataFrame, expected: Mapping[Series, Slots], traits: Mapping[Series, SlotTraits]
) -> pl.DataFrame:
    """Divide ``gaps`` (:data:`JUDGED_SCHEMA`) where the traits of neighbouring slots differ: :data:`PIECE_SCHEMA`."""
    by_series = _by_series(gaps)
    pieces: dict[Series, _Stretches] = {}
    rows, found = [], []
    for series, own in by_series.items():
        slots = expected[series]
        runs = _Stretches(*slots.positions(own))
        positions = each_position(*runs)
        of_missing = SlotTraits._make(values[positions] for values in traits[series])
        is_first = np.ones(len(positions), dtype=np.bool_)
        is_first[1:] = np.any([values[1:] != values[:-1] for values in of_missing], axis=0)
        is_first[np.cumsum(runs.ends - runs.starts)[:-1]] = True
        starts = np.flatnonzero(is_first)
        sizes = np.diff(np.append(starts, len(positions)))
        pieces[series] = _Stretches(positions[starts], positions[starts] + sizes)
        of_stretch = np.repeat(np.arange(own.height), runs.ends - runs.starts)[starts]
        rows.append(own[of_stretch])
        found.append(
            pl.DataFrame(
                {
                    **{name: values[starts] for name, values in of_missing._asdict().items()},
                    "missing_base": _base_slots_in(pieces[series], slots),
                }
            )
        )
    if not rows:
        return PIECE_SCHEMA.to_frame()
    whole = pl.concat(rows).select(
        pl.exclude(*GAP_SCHEMA, "missing_base"), stretch_start="gap_start", stretch_end="gap_end"
    )
    divided = pl.concat([_frame(pieces, expected), whole, pl.concat(found)], how="horizontal")
    return divided.select(PIECE_SCHEMA.names())


def gaps_of_flags(flags: Mapping[Series, Flags], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    """Maximal runs of flagged slots, as :data:`GAP_SCHEMA`."""
    return _frame(
        {one: _runs(np.flatnonzero(flagged), expected[one]) for one, flagged in flags.items()}, expected
    )


class _Stretches(NamedTuple):
    """Runs of slots as positions: of the first, and behind the last."""

    starts: Integers
    ends: Integers


_NONE: Final = np.zeros(0, dtype=np.int64)


def _runs(positions: Integers, slots: Slots) -> _Stretches:
    """The maximal runs of ``positions``, ascending, without a slot and without a hole in between."""
    is_break = np.diff(positions) > 1
    beside = np.flatnonzero(~is_break)
    is_break[beside] = slots.ends_before_a_hole(positions[beside])
    breaks = np.flatnonzero(is_break)
    return _Stretches(
        positions[np.concatenate([[0], breaks + 1])] if len(positions) else positions,
        positions[np.concatenate([breaks, [-1]])] + 1 if len(positions) else positions,
    )


def _base_slots_in(runs: _Stretches, slots: Slots) -> Integers:
    """How many base slots each of the ``runs`` of slots holds."""
    if slots.timeframe.is_base:
        return runs.ends - runs.starts
    edges = np.stack([slots.opens[runs.starts], slots.closes(runs.ends - 1)], axis=1).ravel()
    return np.diff(base_slots_before(edges, slots.timeframe, slots.calendar))[::2]


def _covered(starts: Integers, ends: Integers, length: int) -> Flags:
    """Whether each of ``length`` positions lies in one of the runs."""
    steps = np.zeros(length + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return np.cumsum(steps[:-1]) > 0


def _by_series(gaps: pl.DataFrame) -> dict[Series, pl.DataFrame]:
    parts = gaps.sort("symbol", "timeframe", "gap_start").partition_by(
        "symbol", "timeframe", maintain_order=True
    )
    return {Series(part["symbol"][0], Timeframe(part["timeframe"][0])): part for part in parts}


def _frame(runs: Mapping[Series, _Stretches], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    grids: dict[tuple[Timeframe, TradingCalendar], list[pl.DataFrame]] = {}
    for series, (starts, ends) in runs.items():
        slots = expected[series]
        grids.setdefault((slots.timeframe, slots.calendar), []).append(
            pl.DataFrame(
                {
                    "gap_start": slots.opens[starts],
                    "last": slots.opens[ends - 1],
                    "missing_bars": ends - starts,
                }
            ).with_columns(symbol=pl.lit(series.symbol), timeframe=pl.lit(series.timeframe.value))
        )
    frames = [
        pl.concat(parts)
        .with_columns(pl.col("gap_start", "last").cast(UTC_TIME))
        .with_columns(
            gap_end=bucket_close(pl.col("last"), timeframe, calendar),
            day=local_day(pl.col("gap_start"), calendar),
        )
        .select(GAP_SCHEMA.names())
        for (timeframe, calendar), parts in grids.items()
    ]
    return pl.concat([GAP_SCHEMA.to_frame(), *frames]).sort("symbol", "timeframe", "gap_start")


class _Evidence(NamedTuple):
    """What lies around each gap, the gap itself left out."""

    seen: Integers
    """Base slots."""
    bars: Integers
    """Base slots with a bar."""


def _judge_series(gaps: pl.DataFrame, stored: StoredBars | None, slots: Slots) -> pl.DataFrame:
    pieces = _Stretches(*slots.positions(gaps))
    edges = gaps.select(pl.col("gap_start", "gap_end").cast(UTC_TIME).to_physical()).to_numpy()
    missing_base = np.diff(base_slots_before(edges.ravel(), slots.timeframe, slots.calendar))[::2]
    # Gaps with nothing but days between them that were never fetched are judged as one run.
    first_pieces = np.flatnonzero(np.append(True, pieces.starts[1:] != pieces.ends[:-1]))
    stretch_of_piece = np.repeat(
        np.arange(len(first_pieces)), np.diff(np.append(first_pieces, len(pieces.starts)))
    )
    runs = _Stretches(pieces.starts[first_pieces], pieces.ends[np.append(first_pieces[1:] - 1, -1)])
    missing = np.add.reduceat(missing_base, first_pieces)
    capacity, bars = _base_slots_and_bars(slots, stored)
    wanted = _evidence_wanted(slots)
    poor = _poor_sessions(slots, capacity, bars)
    in_poor = _most_in(runs, poor)
    is_loss = in_poor > 0
    while True:
        lost = _covered(runs.starts[is_loss], runs.ends[is_loss], len(slots))
        evidence = _around(runs, np.where(lost, 0, capacity), np.where(lost, 0, bars), wanted)
        usual = _longest_usual_stretch(evidence, slots.timeframe, wanted)
        first = _incidents(runs, evidence)
        size = np.diff(np.append(first, len(missing)))
        incident = np.repeat(np.add.reduceat(missing, first), size)
        # No loss is taken back, so that this ends.
        found = is_loss | (incident > np.repeat(np.maximum.reduceat(usual, first), size))
        if np.array_equal(found, is_loss):
            break
        is_loss = found
    density = evidence.bars / np.maximum(evidence.seen, 1)
    is_known = (evidence.bars > 0)[stretch_of_piece]
    return gaps.with_columns(
        missing_base=missing_base,
        incident_base=np.maximum(incident, in_poor)[stretch_of_piece],
        density=pl.Series(density[stretch_of_piece]).set(pl.Series(~is_known), None),
        usual=pl.Series(usual[stretch_of_piece]).set(pl.Series(~is_known), None),
        is_loss=is_loss[stretch_of_piece],
    ).cast(JUDGED_SCHEMA)


def _poor_sessions(slots: Slots, capacity: Integers, bars: Integers) -> Integers:
    """How many base slots lack a bar in the session of each slot, 0 unless it has far fewer than it should."""
    if not slots.timeframe.is_intraday or not len(slots):
        return np.zeros(len(slots), dtype=np.int64)
    days = slots.days().to_physical().to_numpy()
    starts = np.flatnonzero(np.append(True, days[1:] != days[:-1]))
    total, stored = np.add.reduceat(capacity, starts), np.add.reduceat(bars, starts)
    is_poor = np.zeros(len(starts), dtype=np.bool_)
    # Twice: one poor session makes another look less so.
    for _ in range(2):
        expected, deviation = _expected_bars(total, np.where(is_poor, 0, stored), np.where(is_poor, 0, total))
        is_poor = stored < expected - _DEVIATIONS * deviation
    lacking = np.where(is_poor, total - stored, 0)
    return np.repeat(lacking, np.diff(np.append(starts, len(slots))))


def _expected_bars(total: Integers, stored: Integers, seen: Integers) -> tuple[Floats, Floats]:
    """Bars that each session should have by those around it, and the standard deviation of their number."""
    count, around = len(total), _EVIDENCE_SESSIONS[Timeframe.M1]
    place = np.arange(count)
    first = np.maximum(place - around, 0)
    last = np.minimum(place + 1 + around - (place - first), count)
    sums = (np.concatenate([[0], np.cumsum(each)]) for each in (stored, seen))
    others_stored, others_seen = (
        each[last] - each[first] - own for each, own in zip(sums, (stored, seen), strict=True)
    )
    density = others_stored / np.maximum(others_seen, 1)
    stays_empty = np.maximum(np.sqrt(1 - density), _SUREST_MINUTE)
    expected = density * total
    # Where nothing is empty, nothing clusters.
    clustering = (1 + stays_empty) / np.maximum(1 - stays_empty, 1e-9)
    variance = expected * (1 - density) * clustering + (_EVEN_CHANCE * expected) ** 2
    is_known = (others_seen > 0) & (last - first > _FEWEST_SESSIONS)
    return np.where(is_known, expected, 0), np.sqrt(variance)


def _most_in(runs: _Stretches, values: Integers) -> Integers:
    """The largest of ``values`` (one per slot) in each of ``runs``."""
    if not len(runs.starts):
        return runs.starts
    edges = np.stack([runs.starts, runs.ends], axis=1).ravel()
    most: Integers = np.maximum.reduceat(np.append(values, 0), edges)[::2]
    return most


def _base_slots_and_bars(slots: Slots, stored: StoredBars | None) -> tuple[Integers, Integers]:
    """How many base slots each slot holds, and how many of them have a bar."""
    every = np.arange(len(slots))
    capacity = _base_slots_in(_Stretches(every, every + 1), slots)
    bars = np.zeros_like(capacity)
    if stored is not None:
        has_bar = slots.stored(stored.times)
        if stored.base_bars is not None:
            base_bars = stored.base_bars[np.searchsorted(stored.times, slots.opens[has_bar])]
            # Extended hours count in base_bars, and are not expected.
            bars[has_bar] = np.minimum(base_bars, capacity[has_bar])
        elif slots.timeframe.is_base:
            bars[has_bar] = 1
        else:
            message = f"bars of {slots.timeframe} are judged by their base_bars: read that column too"
            raise ValueError(message)
    return capacity, bars


def _evidence_wanted(slots: Slots) -> int:
    sessions = _EVIDENCE_SESSIONS[slots.timeframe.base]
    if not slots.timeframe.is_intraday:
        return sessions
    return sessions * (_MINUTES_OF_A_DAY if slots.calendar.is_always_open else _MINUTES_OF_A_SESSION)


def _around(runs: _Stretches, capacity: Integers, bars: Integers, wanted: int) -> _Evidence:
    total, total_bars = (np.concatenate([[0], np.cumsum(each)]) for each in (capacity, bars))
    first = np.searchsorted(total, total[runs.starts] - wanted)
    before = total[runs.starts] - total[first]
    last = np.searchsorted(total, total[runs.ends] + wanted - before, side="right") - 1
    return _Evidence(
        before + total[last] - total[runs.ends],
        total_bars[runs.starts] - total_bars[first] + total_bars[last] - total_bars[runs.ends],
    )


def _longest_usual_stretch(evidence: _Evidence, timeframe: Timeframe, wanted: int) -> Integers:
    """In base slots; -1 where there is no bar to judge by."""
    empty = evidence.seen - evidence.bars
    share = empty / np.maximum(evidence.seen, 1)
    if timeframe.is_intraday:
        stays_empty = np.maximum(np.sqrt(share), _SUREST_MINUTE)
    else:
        is_complete = (empty <= _FEW_EMPTY_SESSIONS) | (share <= _SMALL_SHARE_OF_SESSIONS)
        stays_empty = np.where(is_complete, 0, share)
    # log 0 is -inf, and a run of 0 is then the longest; a share of 1 is no evidence and overwritten below.
    with np.errstate(divide="ignore", invalid="ignore"):
        longest = np.log(wanted * (1 - stays_empty) / _RARE) / -np.log(stays_empty)
    longest = np.where(evidence.bars > 0, np.floor(np.maximum(longest, 0)), -1)
    return longest.astype(np.int64)


def _incidents(runs: _Stretches, evidence: _Evidence) -> Integers:
    """The position of the first gap of each incident."""
    share = 1 - evidence.bars / np.maximum(evidence.seen, 1)
    stray = runs.starts[1:] - runs.ends[:-1]
    # An empty slot lies among so few others by chance with this probability at most.
    by_chance = stray * np.maximum(share[1:], share[:-1])
    apart = (stray > _STRAY_BARS) | (by_chance > _BY_CHANCE)
    return np.concatenate([[0], np.flatnonzero(apart) + 1])


def _count(column: str, noun: str | pl.Expr) -> pl.Expr:
    count = pl.col(column)
    word = pl.lit(noun) if isinstance(noun, str) else noun
    return pl.format("{} {}{}", count, word, pl.when(count == 1).then(pl.lit("")).otherwise(pl.lit("s")))


def _base() -> pl.Expr:
    days = [timeframe.value for timeframe in Timeframe if not timeframe.is_intraday]
    return pl.when(pl.col("timeframe").is_in(days)).then(pl.lit("session")).otherwise(pl.lit("minute"))


def _habit() -> pl.Expr:
    percent = pl.col("density") * 100
    shown = (
        pl.when(percent < 1)
        .then(percent.round_sig_figs(2).cast(pl.String))
        .otherwise(percent.round().cast(pl.Int64).cast(pl.String))
    )
    return pl.format("{} % of its {}s", shown, _base())


def _missing(adjective: str = "") -> pl.Expr:
    """The gap's own size: its bars and, where these are rolled up, the base slots that they hold."""
    minutes = _count("missing_base", _base())
    bars = pl.format("{} ({})", _count("missing_bars", f"{adjective}bar"), minutes)
    is_base = pl.col("timeframe").is_in([timeframe.value for timeframe in Timeframe if timeframe.is_base])
    return (
        pl.when(is_base)
        .then(_count("missing_bars", pl.format("{}{}", pl.lit(adjective), _base())))
        .otherwise(bars)
    )


def _why_usual() -> pl.Expr:
    run = _missing("empty ")
    thin = pl.format(
        "the vendor has no bar here; the series trades in {}, so a run of {} is usual (up to {})",
        _habit(),
        run,
        pl.col("usual"),
    )
    dense = pl.format(
        "the vendor has no bar here; {} can be a quiet moment or a trading halt (up to {}), even in a series"
        " that trades in {}",
        run,
        pl.col("usual"),
        _habit(),
    )
    is_dense = (_base() == "minute") & (pl.col("density") >= 1 - _SUREST_MINUTE**2)
    return pl.when(is_dense).then(dense).otherwise(thin)


def _why_loss() -> pl.Expr:
    longest = pl.format("where quiet runs last up to {}", _count("usual", _base()))
    return (
        pl.when(pl.col("density").is_null())
        .then(pl.format("{} missing, and the series has no bar to judge by", _missing()))
        .otherwise(
            pl.format(
                "{} missing{} from a series that has {}, {}: an outage at the vendor or the exchange",
                _missing(),
                pl.when(pl.col("incident_base") > pl.col("missing_base"))
                .then(pl.format(", {} in the whole incident,", _count("incident_base", _base())))
                .otherwise(pl.lit("")),
                _habit(),
                pl.when(pl.col("usual") > 0).then(longest).otherwise(pl.lit("so that none can be quiet")),
            )
        )
    )
