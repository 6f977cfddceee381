"""Scans of a series: what earlier scans recorded of its slots, and what a scan writes.

A scan begins with the known gaps and the stored bars (:class:`GapContext`), is judged again after each refetch of the
open gaps in its window, and ends with the rows that replace the known gaps. Attempts are counted by slot, so that a slot
that was never refetched does not inherit the attempts of its neighbours; neighbouring slots with the same history are one
row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME, bucket_open
from marketdata_assets.domain.calendar import microseconds, moment_of
from marketdata_assets.domain.completeness import DAILY_COMPLETENESS_SCHEMA, daily_completeness
from marketdata_assets.domain.gaps import (
    GAP_SCHEMA,
    MAX_ATTEMPTS,
    SETTLING,
    GapState,
    SlotTraits,
    gaps_of_flags,
    judge_pieces,
)
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import each_position, expected_by_series
from marketdata_assets.domain.windows import Window, hull

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.slots import Flags, Integers, Slots, StoredBars
    from marketdata_assets.domain.timeframe import Timeframe

KNOWN_GAP_SCHEMA: Final = pl.Schema(
    {
        **GAP_SCHEMA,
        "state": pl.String(),
        "attempts": pl.Int32(),
        "failure": pl.String(),
        "reason": pl.String(),
        "detected_at": UTC_TIME,
    }
)
"""Gaps as they are stored: ``state`` is a :class:`~marketdata_assets.domain.gaps.GapState`.

``attempts`` counts refetches, ``failure`` says how the vendor failed at the last refetch (null when it answered),
``reason`` explains the state, ``detected_at`` is when the first bar of the gap was found missing (UTC).
"""

_NEVER: Final = np.iinfo(np.int64).max
_KEY: Final = ("symbol", "timeframe")


class Refetch(NamedTuple):
    """A window that was requested because of a gap, for every series of ``symbol`` on ``base``."""

    symbol: str
    base: Timeframe
    window: Window
    failure: str | None
    """How the vendor failed; None when it answered."""


@dataclass(frozen=True, eq=False)
class _SlotHistory:
    """What earlier scans recorded of the slots of one series: a value for each slot."""

    traits: SlotTraits
    """The traits, whose ``failure`` is the index into the list of failures of the scan."""
    detected: Integers
    """When each slot was first found missing: microseconds since the epoch, in UTC; ``_NEVER`` when it was not."""
    missed: Flags
    """Whether each slot was known to be missing when the scan began, or was found missing by its first reading."""


class ScanResult(NamedTuple):
    """The result of a scan, which is written."""

    spans: dict[Series, Window]
    """The window of each series in which the scan replaces stored rows: known gaps that overlap the window, and the days
    that it touches."""
    gaps: pl.DataFrame
    """The gaps, as :data:`KNOWN_GAP_SCHEMA`."""
    days: dict[Series, tuple[date, date]]
    """The first and the last local day that the window of each series touches."""
    daily: pl.DataFrame
    """The completeness of these days, as ``DAILY_COMPLETENESS_SCHEMA``."""
    begun: datetime
    """When the scan began to read, by the database's clock: what was stored from then on may be missing in it."""


@dataclass(frozen=True, eq=False)
class GapContext:
    """The data that a scan of series of one base reads: each series in its window, and the evidence around it.

    Attributes:
        windows: The window of each scanned series, whole local days: gaps outside it are evidence, and are not refetched.
        around: The window that was read of each series: whole local days that hold its scanned window, the evidence,
            and every known gap that reaches into them.
        classes: The asset class of each series.
        first_bars: The open of the first bar of each series, where it is known (UTC).
        requested: The windows that were ever requested of each series, in ``around``.
        as_of: The present of the scan, UTC: bars that may still arrive then are not expected.
        begun: When the scan began to read, by the database's clock.
        known: ``KNOWN_GAP_SCHEMA``: the stored gaps that are not filled.
        stored: The stored bars of each series in ``around``.
        quarantined: ``symbol``, ``timeframe`` (a base) and ``time`` (UTC) of the quarantined rows; None without any.
    """

    windows: Mapping[Series, Window]
    around: Mapping[Series, Window]
    classes: Mapping[Series, AssetClass]
    first_bars: Mapping[Series, datetime]
    requested: Mapping[Series, Sequence[Window]]
    as_of: datetime
    begun: datetime
    known: pl.DataFrame
    stored: Mapping[Series, StoredBars]
    quarantined: pl.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class GapScan:
    """The gaps of a :class:`GapContext`, as they are after the refetches made so far.

    Attributes:
        context: The data that was read; ``stored`` are the bars that are stored now.
        slots: The expected slots of each series.
        missing: Whether each slot has no bar now.
        gaps: ``KNOWN_GAP_SCHEMA`` with ``stretch_start`` and ``stretch_end``, the edges of the judged gap that a row is part of.
        open_windows: The open gaps in the scanned window of each series, which a refetch requests.
        histories: The earlier history of the slots of each series.
        failures: How the vendor failed, each text once; the first is None, which stands for an answer.
    """

    context: GapContext
    slots: Mapping[Series, Slots]
    missing: Mapping[Series, Flags]
    gaps: pl.DataFrame
    open_windows: Mapping[Series, Sequence[Window]]
    histories: Mapping[Series, _SlotHistory]
    failures: tuple[str | None, ...]


