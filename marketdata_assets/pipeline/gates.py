"""Which partitions the blocking checks hold back, from the tables alone, and the bars that checks look at.

The checks and whatever must leave failing partitions out ask the same functions, so that they cannot disagree.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.calendar import WEEK, calendar_of
from marketdata_assets.domain.features.columns import FIRST_ROW
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.gates import FAULT_SCHEMA, gappy, incomplete, invalid, of_buckets_within, within
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

_BARS_AT_ONCE: Final = 500_000
"""Bars of a market that never closes that are held in memory at once."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some whole partitions of one timeframe and asset class, read together.

    Attributes:
        timeframe: Of every series.
        asset_class: Of every series.
        windows: By series, from local midnight to local midnight.
        bars: ``BAR_SCHEMA``, sorted by key, in the windows.
        context: The same, with the bars before each window that were asked for.
        quarantined: ``symbol, time, rule`` of base bars that went to quarantine and would lie in the windows.
    """

    timeframe: Timeframe
    asset_class: AssetClass
    windows: Mapping[Series, Window]
    bars: pl.DataFrame
    context: pl.DataFrame
    quarantined: pl.DataFrame


def failing_partitions(database: Database, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """The partitions in ``windows`` that blocking checks hold back, and why, as :data:`GATE_SCHEMA`.

    One row for each (symbol, timeframe, day), check and kind of fault, in no particular order. ``windows`` are
    whole local days, as :func:`~marketdata_assets.storage.partition_windows.partition_windows_of` gives them.

    Raises:
        ConfigurationError: A series is not tracked, so that its calendar is unknown.
    """
    broken = [invalid_in(stretch) for stretch in stretches(database, windows)]
    missing = gappy_in(database, windows, list_gaps(database, windows, LOSSES))
    return pl.concat(
        [
            pl.concat([FAULT_SCHEMA.to_frame(), *broken]).with_columns(check=pl.lit(VALID)),
            missing.with_columns(check=pl.lit(NO_GAPS)),
        ]
    )


def blocked_since(database: Database, series: Collection[Series], earliest: date) -> pl.DataFrame:
    """Every day of ``series`` from ``earliest`` on that blocking checks hold back: ``symbol, timeframe, day, check``.

    Read are bars between the first and the last row in quarantine alone: no others break a rule but those that
    somebody has changed by hand, which :func:`failing_partitions` finds. ``day`` is the local date.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    classes = _classes(database, series)
    gaps = lost_spans(database)
    quarantined = quarantined_spans(database)
    missing: dict[Series, Window] = {}
    broken: dict[Series, Window] = {}
    for one in series:
        calendar = calendar_of(classes[one.symbol])
        for found, key, windows in (
            (gaps, (one.symbol, one.timeframe.value), missing),
            (quarantined, (one.symbol, one.timeframe.base.value), broken),
        ):
            if key not in found:
                continue
            # The bar of a week opens up to six days before those that it is made of.
            first = calendar.local_day(found[key][0] - WEEK)
            last = calendar.local_day(found[key][1])
            if last >= earliest:
                windows[one] = Window(calendar.day_start(max(first, earliest)), calendar.day_window(last).end)
    faults = [
        invalid_in(stretch).with_columns(check=pl.lit(VALID)) for stretch in stretches(database, broken)
    ]
    if missing:
        lacking = gappy_in(database, missing, list_gaps(database, missing, LOSSES))
        faults.append(lacking.with_columns(check=pl.lit(NO_GAPS)))
    days = pl.concat([GATE_SCHEMA.to_frame(), *faults]).select("symbol", "timeframe", "day", "check")
    return days.unique().sort(pl.all())


def invalid_in(stretch: Stretch) -> pl.DataFrame:
    """The faults (``FAULT_SCHEMA``) for which ``ohlcv_valid`` holds partitions of ``stretch`` back."""
    return invalid(stretch.bars, stretch.quarantined, stretch.timeframe, stretch.asset_class)


def gappy_in(database: Database, windows: Mapping[Series, Window], gaps: pl.DataFrame) -> pl.DataFrame:
    """The faults (``FAULT_SCHEMA``) for which ``no_gaps`` holds partitions of ``windows`` back.

    ``gaps`` (``KNOWN_GAP_SCHEMA``) are those that reach into the windows, in a state of ``LOSSES``.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    return gappy(gaps, windows, _classes(database, windows))


def stretches(
    database: Database, windows: Mapping[Series, Window], *, lookback_bars: int = 0
) -> Iterator[Stretch]:
    """The bars in ``windows``, some whole partitions at a time, so that memory stays bounded.

    Raises:
        ConfigurationError: A series is not tracked.
    """
    classes = _classes(database, windows)
    groups: dict[tuple[Timeframe, AssetClass], dict[Series, Window]] = defaultdict(dict)
    for series, window in windows.items():
        groups[series.timeframe, classes[series.symbol]][series] = window
    for (timeframe, asset_class), members in groups.items():
        for chunk in whole_day_chunks(timeframe, asset_class, members, lookback_bars):
            spans = {series: [window] for series, window in chunk.items()}
            context = read_rows(database, OHLCV, spans, lookback_bars=lookback_bars)
            yield Stretch(
                timeframe,
                asset_class,
                chunk,
                bars=within(context, chunk) if lookback_bars else context,
                context=context,
                quarantined=of_buckets_within(
                    read_quarantined(database, timeframe, chunk), chunk, timeframe, calendar_of(asset_class)
                ),
            )


def whole_day_chunks(
    timeframe: Timeframe, asset_class: AssetClass, windows: Mapping[Series, Window], lookback_bars: int = 0
) -> Iterator[dict[Series, Window]]:
    """``windows`` (whole local days of one timeframe and class) in pieces whose bars fit in memory, in order.

    With each series of a piece come ``lookback_bars`` more.
    """
    calendar = calendar_of(asset_class)
    days_at_once = max(1, int(_BARS_AT_ONCE * timeframe.duration / timedelta(days=1)))
    chunk: dict[Series, Window] = {}
    bars = 0.0
    for series, window in windows.items():
        start = window.start
        while start < window.end:
            days = min(days_at_once, (window.end - start).days + 1)
            following = calendar.day_start(calendar.local_day(start) + timedelta(days=days))
            piece = Window(start, min(following, window.end))
            size = piece.duration / timeframe.duration + lookback_bars
            if chunk and (bars + size > _BARS_AT_ONCE or series in chunk):
                yield chunk
                chunk, bars = {}, 0.0
            chunk[series] = piece
            bars += size
            start = piece.end
    if chunk:
        yield chunk


def incomplete_in(database: Database, stretch: Stretch) -> pl.DataFrame:
    """The faults (``FAULT_SCHEMA``) of ``stretch``'s features, whether a check holds its partitions back or not."""
    features = read_rows(
        database,
        FEATURES,
        {one: [window] for one, window in stretch.windows.items()},
        columns=[*KEY, *FIRST_ROW, "gap_in_window"],
    )
    before = bars_before(database, stretch.windows, max(FIRST_ROW.values()))
    return incomplete(stretch.bars, features, before, calendar_of(stretch.asset_class))


def _classes(database: Database, series: Iterable[Series]) -> dict[str, AssetClass]:
    known = asset_classes(database)
    classes = {}
    for one in series:
        if one.symbol not in known:
            raise not_tracked(one.symbol)
        classes[one.symbol] = known[one.symbol]
    return classes
