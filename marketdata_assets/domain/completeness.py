"""Completeness: the share of the expected bars of a series that are stored or explained, over a window and by day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from math import floor
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.freshness import due
from marketdata_assets.domain.gaps import GapState, slots_in_gaps
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.freshness import Due
    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.slots import Flags, Slots, StoredBars

_KEY: Final = {"symbol": pl.String(), "timeframe": pl.String()}
_COUNTS: Final = {
    "expected_bars": pl.Int64(),
    "present_bars": pl.Int64(),
    "no_trade_bars": pl.Int64(),
    "missing_bars": pl.Int64(),
    "completeness": pl.Float64(),
    "status": pl.String(),
}

COMPLETENESS_SCHEMA: Final = pl.Schema({**_KEY, **_COUNTS, "first_bar": UTC_TIME, "last_bar": UTC_TIME})
"""One row per series.

``expected_bars`` = ``present_bars`` + ``no_trade_bars`` (slots of gaps in the state no_trades) + ``missing_bars``.
``completeness`` is the share of the expected slots, from 0 to 1, that are present or explained; null when
nothing is expected, which is neither complete nor missing. ``status`` is a :class:`Status`. ``first_bar`` and
``last_bar`` are the opens of the first and last bar, expected or not; null without a bar.
"""

DAILY_COMPLETENESS_SCHEMA: Final = pl.Schema({**_KEY, "day": pl.Date(), **_COUNTS})
"""One row per series and local day with an expected slot; the columns are those of :data:`COMPLETENESS_SCHEMA`."""


class Status(StrEnum):
    """The completeness of a series in a word."""

    WHOLE = "whole"
    """Every expected slot has a bar or is explained."""
    GAPS = "gaps"
    """Some expected slots are missing."""
    EMPTY = "empty"
    """All expected slots are missing."""
    NOTHING_EXPECTED = "nothing_expected"
    """No slot is due: no session, no closed bar yet, or before the first bar."""
    UNCHECKED = "unchecked"
    """Not scanned: whether bars are missing is not known."""


_MARKS: Final = {
    Status.WHOLE: "✓",
    Status.EMPTY: "✗",
    Status.NOTHING_EXPECTED: "–",  # noqa: RUF001 - a dash on purpose: nothing to count
}


ENDED: Final = "…"
"""The suffix of the mark of a series whose scanned days end before the day that is due."""


def daily_completeness(
    stored: Mapping[Series, StoredBars], expected: Mapping[Series, Slots], gaps: pl.DataFrame
) -> pl.DataFrame:
    """Return a row for each series of ``expected`` and local day of its slots, as :data:`DAILY_COMPLETENESS_SCHEMA`.

    ``gaps`` has symbol, timeframe, gap_start, gap_end and ``state``, a
    :class:`~marketdata_assets.domain.gaps.GapState`; it may hold other series and other times. A slot that has a
    bar is present, whatever a gap says. A day on which no slot of a series is expected has no row.
    """
    explained = _flag_explained(expected, gaps)
    parts = [DAILY_COMPLETENESS_SCHEMA.to_frame()]
    for series, slots in expected.items():
        has_bar = (
            slots.stored(stored[series].times) if series in stored else np.zeros(len(slots), dtype=np.bool_)
        )
        flags = pl.DataFrame(
            {"day": slots.days(), "present": has_bar, "explained": explained[series] & ~has_bar}
        )
        by_day = flags.group_by("day", maintain_order=True).agg(
            expected_bars=pl.len(),
            present_bars=pl.col("present").sum(),
            no_trade_bars=pl.col("explained").sum(),
        )
        parts.append(
            _rate(
                by_day.with_columns(symbol=pl.lit(series.symbol), timeframe=pl.lit(series.timeframe.value)),
                DAILY_COMPLETENESS_SCHEMA,
            )
        )
    return pl.concat(parts)


def unchecked_days(
    scanned: pl.DataFrame,
    edges: Mapping[Series, tuple[date, date]],
    classes: Mapping[Series, AssetClass],
) -> pl.DataFrame:
    """Return the days between the ``edges`` of each series that expect bars and are not in ``scanned``.

    Args:
        scanned: The scanned days: symbol, timeframe and day. It may hold other series and days.
        edges: The first and the last local day of each series. The last is left out: its bars are not due yet, or it
            was scanned.
        classes: The asset class of each series of ``edges``; it may hold others.

    Returns:
        ``DAILY_COMPLETENESS_SCHEMA``: a row for each of these days, sorted by symbol, timeframe and day, with the status
        ``unchecked``. Each of its slots counts as missing: a history that was not scanned must not look complete.
    """
    # Series of one timeframe and calendar have the same slots, which are counted once.
    groups: dict[tuple[Timeframe, TradingCalendar], dict[Series, tuple[date, date]]] = {}
    for series, days in edges.items():
        groups.setdefault((series.timeframe, calendar_of(classes[series])), {})[series] = days
    parts = [DAILY_COMPLETENESS_SCHEMA.to_frame()]
    for (timeframe, calendar), members in groups.items():
        first, last = min(lo for lo, _ in members.values()), max(hi for _, hi in members.values())
        if first >= last:
            continue
        end = calendar.day_start(last)
        slots = expected_slots(timeframe, Window(calendar.day_start(first), end), calendar, end)
        by_day = slots.days().to_frame().group_by("day").agg(expected_bars=pl.len())
        limits = pl.DataFrame(
            [(series.symbol, series.timeframe.value, lo, hi) for series, (lo, hi) in members.items()],
            schema={**_KEY, "lo": pl.Date(), "hi": pl.Date()},
            orient="row",
        )
        holes = (
            limits.join(by_day, how="cross")
            .filter(pl.col("day").is_between("lo", "hi", closed="left"))
            .join(scanned, on=["symbol", "timeframe", "day"], how="anti")
            .with_columns(present_bars=pl.lit(0), no_trade_bars=pl.lit(0))
        )
        parts.append(
            _rate(holes, DAILY_COMPLETENESS_SCHEMA).with_columns(status=pl.lit(Status.UNCHECKED.value))
        )
    return pl.concat(parts).sort("symbol", "timeframe", "day")


def counted_days(
    timeframe: Timeframe,
    scanned: tuple[date, date],
    bars: tuple[datetime, datetime] | None,
    calendar: TradingCalendar,
    now: datetime,
) -> tuple[date, date]:
    """Return the first and the last day over which completeness is counted, as :func:`unchecked_days` takes them.

    Between them lie the first and the last of the ``scanned`` days, and the days of the first and the last of ``bars``
    (opens; None without any). The days in between that were not scanned count as missing, so that a series that was not
    scanned does not count as complete. Bars of the local day of ``now`` are not due yet.
    """
    first, last = scanned
    if bars is None:
        return first, last
    first_day, last_day = (calendar.local_day(edge) for edge in bars)
    behind = last_day + max(timeframe.duration, timedelta(days=1))
    return min(first, first_day), max(last, min(behind, calendar.local_day(now)))


def due_days(classes: Mapping[Series, AssetClass], now: datetime) -> dict[Series, date]:
    """Return the local day of the last bar of each series that should be stored at ``now`` (:func:`~.freshness.due`)."""
    days: dict[tuple[Timeframe, TradingCalendar], Due | None] = {}
    found = {}
    for series, asset_class in classes.items():
        key = (series.timeframe, calendar_of(asset_class))
        if key not in days:
            days[key] = due(*key, now)
        if (last := days[key]) is not None:
            found[series] = last.day
    return found


def ended_series(matrix: pl.DataFrame, due_by_series: Mapping[Series, date]) -> pl.DataFrame:
    """Return the rows of ``matrix`` whose scanned days end before the due day of the series, with that day as ``due``.

    ``matrix`` has symbol, timeframe and last_scanned. A series without scanned days is not listed: it is unchecked.
    """
    days = pl.DataFrame(
        [(series.symbol, series.timeframe.value, day) for series, day in due_by_series.items()],
        schema={**_KEY, "due": pl.Date()},
        orient="row",
    )
    joined = matrix.join(days, on=list(_KEY), how="inner", maintain_order="left")
    return joined.filter(pl.col("last_scanned") < pl.col("due"))


def sum_days(daily: pl.DataFrame, series: Iterable[Series]) -> pl.DataFrame:
    """Sum ``daily`` (``DAILY_COMPLETENESS_SCHEMA``) over its days: one row for each of ``series``, in the same order.

    The columns are those of ``DAILY_COMPLETENESS_SCHEMA`` without the day. A series without a row in ``daily`` is
    unchecked, with 0 expected bars.
    """
    wanted = pl.DataFrame(
        [(member.symbol, member.timeframe.value) for member in series], schema={**_KEY}, orient="row"
    )
    counts = ["expected_bars", "present_bars", "no_trade_bars"]
    totals = daily.group_by(*_KEY).agg(pl.col(counts).sum())
    joined = wanted.join(totals, on=list(_KEY), how="left", maintain_order="left")
    rated = _rate(joined.with_columns(pl.col(counts).fill_null(0)), pl.Schema({**_KEY, **_COUNTS}))
    is_unscanned = joined["expected_bars"].is_null()
    return rated.with_columns(
        status=pl.when(is_unscanned).then(pl.lit(Status.UNCHECKED.value)).otherwise(pl.col("status"))
    )


def below_threshold(matrix: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return the rows of ``matrix`` whose ``completeness`` is less than ``threshold`` (0 to 1), the least complete first.

    Among equals, more ``missing_bars`` come first. A row without a completeness, because no slot was
    scanned or expected, is not below.
    """
    return matrix.filter(pl.col("completeness") < threshold).sort(
        "completeness", "missing_bars", "symbol", "timeframe", descending=[False, True, False, False]
    )