def scan_gaps(context: GapContext) -> GapScan:
    """Find and judge the gaps of ``context``, with what earlier scans and refetches recorded of their slots."""
    slots = slots_to_scan(context)
    failures: list[str | None] = [None, *context.known["failure"].drop_nulls().unique(maintain_order=True)]
    rows = context.known.partition_by(*_KEY, as_dict=True)
    quarantined = _flag_quarantined(context.quarantined, slots)
    missing = {series: expected.missing(context.stored.get(series)) for series, expected in slots.items()}
    histories = {
        series: _read_history(
            rows.get((series.symbol, series.timeframe.value)),
            expected,
            failures,
            quarantined=quarantined[series],
            missing=missing[series],
        )
        for series, expected in slots.items()
    }
    return _judge_scan(context, slots, missing, histories, tuple(failures))


def slots_to_scan(context: GapContext) -> dict[Series, Slots]:
    """Return the slots expected of each series in its window around, as far as the window was ever requested.

    Days with a bar count as requested, since bars may be stored in other ways. No slot is expected before the first bar
    of the series, nor while its bar may still arrive.
    """
    whole = hull(context.around.values())
    every = expected_by_series(context.classes, whole, context.as_of - SETTLING, context.first_bars)
    slots = {}
    for series, window in context.around.items():
        inside = every[series].within(window.start, window.end)
        stored = context.stored.get(series)
        times = np.zeros(0, dtype=np.int64) if stored is None else stored.times
        slots[series] = inside.requested_in(context.requested.get(series, ()), inside.on_days_of(times))
    return slots


def rescan(scan: GapScan, refetches: Iterable[Refetch], stored: Mapping[Series, StoredBars]) -> GapScan:
    """Judge the gaps of ``scan`` again after ``refetches`` of its open gaps, with the bars that are ``stored`` now."""
    failures = list(scan.failures)
    requests: dict[tuple[str, Timeframe], list[Refetch]] = {}
    for refetch in refetches:
        requests.setdefault((refetch.symbol, refetch.base), []).append(refetch)
        if refetch.failure not in failures:
            failures.append(refetch.failure)
    histories = dict(scan.histories)
    for series, windows in scan.open_windows.items():
        slots, history = scan.slots[series], histories[series]
        is_due = _flag_inside(slots, windows)
        attempts, failure = history.traits.attempts.copy(), history.traits.failure.copy()
        for refetch in requests.get((series.symbol, series.timeframe.base), ()):
            answered = is_due & _flag_inside(slots, [refetch.window])
            attempts[answered] = np.minimum(attempts[answered] + 1, MAX_ATTEMPTS)
            failure[answered] = failures.index(refetch.failure)
            is_due &= ~answered
        histories[series] = replace(
            history, traits=history.traits._replace(attempts=attempts, failure=failure)
        )
    missing = {series: expected.missing(stored.get(series)) for series, expected in scan.slots.items()}
    return _judge_scan(replace(scan.context, stored=stored), scan.slots, missing, histories, tuple(failures))


def settle(scan: GapScan) -> ScanResult:
    """Decide what ``scan`` writes: the gaps and days of its windows, with each gap that reaches beyond a window whole."""
    context = scan.context
    filled = _find_filled(scan)
    judged = scan.gaps.select(*_KEY, gap_start="stretch_start", gap_end="stretch_end")
    spans = _widen_windows(context.windows, [context.known, judged, filled])
    daily = daily_completeness(context.stored, scan.slots, scan.gaps)
    days = {
        series: (
            scan.slots[series].calendar.local_day(span.start),
            scan.slots[series].calendar.last_day_before(span.end),
        )
        for series, span in spans.items()
    }
    rows = pl.concat([scan.gaps.select(KNOWN_GAP_SCHEMA.names()).cast(KNOWN_GAP_SCHEMA), filled])
    return ScanResult(spans, _select_overlapping(rows, spans), days, _select_days(daily, days), context.begun)


