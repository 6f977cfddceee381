"""Gaps: maximal stretches of expected slots without a bar, and what each of them means.

Gaps are found as a set difference of sorted integers. A gap is judged by whether it is longer than the habits of its
series explain, so that a fund that trades in a fifth of its minutes does not raise an alarm every minute, and a liquid
stock that loses an hour does.

The evidence of a gap is the slots before it (20 sessions, or 250 for day and week bars; where a history is too short,
slots after it as well), without the gap itself. Everything is counted in base slots, regular minutes or sessions, so
that an empty hour bar is 60 empty minutes and is judged like them. Let the evidence have ``N`` base slots, of which the
share ``d`` has a bar, and let ``q`` be the chance that a slot stays empty after an empty slot. Then N·(1-q)·q^n
stretches of n or more empty slots are expected in as much evidence. A stretch is *usual* while that number is 1/100 or
more; a longer one is a loss.

- Minutes: trading clusters. In the thinner half of a session a series trades at half its mean rate, hence
  ``q = sqrt(1-d)`` and not ``1-d``. No minute is surer to have a bar than a coin flip, ``q >= 1/2``: that excuses 18
  minutes in the densest stock, and so the trading halts of 5, 10 and 15 minutes, but not an hour.
- Sessions do not cluster: ``q = 1-d``. A few empty sessions are more likely lost than quiet: with up to two, or up to
  2 %, the series counts as complete, and each of its missing bars is a loss.
- Days that were never fetched do not count: no gap contains them, they are not evidence, and the slots on both sides of
  them are judged as neighbours.
- A loss is not evidence of thin trading: what is judged a loss leaves the evidence, and the rest is judged again until
  nothing changes. A hole of months does not excuse the next hole.
- Stretches with up to five stray bars between them are one incident and judged by their sum, unless the series is so
  thin that stretches lie as close by chance.
- A session with far fewer bars than the 20 sessions around it lead to expect (by six standard deviations, which allow
  for clustering and for an even chance of 5 %) is a loss as a whole, wherever its bars lie.
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
    from collections.abc import Mapping, Sequence

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
"""The gaps of any number of series, sorted by symbol, timeframe and start.

``gap_start`` is the open of the first missing slot, ``gap_end`` the close of the last; between them lie
``missing_bars`` expected slots, all of them empty. ``day`` is the local date of ``gap_start``.
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
"""The gaps with the evidence for and against a loss.

``missing_base`` counts the gap's base slots (regular minutes, or sessions), ``incident_base`` those of its
whole incident. ``density`` is the share of the base slots of the evidence that have a bar, and ``usual`` the longest
stretch of empty base slots that it explains; both are null when the series has no bar to judge by, and the gap then
counts as a loss.
"""

MAX_ATTEMPTS: Final = 2
"""The number of refetches of a gap."""

SETTLING: Final = timedelta(minutes=20)
"""The time after its close in which a bar is not yet due: the vendor's delayed plans answer 15 minutes late."""


class GapState(StrEnum):
    """The state of a gap."""

    OPEN = "open"
    """The bars are missing, and refetch attempts remain."""
    FILLED = "filled"
    """The bars have arrived."""
    NO_TRADES = "no_trades"
    """A refetch found no bars, and the habits of the series explain that."""
    UNFILLED = "unfilled"
    """The attempts are used up, and the gap is a loss or the vendor failed."""


LOSSES: Final = (GapState.OPEN.value, GapState.UNFILLED.value)
"""The states of an unexplained gap, whose bars count as lost."""


EVIDENCE: Final = {Timeframe.M1: timedelta(days=40), Timeframe.D1: timedelta(days=380)}
"""How far back the habits of a series are read, by base: somewhat more than the sessions that judging uses."""
_EVIDENCE_SESSIONS: Final = {Timeframe.M1: 20, Timeframe.D1: 250}
"""The number of sessions of evidence, by base."""
_MINUTES_PER_SESSION: Final = 390
_MINUTES_PER_DAY: Final = 1440
_RARE: Final = 0.01
_SUREST_MINUTE: Final = 0.5
_FEW_EMPTY_SESSIONS, _SMALL_SHARE_OF_SESSIONS = 2, 0.02
_STRAY_BARS: Final = 5
_BY_CHANCE: Final = 0.05
_DEVIATIONS: Final = 6
_EVEN_CHANCE: Final = 0.05
_FEWEST_SESSIONS: Final = 3
"""The fewest other sessions that a session is compared with."""