def cell(status: Status, share: float | None, *, ended: bool = False) -> str:
    """Return a status in a few characters: ✓, a percentage, ✗, a dash when nothing is expected, ? when not scanned.

    Three dots follow when the scanned days of the series have ``ended`` before the day that is due. ``share`` is the
    completeness from 0 to 1; only the status ``gaps`` needs it. A percentage is rounded down, so that a series with
    gaps never shows 100 %.
    """
    if status is Status.GAPS and share is not None:
        # 0.57 x 1000 is 569.99…: rounding down must not cut a whole tenth because of the last bit.
        tenths = floor(share * 1000 + 1e-9)
        mark = f"{tenths / 10:.1f}%" if tenths else "<0.1%"
    else:
        mark = _MARKS.get(status, "?")
    return f"{mark}{ENDED}" if ended else mark


@dataclass(frozen=True, slots=True)
class Grid:
    """The completeness of series, laid out as symbols x timeframes."""

    symbols: tuple[str, ...]
    """The symbols, in their order of appearance."""
    timeframes: tuple[Timeframe, ...]
    """The timeframes of all series, shortest first."""
    cells: Mapping[tuple[str, Timeframe], tuple[Status, float | None]]
    """The status and the completeness (from 0 to 1) of each series; a symbol need not have every timeframe."""