def _judge_scan(
    context: GapContext,
    slots: Mapping[Series, Slots],
    missing: Mapping[Series, Flags],
    histories: Mapping[Series, _SlotHistory],
    failures: tuple[str | None, ...],
) -> GapScan:
    """Judge the ``missing`` slots, with their earlier ``histories``."""
    traits = {series: history.traits for series, history in histories.items()}
    pieces = judge_pieces(missing, context.stored, slots, traits, failures)
    gaps = pieces.with_columns(
        pl.col("attempts").cast(pl.Int32), detected_at=_first_detected(pieces, slots, histories)
    ).select(*KNOWN_GAP_SCHEMA, "stretch_start", "stretch_end")
    return GapScan(context, slots, missing, gaps, _list_open(gaps, context.windows), histories, failures)


def _list_open(gaps: pl.DataFrame, windows: Mapping[Series, Window]) -> dict[Series, list[Window]]:
    """List the parts of the open ones of ``gaps`` that lie in the window of each series."""
    due: dict[Series, list[Window]] = {}
    opened = gaps.filter(state=GapState.OPEN.value)
    for symbol, name, start, end in opened.select(*_KEY, "gap_start", "gap_end").iter_rows():
        series = Series.of(symbol, name)
        gap = Window(start.astimezone(UTC), end.astimezone(UTC))
        if (window := gap.intersection(windows[series])) is not None:
            due.setdefault(series, []).append(window)
    return due


def _find_filled(scan: GapScan) -> pl.DataFrame:
    """Find the stretches of slots that were missing when the scan began, or known to be, and have bars now."""
    slots = scan.slots
    arrived = {series: history.missed & ~scan.missing[series] for series, history in scan.histories.items()}
    gaps = gaps_of_flags(arrived, slots)
    return (
        gaps.with_columns(
            detected_at=_first_detected(gaps, slots, scan.histories),
            state=pl.lit(GapState.FILLED.value),
            attempts=_most_attempts(gaps, slots, scan.histories).cast(pl.Int32),
            failure=pl.lit(None, pl.String()),
            reason=pl.format(
                "{} bar{} arrived",
                "missing_bars",
                pl.when(pl.col("missing_bars") == 1).then(pl.lit("")).otherwise(pl.lit("s")),
            ),
        )
        .select(KNOWN_GAP_SCHEMA.names())
        .cast(KNOWN_GAP_SCHEMA)
    )


def _read_history(
    known: pl.DataFrame | None,
    slots: Slots,
    failures: list[str | None],
    *,
    quarantined: Flags,
    missing: Flags,
) -> _SlotHistory:
    """Spread the facts about the ``known`` gaps of one series over its slots."""
    attempts, failure = np.zeros(len(slots), dtype=np.int64), np.zeros(len(slots), dtype=np.int64)
    detected, is_explained = np.full(len(slots), _NEVER), np.zeros(len(slots), dtype=np.bool_)
    missed = missing.copy()
    if known is not None and known.height:
        first, last = slots.positions(known)
        sizes = last - first
        positions = each_position(first, last)
        codes = {text: code for code, text in enumerate(failures)}
        attempts[positions] = np.repeat(known["attempts"].to_numpy(), sizes)
        failure[positions] = np.repeat([codes[text] for text in known["failure"]], sizes)
        has_no_trades = (known["state"] == GapState.NO_TRADES.value).to_numpy()
        is_explained[positions] = np.repeat(has_no_trades, sizes)
        moments = known["detected_at"].cast(UTC_TIME).to_physical().fill_null(_NEVER).to_numpy()
        detected[positions] = np.repeat(moments, sizes)
        missed[positions] = True
    traits = SlotTraits(attempts, failure, is_explained, quarantined & missing)
    return _SlotHistory(traits, detected, missed)


def _flag_quarantined(quarantined: pl.DataFrame | None, slots: Mapping[Series, Slots]) -> dict[Series, Flags]:
    rows = {} if quarantined is None else quarantined.partition_by(*_KEY, as_dict=True)
    flags = {}
    for series, series_slots in slots.items():
        own = rows.get((series.symbol, series.timeframe.base.value))
        if own is None:
            flags[series] = np.zeros(len(series_slots), dtype=np.bool_)
            continue
        opens = own.select(
            bucket_open(pl.col("time").cast(UTC_TIME), series.timeframe, series_slots.calendar).to_physical()
        )
        flags[series] = series_slots.has_bar(np.unique(opens.to_series().to_numpy()))
    return flags


