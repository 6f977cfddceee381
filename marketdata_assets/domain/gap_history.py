"""Looking at a series again: what earlier looks left on its slots, and what is to be written down now.

A look reads known gaps and bars, asks again for what is open in its own window, and ends with the rows that
replace the known ones. Attempts are counted slot by slot, so that what was never asked for does not inherit the
attempts of its neighbours; runs of slots with one history are one row.
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
    GapState,
    classify,
    find_gaps,
    gaps_of_flags,
    judge,
    missing_slots,
    slots_in_gaps,
    split_gaps,
)
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.slots import each_position
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime

    from marketdata_assets.domain.slots import Flags, Held, Integers, Slots

KNOWN_SCHEMA: Final = pl.Schema(
    {
        **GAP_SCHEMA,
        "state": pl.String(),
        "attempts": pl.Int32(),
        "failure": pl.String(),
        "reason": pl.String(),
        "detected_at": UTC_TIME,
    }
)
"""Gaps as they are kept: ``state`` is a :class:`~marketdata_assets.domain.gaps.GapState`.

``attempts`` counts re-fetches, ``failure`` says how the vendor failed at the last of them (null when it
answered), ``reason`` explains the state, ``detected_at`` is when the first of its bars was found missing.
"""

_NEVER: Final = np.iinfo(np.int64).max
_KEY: Final = ("symbol", "timeframe")


class Asked(NamedTuple):
    """A window that was asked for again, of every series of ``symbol`` on ``base``."""

    symbol: str
    base: Timeframe
    window: Window
    failure: str | None
    """How the vendor failed, or None when it answered."""


@dataclass(frozen=True, eq=False)
class _Trail:
    """What earlier looks left on the slots of one series: a value for each."""

    attempts: Integers
    failure: Integers
    """Position in the look's list of failures; 0 is none."""
    detected: Integers
    """Microseconds since the epoch, ``_NEVER`` for what was never found missing."""
    settled: Flags
    """Known to be empty for want of trades: an outage that begins beside it does not change that."""
    rejected: Flags
    """The vendor sent rows for it that broke a rule."""
    missed: Flags
    """Known to be missing when the look began, or found to be at first."""


class LookResult(NamedTuple):
    """What is to be written down."""

    spans: dict[Series, Window]
    """What stands there of each series is replaced: known gaps that overlap it, and the days that it touches."""
    gaps: pl.DataFrame
    """``KNOWN_SCHEMA``."""
    days: dict[Series, tuple[date, date]]
    """The first and the last local day that each span touches."""
    daily: pl.DataFrame
    """``DAILY_COMPLETENESS_SCHEMA``."""
    begun: datetime | None = None
    """When the look began to read, by the database's clock; None for the time at which the result is written."""