def find_gaps(stored: Mapping[Series, StoredBars], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    """Find the gaps of each series of ``expected``, as :data:`GAP_SCHEMA`.

    Two missing slots are neighbours when no slot of the calendar lies between them: a gap continues over closed
    hours, weekends and holidays, and ends at days that ``expected`` leaves out. Bars outside the expected slots are ignored;
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


def slots_in_gaps(gaps: pl.DataFrame, expected: Mapping[Series, Slots]) -> dict[Series, Flags]:
    """Whether each expected slot of each series lies in one of ``gaps`` (symbol, timeframe, gap_start, gap_end)."""
    by_series = _split_by_series(gaps)
    inside = {}
    for series, slots in expected.items():
        stretches = (
            _Stretches(*slots.positions(by_series[series]))
            if series in by_series
            else _Stretches(_NONE, _NONE)
        )
        inside[series] = _flag_positions(stretches, len(slots))
    return inside


def judge(
    gaps: pl.DataFrame, stored: Mapping[Series, StoredBars], expected: Mapping[Series, Slots]
) -> pl.DataFrame:
    """Judge ``gaps`` (:data:`GAP_SCHEMA`) by the evidence of their series, as :data:`JUDGED_SCHEMA`.

    ``gaps`` must hold every gap of its series in ``expected``, or incidents and earlier losses are overlooked.
    ``expected`` and ``stored`` reach as far before the gaps as there is evidence to use; a gap may begin before them.

    Raises:
        ValueError: Bars of a rolled-up timeframe come without their ``base_bars``.
    """
    judged = [
        _judge_series(part, stored.get(series), expected[series])
        for series, part in _split_by_series(gaps).items()
    ]
    return pl.concat([JUDGED_SCHEMA.to_frame(), *judged])


def classify(gaps: pl.DataFrame) -> pl.DataFrame:
    """Add to ``gaps`` a ``state``, which is a :class:`GapState`, and a ``reason``, one sentence with the numbers.

    ``gaps`` has the columns of :data:`JUDGED_SCHEMA`, ``attempts`` (the number of refetches), ``failure`` (how the vendor
    failed at the last refetch, such as ``HTTP 500``; null when it answered) and ``quarantined`` (whether the vendor sent
    rows for the gap that broke a rule, which no habit explains).

    A gap that the habits of the series explain is no_trades after one refetch without a bar, whether or not attempts
    remain. Any other gap stays open while attempts remain, and is unfilled when they are used up.
    """
    attempts, failure = pl.col("attempts"), pl.col("failure")
    answered = (attempts > 0) & failure.is_null()
    may_retry = attempts < MAX_ATTEMPTS
    refetch = pl.format(f"refetch {{}} of {MAX_ATTEMPTS}", attempts)
    quarantined = pl.lit("the vendor sends rows that break a rule: see ohlcv_quarantine")
    cases = (
        (attempts == 0, GapState.OPEN, pl.lit("not refetched yet")),
        (
            answered & may_retry & pl.col("quarantined"),
            GapState.OPEN,
            pl.format("{} returned no sound bar: {}", refetch, quarantined),
        ),
        (answered & pl.col("quarantined"), GapState.UNFILLED, quarantined),
        (answered & ~pl.col("is_loss"), GapState.NO_TRADES, _explain_usual()),
        (answered & may_retry, GapState.OPEN, pl.format("{} returned no bar: {}", refetch, _explain_loss())),
        (answered, GapState.UNFILLED, _explain_loss()),
        (may_retry, GapState.OPEN, pl.format("the vendor failed at {}: {}", refetch, failure)),
        (pl.lit(value=True), GapState.UNFILLED, pl.format("the vendor failed at {}: {}", refetch, failure)),
    )
    return gaps.with_columns(
        state=pl.coalesce(pl.when(case).then(pl.lit(state.value)) for case, state, _ in cases),
        reason=pl.coalesce(pl.when(case).then(reason) for case, _, reason in cases),
    )


class SlotTraits(NamedTuple):
    """The traits of the slots of one series that earlier scans and refetches left: a value for each slot."""

    attempts: Integers
    """The number of refetches."""
    failure: Integers
    """The code of the vendor's failure at the last refetch; 0 when the vendor answered."""
    is_explained: Flags
    """Whether the slot is known to be empty because nothing traded: a loss that begins beside it does not change that."""
    quarantined: Flags
    """Whether the slot is empty, and the vendor sent rows for it that broke a rule."""


def judge_pieces(
    missing: Mapping[Series, Flags],
    stored: Mapping[Series, StoredBars],
    expected: Mapping[Series, Slots],
    traits: Mapping[Series, SlotTraits],
    failures: Sequence[str | None],
) -> pl.DataFrame:
    """Judge each gap of the ``missing`` slots as a whole, and give each of its pieces a state and a reason.

    ``failures`` are the texts that the codes of :attr:`SlotTraits.failure` stand for; see :func:`judge` for the rest.

    Returns:
        :data:`PIECE_SCHEMA` with the text of ``failure``, and with ``state`` and ``reason``.
    """
    pieces = split_gaps(judge(gaps_of_flags(missing, expected), stored, expected), expected, traits)
    return classify(
        pieces.with_columns(
            is_loss=pl.col("is_loss") & ~pl.col("is_explained"),
            failure=pl.Series(failures, dtype=pl.String()).gather(pieces["failure"]),
        )
    )


PIECE_SCHEMA: Final = pl.Schema(
    {
        **JUDGED_SCHEMA,
        "stretch_start": UTC_TIME,
        "stretch_end": UTC_TIME,
        "attempts": pl.Int64(),
        "failure": pl.Int64(),
        "is_explained": pl.Boolean(),
        "quarantined": pl.Boolean(),
    }
)
"""The pieces of gaps: all slots of a piece have the same :class:`SlotTraits`.

``stretch_start`` and ``stretch_end`` are the edges of the gap that a piece is part of. The judgement of the gap applies to
its pieces.
"""


def split_gaps(
    gaps: pl.DataFrame, expected: Mapping[Series, Slots], traits: Mapping[Series, SlotTraits]
) -> pl.DataFrame:
    """Divide ``gaps`` (:data:`JUDGED_SCHEMA`) where the traits of neighbouring slots differ: :data:`PIECE_SCHEMA`."""
    by_series = _split_by_series(gaps)
    pieces: dict[Series, _Stretches] = {}
    rows, found = [], []
    for series, own in by_series.items():
        slots = expected[series]
        stretches = _Stretches(*slots.positions(own))
        positions = each_position(*stretches)
        of_missing = SlotTraits._make(values[positions] for values in traits[series])
        is_first = np.ones(len(positions), dtype=np.bool_)
        is_first[1:] = np.any([values[1:] != values[:-1] for values in of_missing], axis=0)
        is_first[np.cumsum(stretches.ends - stretches.starts)[:-1]] = True
        starts = np.flatnonzero(is_first)
        sizes = np.diff(np.append(starts, len(positions)))
        pieces[series] = _Stretches(positions[starts], positions[starts] + sizes)
        of_stretch = np.repeat(np.arange(own.height), stretches.ends - stretches.starts)[starts]
        rows.append(own[of_stretch])
        found.append(
            pl.DataFrame(
                {
                    **{name: values[starts] for name, values in of_missing._asdict().items()},
                    "missing_base": _count_base_slots(pieces[series], slots),
                }
            )
        )
    if not rows:
        return PIECE_SCHEMA.to_frame()
    judged = pl.concat(rows).select(
        pl.exclude(*GAP_SCHEMA, "missing_base"), stretch_start="gap_start", stretch_end="gap_end"
    )
    divided = pl.concat([_to_frame(pieces, expected), judged, pl.concat(found)], how="horizontal")
    return divided.select(PIECE_SCHEMA.names())


def gaps_of_flags(flags: Mapping[Series, Flags], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    """Return the maximal stretches of flagged slots, as :data:`GAP_SCHEMA`."""
    stretches = {
        series: _find_stretches(np.flatnonzero(flagged), expected[series])
        for series, flagged in flags.items()
    }
    return _to_frame(stretches, expected)


class _Stretches(NamedTuple):
    """Stretches of slots, as the position of the first slot and the position behind the last."""

    starts: Integers
    ends: Integers


_NONE: Final = np.zeros(0, dtype=np.int64)


def _find_stretches(positions: Integers, slots: Slots) -> _Stretches:
    """Join ascending ``positions`` into maximal stretches, with neither a slot nor a hole between two of them."""
    is_break = np.diff(positions) > 1
    adjacent = np.flatnonzero(~is_break)
    is_break[adjacent] = slots.ends_before_a_hole(positions[adjacent])
    breaks = np.flatnonzero(is_break)
    return _Stretches(
        positions[np.concatenate([[0], breaks + 1])] if len(positions) else positions,
        positions[np.concatenate([breaks, [-1]])] + 1 if len(positions) else positions,
    )


def _count_base_slots(stretches: _Stretches, slots: Slots) -> Integers:
    """Count the base slots in each of ``stretches``."""
    if slots.timeframe.is_base:
        return stretches.ends - stretches.starts
    edges = np.stack([slots.opens[stretches.starts], slots.closes(stretches.ends - 1)], axis=1).ravel()
    return np.diff(base_slots_before(edges, slots.timeframe, slots.calendar))[::2]


def _flag_positions(stretches: _Stretches, length: int) -> Flags:
    """Whether each of ``length`` positions lies in one of ``stretches``."""
    steps = np.zeros(length + 1, dtype=np.int64)
    np.add.at(steps, stretches.starts, 1)
    np.add.at(steps, stretches.ends, -1)
    return np.cumsum(steps[:-1]) > 0


def _split_by_series(gaps: pl.DataFrame) -> dict[Series, pl.DataFrame]:
    parts = gaps.sort("symbol", "timeframe", "gap_start").partition_by(
        "symbol", "timeframe", maintain_order=True
    )
    return {Series(part["symbol"][0], Timeframe(part["timeframe"][0])): part for part in parts}


def _to_frame(stretches: Mapping[Series, _Stretches], expected: Mapping[Series, Slots]) -> pl.DataFrame:
    grids: dict[tuple[Timeframe, TradingCalendar], list[pl.DataFrame]] = {}
    for series, (starts, ends) in stretches.items():
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
    """The evidence around each gap, without the gap itself."""

    slots: Integers
    """The number of base slots."""
    bars: Integers
    """The number of base slots with a bar."""


def _judge_series(gaps: pl.DataFrame, stored: StoredBars | None, slots: Slots) -> pl.DataFrame:
    pieces = _Stretches(*slots.positions(gaps))
    edges = gaps.select(pl.col("gap_start", "gap_end").cast(UTC_TIME).to_physical()).to_numpy()
    missing_base = np.diff(base_slots_before(edges.ravel(), slots.timeframe, slots.calendar))[::2]
    # Gaps that only days without a fetch separate are judged as one stretch.
    first_pieces = np.flatnonzero(np.append(True, pieces.starts[1:] != pieces.ends[:-1]))
    stretch_of_piece = np.repeat(
        np.arange(len(first_pieces)), np.diff(np.append(first_pieces, len(pieces.starts)))
    )
    stretches = _Stretches(pieces.starts[first_pieces], pieces.ends[np.append(first_pieces[1:] - 1, -1)])
    missing = np.add.reduceat(missing_base, first_pieces)
    capacity, bars = _count_base_slots_and_bars(slots, stored)
    wanted = _evidence_wanted(slots)
    poor = _find_poor_sessions(slots, capacity, bars)
    in_poor = _largest_in(stretches, poor)
    is_loss = in_poor > 0
    while True:
        lost = _flag_positions(_Stretches(stretches.starts[is_loss], stretches.ends[is_loss]), len(slots))
        evidence = _evidence_around(stretches, np.where(lost, 0, capacity), np.where(lost, 0, bars), wanted)
        usual = _longest_usual_stretch(evidence, slots.timeframe, wanted)
        first = _find_incidents(stretches, evidence)
        size = np.diff(np.append(first, len(missing)))
        incident = np.repeat(np.add.reduceat(missing, first), size)
        # A loss stays a loss, so that the loop ends.
        found = is_loss | (incident > np.repeat(np.maximum.reduceat(usual, first), size))
        if np.array_equal(found, is_loss):
            break
        is_loss = found
    density = evidence.bars / np.maximum(evidence.slots, 1)
    is_known = (evidence.bars > 0)[stretch_of_piece]
    return gaps.with_columns(
        missing_base=missing_base,
        incident_base=np.maximum(incident, in_poor)[stretch_of_piece],
        density=pl.Series(density[stretch_of_piece]).set(pl.Series(~is_known), None),
        usual=pl.Series(usual[stretch_of_piece]).set(pl.Series(~is_known), None),
        is_loss=is_loss[stretch_of_piece],
    ).cast(JUDGED_SCHEMA)


def _find_poor_sessions(slots: Slots, capacity: Integers, bars: Integers) -> Integers:
    """Count the base slots without a bar in the session of each slot; 0 unless the session has far fewer than it should."""
    if not slots.timeframe.is_intraday or not len(slots):
        return np.zeros(len(slots), dtype=np.int64)
    days = slots.days().to_physical().to_numpy()
    starts = np.flatnonzero(np.append(True, days[1:] != days[:-1]))
    total, stored = np.add.reduceat(capacity, starts), np.add.reduceat(bars, starts)
    is_poor = np.zeros(len(starts), dtype=np.bool_)
    # Twice: a poor session makes another one look less poor.
    for _ in range(2):
        expected, deviation = _expect_bars(total, np.where(is_poor, 0, stored), np.where(is_poor, 0, total))
        is_poor = stored < expected - _DEVIATIONS * deviation
    lacking = np.where(is_poor, total - stored, 0)
    return np.repeat(lacking, np.diff(np.append(starts, len(slots))))


def _expect_bars(total: Integers, stored: Integers, evidence: Integers) -> tuple[Floats, Floats]:
    """Return the number of bars that each session should have by the sessions around it, and its standard deviation."""
    count, around = len(total), _EVIDENCE_SESSIONS[Timeframe.M1]
    index = np.arange(count)
    first = np.maximum(index - around, 0)
    last = np.minimum(index + 1 + around - (index - first), count)
    sums = (np.concatenate([[0], np.cumsum(values)]) for values in (stored, evidence))
    others_stored, others_evidence = (
        running[last] - running[first] - own for running, own in zip(sums, (stored, evidence), strict=True)
    )
    density = others_stored / np.maximum(others_evidence, 1)
    stays_empty = np.maximum(np.sqrt(1 - density), _SUREST_MINUTE)
    expected = density * total
    # Where nothing is empty, nothing clusters.
    clustering = (1 + stays_empty) / np.maximum(1 - stays_empty, 1e-9)
    variance = expected * (1 - density) * clustering + (_EVEN_CHANCE * expected) ** 2
    is_known = (others_evidence > 0) & (last - first > _FEWEST_SESSIONS)
    return np.where(is_known, expected, 0), np.sqrt(variance)


def _largest_in(stretches: _Stretches, values: Integers) -> Integers:
    """Return the largest of ``values`` (one per slot) in each of ``stretches``."""
    if not len(stretches.starts):
        return stretches.starts
    edges = np.stack([stretches.starts, stretches.ends], axis=1).ravel()
    largest: Integers = np.maximum.reduceat(np.append(values, 0), edges)[::2]
    return largest


def _count_base_slots_and_bars(slots: Slots, stored: StoredBars | None) -> tuple[Integers, Integers]:
    """Count the base slots that each slot holds, and those of them that have a bar."""
    every = np.arange(len(slots))
    capacity = _count_base_slots(_Stretches(every, every + 1), slots)
    bars = np.zeros_like(capacity)
    if stored is not None:
        has_bar = slots.stored(stored.times)
        if stored.base_bars is not None:
            base_bars = stored.base_bars[np.searchsorted(stored.times, slots.opens[has_bar])]
            # Bars of extended hours count in base_bars, but are not expected.
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
    return sessions * (_MINUTES_PER_DAY if slots.calendar.is_always_open else _MINUTES_PER_SESSION)


def _evidence_around(stretches: _Stretches, capacity: Integers, bars: Integers, wanted: int) -> _Evidence:
    total, total_bars = (np.concatenate([[0], np.cumsum(values)]) for values in (capacity, bars))
    first = np.searchsorted(total, total[stretches.starts] - wanted)
    before = total[stretches.starts] - total[first]
    last = np.searchsorted(total, total[stretches.ends] + wanted - before, side="right") - 1
    return _Evidence(
        before + total[last] - total[stretches.ends],
        total_bars[stretches.starts] - total_bars[first] + total_bars[last] - total_bars[stretches.ends],
    )


def _longest_usual_stretch(evidence: _Evidence, timeframe: Timeframe, wanted: int) -> Integers:
    """Return the longest stretch that each evidence explains, in base slots; -1 where there is no bar to judge by."""
    empty = evidence.slots - evidence.bars
    share = empty / np.maximum(evidence.slots, 1)
    if timeframe.is_intraday:
        stays_empty = np.maximum(np.sqrt(share), _SUREST_MINUTE)
    else:
        is_complete = (empty <= _FEW_EMPTY_SESSIONS) | (share <= _SMALL_SHARE_OF_SESSIONS)
        stays_empty = np.where(is_complete, 0, share)
    # log 0 is -inf, and a stretch of 0 is then the longest; a share of 1 is not evidence and is overwritten below.
    with np.errstate(divide="ignore", invalid="ignore"):
        longest = np.log(wanted * (1 - stays_empty) / _RARE) / -np.log(stays_empty)
    longest = np.where(evidence.bars > 0, np.floor(np.maximum(longest, 0)), -1)
    return longest.astype(np.int64)


def _find_incidents(stretches: _Stretches, evidence: _Evidence) -> Integers:
    """Return the position of the first gap of each incident."""
    share = 1 - evidence.bars / np.maximum(evidence.slots, 1)
    stray = stretches.starts[1:] - stretches.ends[:-1]
    # The largest probability that an empty slot lies this close by chance.
    by_chance = stray * np.maximum(share[1:], share[:-1])
    apart = (stray > _STRAY_BARS) | (by_chance > _BY_CHANCE)
    return np.concatenate([[0], np.flatnonzero(apart) + 1])


def _format_count(column: str, noun: str | pl.Expr) -> pl.Expr:
    count = pl.col(column)
    word = pl.lit(noun) if isinstance(noun, str) else noun
    return pl.format("{} {}{}", count, word, pl.when(count == 1).then(pl.lit("")).otherwise(pl.lit("s")))


def _name_base() -> pl.Expr:
    days = [timeframe.value for timeframe in Timeframe if not timeframe.is_intraday]
    return pl.when(pl.col("timeframe").is_in(days)).then(pl.lit("session")).otherwise(pl.lit("minute"))


def _format_habit() -> pl.Expr:
    percent = pl.col("density") * 100
    shown = (
        pl.when(percent < 1)
        .then(percent.round_sig_figs(2).cast(pl.String))
        .otherwise(percent.round().cast(pl.Int64).cast(pl.String))
    )
    return pl.format("{} % of its {}s", shown, _name_base())


def _format_missing(adjective: str = "") -> pl.Expr:
    """Format the size of each gap: its bars and, where these are rolled up, the base slots that they hold."""
    minutes = _format_count("missing_base", _name_base())
    bars = pl.format("{} ({})", _format_count("missing_bars", f"{adjective}bar"), minutes)
    is_base = pl.col("timeframe").is_in([timeframe.value for timeframe in Timeframe if timeframe.is_base])
    return (
        pl.when(is_base)
        .then(_format_count("missing_bars", pl.format("{}{}", pl.lit(adjective), _name_base())))
        .otherwise(bars)
    )


def _explain_usual() -> pl.Expr:
    size = _format_missing("empty ")
    thin = pl.format(
        "the vendor has no bar here; the series trades in {}, so a stretch of {} is usual (up to {})",
        _format_habit(),
        size,
        pl.col("usual"),
    )
    dense = pl.format(
        "the vendor has no bar here; {} can be a quiet moment or a trading halt (up to {}), even in a series"
        " that trades in {}",
        size,
        pl.col("usual"),
        _format_habit(),
    )
    is_dense = (_name_base() == "minute") & (pl.col("density") >= 1 - _SUREST_MINUTE**2)
    return pl.when(is_dense).then(dense).otherwise(thin)


def _explain_loss() -> pl.Expr:
    longest = pl.format("where quiet stretches last up to {}", _format_count("usual", _name_base()))
    return (
        pl.when(pl.col("density").is_null())
        .then(pl.format("{} missing, and the series has no bar to judge by", _format_missing()))
        .otherwise(
            pl.format(
                "{} missing{} from a series that has {}, {}: an outage at the vendor or the exchange",
                _format_missing(),
                pl.when(pl.col("incident_base") > pl.col("missing_base"))
                .then(pl.format(", {} in the whole incident,", _format_count("incident_base", _name_base())))
                .otherwise(pl.lit("")),
                _format_habit(),
                pl.when(pl.col("usual") > 0).then(longest).otherwise(pl.lit("so that none can be quiet")),
            )
        )
    )
