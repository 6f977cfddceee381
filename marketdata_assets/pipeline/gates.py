"""The partitions that checks block, found from the tables alone, and the bars that checks read.

The checks and the code that leaves failing partitions out call the same functions, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.calendar import WEEK, calendar_of
from marketdata_assets.domain.features.columns import FIRST_ROW
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.gates import (
    FAULT_SCHEMA,
    find_gappy,
    find_incomplete,
    find_invalid,
    select_buckets_within,
    select_within,
)
from marketdata_assets.domain.series import by_market
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.gaps import list_gaps
from marketdata_assets.storage.gates import bars_before, lost_spans, quarantined_spans, read_quarantined
from marketdata_assets.storage.symbols import asset_classes, not_tracked
from marketdata_assets.storage.tables import FEATURES, OHLCV

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import date

    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.storage.connection import Database

GATE_SCHEMA: Final = pl.Schema({**FAULT_SCHEMA, "check": pl.String()})
"""Faults, each with the blocking check that it fails."""

VALID: Final = "ohlcv_valid"
NO_GAPS: Final = "no_gaps"

BARS_AT_ONCE: Final = 500_000
"""The number of bars of a market that never closes that are in memory at once."""


@dataclass(frozen=True, slots=True)
class PartitionBatch:
    """Some whole partitions of one timeframe and asset class, read together.

    Attributes:
        timeframe: The timeframe of every series.
        asset_class: The asset class of every series.
        windows: The window of each series, from local midnight to local midnight.
        bars: The bars in the windows: ``BAR_SCHEMA``, sorted by key.
        context: ``bars`` and the requested number of bars before each window.
        quarantined: The quarantined base bars that would lie in the windows: ``symbol, time, rule``.
    """

    timeframe: Timeframe
    asset_class: AssetClass
    windows: Mapping[Series, Window]
    bars: pl.DataFrame
    context: pl.DataFrame
    quarantined: pl.DataFrame


def failing_partitions(
    database: Database, windows: Mapping[Series, Window], *, bars_at_once: int = BARS_AT_ONCE
) -> pl.DataFrame:
    """Find the partitions in ``windows`` that checks block, and why, as :data:`GATE_SCHEMA`.

    One row for each (symbol, timeframe, day), check and kind of fault, in no particular order. ``windows`` are
    whole local days, as :func:`~marketdata_assets.storage.partition_windows.partition_windows_of` gives them.

    Raises:
        ConfigurationError: A series is not tracked, so that its calendar is unknown.
    """
    broken = [find_invalid_in(batch) for batch in read_batches(database, windows, bars_at_once=bars_at_once)]
    missing = find_gappy_in(database, windows, list_gaps(database, windows, LOSSES))
    return pl.concat(
        [
            pl.concat([FAULT_SCHEMA.to_frame(), *broken]).with_columns(check=pl.lit(VALID)),
            missing.with_columns(check=pl.lit(NO_GAPS)),
        ]
    )


def blocked_since(database: Database, series: Collection[Series], earliest: date) -> pl.DataFrame:
    """List every day of ``series`` from ``earliest`` on that a check blocks: ``symbol, timeframe, day, check``.

    Only the bars between the first and the last quarantined row of a series are read: other stored bars break a rule
    only after a change by hand, which :func:`failing_partitions` finds. ``day`` is the local date.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    classes = _read_classes(database, series)
    gaps = lost_spans(database)
    quarantined = quarantined_spans(database)
    missing: dict[Series, Window] = {}
    broken: dict[Series, Window] = {}
    for member in series:
        calendar = calendar_of(classes[member.symbol])
        for found, key, windows in (
            (gaps, (member.symbol, member.timeframe.value), missing),
            (quarantined, (member.symbol, member.timeframe.base.value), broken),
        ):
            if key not in found:
                continue
            # A week bar opens up to six days before the bars that it is made of.
            first = calendar.local_day(found[key][0] - WEEK)
            last = calendar.local_day(found[key][1])
            if last >= earliest:
                windows[member] = Window(
                    calendar.day_start(max(first, earliest)), calendar.day_window(last).end
                )
    faults = [
        find_invalid_in(batch).with_columns(check=pl.lit(VALID)) for batch in read_batches(database, broken)
    ]
    if missing:
        lacking = find_gappy_in(database, missing, list_gaps(database, missing, LOSSES))
        faults.append(lacking.with_columns(check=pl.lit(NO_GAPS)))
    days = pl.concat([GATE_SCHEMA.to_frame(), *faults]).select("symbol", "timeframe", "day", "check")
    return days.unique().sort(pl.all())