@dataclass(frozen=True, eq=False)
class Look:
    """Some series of one base, scanned together.

    Attributes:
        windows: What is scanned, whole local days: gaps outside are evidence, and never asked for.
        slots: Expected slots of each series, of as much time around its window as there is evidence to use.
        known: ``KNOWN_SCHEMA``: gaps that are not filled.
        held: The bars of each series in its slots.
    """

    windows: Mapping[Series, Window]
    slots: Mapping[Series, Slots]
    known: pl.DataFrame
    held: Mapping[Series, Held]
    trails: Mapping[Series, _Trail]
    failures: tuple[str | None, ...]

    @classmethod
    def begin(
        cls,
        windows: Mapping[Series, Window],
        slots: Mapping[Series, Slots],
        known: pl.DataFrame,
        held: Mapping[Series, Held],
        rejected: pl.DataFrame | None = None,
    ) -> Look:
        """A look at ``slots``, of which ``held`` have a bar.

        ``rejected`` has symbol, timeframe (a base) and time of the vendor's rows that broke a rule.
        """
        failures: list[str | None] = [None, *known["failure"].drop_nulls().unique(maintain_order=True)]
        missing = missing_slots(held, slots)
        before = slots_in_gaps(known, slots)
        rows = known.partition_by(*_KEY, as_dict=True)
        broken = _rejected_slots(rejected, slots)
        trails = {
            one: _trail(
                rows.get((one.symbol, one.timeframe.value)),
                each,
                failures,
                broken[one] & missing[one],
                missing[one] | before[one],
            )
            for one, each in slots.items()
        }
        return cls(windows, slots, known, held, trails, tuple(failures))

    def standing(self) -> pl.DataFrame:
        """The gaps of all slots, as ``KNOWN_SCHEMA`` with ``run_start`` and ``run_end``: a run is judged as one."""
        judged = judge(find_gaps(self.held, self.slots), self.held, self.slots)
        count = len(self.failures)
        marks = {
            one: ((trail.attempts * count + trail.failure) * 2 + trail.settled) * 2 + trail.rejected
            for one, trail in self.trails.items()
        }
        texts = pl.Series(self.failures, dtype=pl.String())
        pieces = split_gaps(judged, self.slots, marks)
        detected = _earliest(pieces, self.slots, {one: each.detected for one, each in self.trails.items()})
        return classify(
            pieces.with_columns(
                detected,
                is_loss=pl.col("is_loss") & (pl.col("mark") // 2 % 2 == 0),
                rejected=pl.col("mark") % 2 == 1,
                attempts=(pl.col("mark") // 4 // count).cast(pl.Int32),
                failure=texts.gather(pieces["mark"] // 4 % count),
            )
        ).select(*KNOWN_SCHEMA, "run_start", "run_end")

    def due(self, standing: pl.DataFrame) -> dict[Series, list[Window]]:
        """What is open in the window of each series."""
        due: dict[Series, list[Window]] = {}
        opened = standing.filter(state=GapState.OPEN.value)
        for symbol, name, start, end in opened.select(*_KEY, "gap_start", "gap_end").iter_rows():
            series = Series(symbol, Timeframe(name))
            gap = Window(start.astimezone(UTC), end.astimezone(UTC))
            if (window := gap.intersection(self.windows[series])) is not None:
                due.setdefault(series, []).append(window)
        return due

    def asked_again(
        self, due: Mapping[Series, Sequence[Window]], asked: Iterable[Asked], held: Mapping[Series, Held]
    ) -> Look:
        """The look after what is ``due`` was asked for again, with the bars that are ``held`` now."""
        failures = list(self.failures)
        requests: dict[tuple[str, Timeframe], list[Asked]] = {}
        for one in asked:
            requests.setdefault((one.symbol, one.base), []).append(one)
            if one.failure not in failures:
                failures.append(one.failure)
        trails = dict(self.trails)
        for series, windows in due.items():
            slots, trail = self.slots[series], trails[series]
            is_due = _inside(slots, windows)
            attempts, failure = trail.attempts.copy(), trail.failure.copy()
            for one in requests.get((series.symbol, series.timeframe.base), ()):
                answered = is_due & _inside(slots, [one.window])
                attempts[answered] = np.minimum(attempts[answered] + 1, MAX_ATTEMPTS)
                failure[answered] = failures.index(one.failure)
                is_due &= ~answered
            trails[series] = replace(trail, attempts=attempts, failure=failure)
        return replace(self, held=held, trails=trails, failures=tuple(failures))

    def result(self) -> LookResult:
        """What is to be written down: gaps and days of the windows, whole gaps that reach out of them included."""
        standing = self.standing()
        filled = self._filled()
        spans = _spans(self.windows, [self.known, standing, filled])
        daily = daily_completeness(self.held, self.slots, standing)
        days = {
            one: (
                self.slots[one].calendar.local_day(span.start),
                self.slots[one].calendar.local_day(moment_of(microseconds(span.end) - 1)),
            )
            for one, span in spans.items()
        }
        rows = pl.concat([standing.select(KNOWN_SCHEMA.names()).cast(KNOWN_SCHEMA), filled])
        return LookResult(spans, _overlapping(rows, spans), days, _of_days(daily, days))

    def _filled(self) -> pl.DataFrame:
        """The runs that were missing when the look began, or known to be, and have a bar now."""
        missing = missing_slots(self.held, self.slots)
        arrived = {one: trail.missed & ~missing[one] for one, trail in self.trails.items()}
        gaps = gaps_of_flags(arrived, self.slots)
        detected = _earliest(gaps, self.slots, {one: each.detected for one, each in self.trails.items()})
        # Negated, so that the smallest is the largest.
        most = _earliest(
            gaps, self.slots, {one: -each.attempts for one, each in self.trails.items()}, "attempts"
        )
        return (
            gaps.with_columns(
                detected,
                state=pl.lit(GapState.FILLED.value),
                attempts=-most.cast(pl.Int32),
                failure=pl.lit(None, pl.String()),
                reason=pl.format(
                    "{} bar{} arrived",
                    "missing_bars",
                    pl.when(pl.col("missing_bars") == 1).then(pl.lit("")).otherwise(pl.lit("s")),
                ),
            )
            .select(KNOWN_SCHEMA.names())
            .cast(KNOWN_SCHEMA)
        )


def _trail(
    known: pl.DataFrame | None, slots: Slots, failures: list[str | None], rejected: Flags, missed: Flags
) -> _Trail:
    attempts, failure = np.zeros(len(slots), dtype=np.int64), np.zeros(len(slots), dtype=np.int64)
    detected, settled = np.full(len(slots), _NEVER), np.zeros(len(slots), dtype=np.bool_)
    if known is not None and known.height:
        first, last = slots.positions(known)
        sizes = last - first
        positions = each_position(first, last)
        codes = {text: code for code, text in enumerate(failures)}
        attempts[positions] = np.repeat(known["attempts"].to_numpy(), sizes)
        failure[positions] = np.repeat([codes[text] for text in known["failure"]], sizes)
        is_settled = (known["state"] == GapState.NO_TRADES.value).to_numpy()
        settled[positions] = np.repeat(is_settled, sizes)
        moments = known["detected_at"].cast(UTC_TIME).to_physical().fill_null(_NEVER).to_numpy()
        detected[positions] = np.repeat(moments, sizes)
    return _Trail(attempts, failure, detected, settled, rejected, missed)


def _rejected_slots(rejected: pl.DataFrame | None, slots: Mapping[Series, Slots]) -> dict[Series, Flags]:
    rows = {} if rejected is None else rejected.partition_by(*_KEY, as_dict=True)
    flags = {}
    for series, each in slots.items():
        own = rows.get((series.symbol, series.timeframe.base.value))
        if own is None:
            flags[series] = np.zeros(len(each), dtype=np.bool_)
            continue
        opens = own.select(
            bucket_open(pl.col("time").cast(UTC_TIME), series.timeframe, each.calendar).to_physical()
        )
        flags[series] = each.held(np.unique(opens.to_series().to_numpy()))
    return flags


def _earliest(
    gaps: pl.DataFrame,
    slots: Mapping[Series, Slots],
    values: Mapping[Series, Integers],
    name: str = "detected_at",
) -> pl.Series:
    """The smallest value of the slots of each of ``gaps``; as a time, null where there is none."""
    parts = []
    for (symbol, timeframe), own in gaps.partition_by(*_KEY, as_dict=True, maintain_order=True).items():
        series = Series(str(symbol), Timeframe(str(timeframe)))
        edges = slots[series].positions(own)
        padded = np.append(values[series], _NEVER)
        parts.append(np.minimum.reduceat(padded, np.stack(edges, axis=1).ravel())[::2])
    found = pl.Series(name, np.concatenate(parts) if parts else [], dtype=pl.Int64())
    if name != "detected_at":
        return found
    return found.to_frame().select(pl.when(pl.col(name) != _NEVER).then(pl.col(name)).cast(UTC_TIME))[name]


def _inside(slots: Slots, windows: Iterable[Window]) -> Flags:
    inside = np.zeros(len(slots), dtype=np.bool_)
    for one in windows:
        first, last = np.searchsorted(slots.opens, [microseconds(one.start), microseconds(one.end)])
        inside[first:last] = True
    return inside


def _spans(windows: Mapping[Series, Window], frames: Sequence[pl.DataFrame]) -> dict[Series, Window]:
    """Each window, widened by whatever gap reaches into it, until none is cut."""
    edges: dict[Series, list[Integers]] = {}
    for frame in frames:
        run = ("run_start", "run_end") if "run_start" in frame.columns else ("gap_start", "gap_end")
        for (symbol, timeframe), own in frame.partition_by(*_KEY, as_dict=True).items():
            series = Series(str(symbol), Timeframe(str(timeframe)))
            physical = own.select(pl.col(run).cast(UTC_TIME).to_physical()).to_numpy()
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


def _overlapping(rows: pl.DataFrame, spans: Mapping[Series, Window]) -> pl.DataFrame:
    edges = pl.DataFrame(
        [(one.symbol, one.timeframe.value, span.start, span.end) for one, span in spans.items()],
        schema={**dict.fromkeys(_KEY, pl.String()), "_lo": UTC_TIME, "_hi": UTC_TIME},
        orient="row",
    )
    return (
        rows.join(edges, on=list(_KEY), maintain_order="left")
        .filter(pl.col("gap_start") < pl.col("_hi"), pl.col("gap_end") > pl.col("_lo"))
        .drop("_lo", "_hi")
    )


def _of_days(daily: pl.DataFrame, days: Mapping[Series, tuple[date, date]]) -> pl.DataFrame:
    edges = pl.DataFrame(
        [(one.symbol, one.timeframe.value, *span) for one, span in days.items()],
        schema={**dict.fromkeys(_KEY, pl.String()), "_lo": pl.Date(), "_hi": pl.Date()},
        orient="row",
    )
    return (
        daily.join(edges, on=list(_KEY), maintain_order="left")
        .filter(pl.col("day").is_between("_lo", "_hi"))
        .select(DAILY_COMPLETENESS_SCHEMA.names())
    )