def _first_detected(
    gaps: pl.DataFrame, slots: Mapping[Series, Slots], histories: Mapping[Series, _SlotHistory]
) -> pl.Series:
    """Return when the first slot of each of ``gaps`` was found missing, in UTC; null when none was found before."""
    firsts = [
        np.minimum.reduceat(np.append(histories[series].detected, _NEVER), edges)[::2]
        for series, edges in _edges_by_series(gaps, slots)
    ]
    found = pl.Series(np.concatenate(firsts) if firsts else [], dtype=pl.Int64())
    return found.set(found == _NEVER, None).cast(UTC_TIME)


def _most_attempts(
    gaps: pl.DataFrame, slots: Mapping[Series, Slots], histories: Mapping[Series, _SlotHistory]
) -> pl.Series:
    """Return the largest number of refetches of a slot of each of ``gaps``."""
    largest = [
        np.maximum.reduceat(np.append(histories[series].traits.attempts, 0), edges)[::2]
        for series, edges in _edges_by_series(gaps, slots)
    ]
    return pl.Series(np.concatenate(largest) if largest else [], dtype=pl.Int64())


def _edges_by_series(gaps: pl.DataFrame, slots: Mapping[Series, Slots]) -> Iterator[tuple[Series, Integers]]:
    """Yield each series with the positions of the first slot of each gap and of the slot behind its last, alternately."""
    for (symbol, timeframe), own in gaps.partition_by(*_KEY, as_dict=True, maintain_order=True).items():
        series = Series.of(str(symbol), str(timeframe))
        yield series, np.stack(slots[series].positions(own), axis=1).ravel()


def _flag_inside(slots: Slots, windows: Iterable[Window]) -> Flags:
    inside = np.zeros(len(slots), dtype=np.bool_)
    for window in windows:
        first, last = np.searchsorted(slots.opens, [microseconds(window.start), microseconds(window.end)])
        inside[first:last] = True
    return inside


def _widen_windows(windows: Mapping[Series, Window], frames: Sequence[pl.DataFrame]) -> dict[Series, Window]:
    """Widen each window by the gaps of ``frames`` that reach into it, until it cuts none."""
    edges: dict[Series, list[Integers]] = {}
    for frame in frames:
        for (symbol, timeframe), own in frame.partition_by(*_KEY, as_dict=True).items():
            series = Series.of(str(symbol), str(timeframe))
            physical = own.select(pl.col("gap_start", "gap_end").cast(UTC_TIME).to_physical()).to_numpy()
            edges.setdefault(series, []).append(physical)
    spans = {}
    for series, window in windows.items():
        if series not in edges:
            spans[series] = window
            continue
        gaps = np.concatenate(edges[series])
        low, high = microseconds(window.start), microseconds(window.end)
        while True:
            touching = gaps[(gaps[:, 0] < high) & (gaps[:, 1] > low)]
            wider = (
                (min(low, *touching[:, 0].tolist()), max(high, *touching[:, 1].tolist()))
                if len(touching)
                else (low, high)
            )
            if wider == (low, high):
                break
            low, high = wider
        spans[series] = Window(moment_of(low), moment_of(high))
    return spans


def _select_overlapping(rows: pl.DataFrame, spans: Mapping[Series, Window]) -> pl.DataFrame:
    edges = pl.DataFrame(
        [(series.symbol, series.timeframe.value, span.start, span.end) for series, span in spans.items()],
        schema={**dict.fromkeys(_KEY, pl.String()), "_lo": UTC_TIME, "_hi": UTC_TIME},
        orient="row",
    )
    return (
        rows.join(edges, on=list(_KEY), maintain_order="left")
        .filter(pl.col("gap_start") < pl.col("_hi"), pl.col("gap_end") > pl.col("_lo"))
        .drop("_lo", "_hi")
    )


def _select_days(daily: pl.DataFrame, days: Mapping[Series, tuple[date, date]]) -> pl.DataFrame:
    edges = pl.DataFrame(
        [(series.symbol, series.timeframe.value, *day_range) for series, day_range in days.items()],
        schema={**dict.fromkeys(_KEY, pl.String()), "_lo": pl.Date(), "_hi": pl.Date()},
        orient="row",
    )
    return (
        daily.join(edges, on=list(_KEY), maintain_order="left")
        .filter(pl.col("day").is_between("_lo", "_hi"))
        .select(DAILY_COMPLETENESS_SCHEMA.names())
    )