def find_invalid_in(batch: PartitionBatch) -> pl.DataFrame:
    """Find the faults (``FAULT_SCHEMA``) for which ``ohlcv_valid`` blocks partitions of ``batch``."""
    return find_invalid(batch.bars, batch.quarantined, batch.timeframe, batch.asset_class)


def find_gappy_in(database: Database, windows: Mapping[Series, Window], gaps: pl.DataFrame) -> pl.DataFrame:
    """Find the faults (``FAULT_SCHEMA``) for which ``no_gaps`` blocks partitions of ``windows``.

    ``gaps`` (``KNOWN_GAP_SCHEMA``) are the gaps that reach into the windows, in a state of ``LOSSES``.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    return find_gappy(gaps, windows, _read_classes(database, windows))


def read_batches(
    database: Database,
    windows: Mapping[Series, Window],
    *,
    lookback_bars: int = 0,
    bars_at_once: int = BARS_AT_ONCE,
) -> Iterator[PartitionBatch]:
    """Read the bars in ``windows``, some whole partitions at a time, so that memory stays bounded.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    groups = by_market(windows, _read_classes(database, windows))
    for (timeframe, asset_class), members in groups.items():
        for chunk in whole_day_chunks(
            timeframe, asset_class, members, lookback_bars, bars_at_once=bars_at_once
        ):
            by_series = {series: [window] for series, window in chunk.items()}
            context = read_rows(database, OHLCV, by_series, lookback_bars=lookback_bars)
            yield PartitionBatch(
                timeframe,
                asset_class,
                chunk,
                bars=select_within(context, chunk) if lookback_bars else context,
                context=context,
                quarantined=select_buckets_within(
                    read_quarantined(database, timeframe, chunk), chunk, timeframe, calendar_of(asset_class)
                ),
            )


def whole_day_chunks(
    timeframe: Timeframe,
    asset_class: AssetClass,
    windows: Mapping[Series, Window],
    lookback_bars: int = 0,
    *,
    bars_at_once: int = BARS_AT_ONCE,
) -> Iterator[dict[Series, Window]]:
    """Cut ``windows`` (whole local days of one timeframe and class), in order, into pieces whose bars fit in memory.

    ``lookback_bars`` more bars are counted for each series of a piece.
    """
    calendar = calendar_of(asset_class)
    days_at_once = max(1, int(bars_at_once * timeframe.duration / timedelta(days=1)))
    chunk: dict[Series, Window] = {}
    bars = 0.0
    for series, window in windows.items():
        start = window.start
        while start < window.end:
            days = min(days_at_once, (window.end - start).days + 1)
            next_start = calendar.day_start(calendar.local_day(start) + timedelta(days=days))
            piece = Window(start, min(next_start, window.end))
            size = piece.duration / timeframe.duration + lookback_bars
            if chunk and (bars + size > bars_at_once or series in chunk):
                yield chunk
                chunk, bars = {}, 0.0
            chunk[series] = piece
            bars += size
            start = piece.end
    if chunk:
        yield chunk


def find_incomplete_in(database: Database, batch: PartitionBatch) -> pl.DataFrame:
    """Find the faults (``FAULT_SCHEMA``) of the features of ``batch``, whether its partitions are blocked or not."""
    features = read_rows(
        database,
        FEATURES,
        {series: [window] for series, window in batch.windows.items()},
        columns=[*KEY, *FIRST_ROW, "gap_in_window"],
    )
    before = bars_before(database, batch.windows, max(FIRST_ROW.values()))
    return find_incomplete(batch.bars, features, before, calendar_of(batch.asset_class))


def _read_classes(database: Database, series: Iterable[Series]) -> dict[str, AssetClass]:
    known = asset_classes(database)
    classes = {}
    for member in series:
        if member.symbol not in known:
            raise not_tracked(member.symbol)
        classes[member.symbol] = known[member.symbol]
    return classes