def grid(matrix: pl.DataFrame) -> Grid:
    """Lay out ``matrix`` (symbol, timeframe, status, completeness; one row per series) as symbols x timeframes."""
    cells = {
        (symbol, Timeframe(timeframe)): (Status(status), share)
        for symbol, timeframe, status, share in matrix.select(*_KEY, "status", "completeness").iter_rows()
    }
    present = {timeframe for _, timeframe in cells}
    return Grid(
        symbols=tuple(dict.fromkeys(symbol for symbol, _ in cells)),
        timeframes=tuple(timeframe for timeframe in Timeframe if timeframe in present),
        cells=cells,
    )


def _flag_explained(expected: Mapping[Series, Slots], gaps: pl.DataFrame) -> dict[Series, Flags]:
    return slots_in_gaps(gaps.filter(pl.col("state") == GapState.NO_TRADES.value), expected)


def _rate(counted: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    expected, missing = pl.col("expected_bars"), pl.col("missing_bars")
    return (
        counted.with_columns(pl.col("expected_bars", "present_bars", "no_trade_bars").cast(pl.Int64))
        .with_columns(missing_bars=expected - pl.col("present_bars") - pl.col("no_trade_bars"))
        .with_columns(
            completeness=pl.when(expected > 0).then((expected - missing) / expected),
            status=pl.when(expected == 0)
            .then(pl.lit(Status.NOTHING_EXPECTED.value))
            .when(missing == 0)
            .then(pl.lit(Status.WHOLE.value))
            .when(missing == expected)
            .then(pl.lit(Status.EMPTY.value))
            .otherwise(pl.lit(Status.GAPS.value)),
        )
        .select(schema.names())
        .cast(schema)
    )
