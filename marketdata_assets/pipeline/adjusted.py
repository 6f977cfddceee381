"""Stored bars on the scale of a day: the input of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from marketdata_assets.domain.actions import ActionKind
from marketdata_assets.domain.adjust import SplitError, adjust_for_splits
from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.weeks import adjust_weeks, divided_weeks, refusal
from marketdata_assets.storage.actions import find_unfetched, read_splits
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.symbols import asset_classes
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database


def read_adjusted(
    database: Database,
    windows: Mapping[Series, Window],
    asset_class: AssetClass,
    *,
    as_of: date,
    lookback_bars: int = 0,
) -> KnownBars:
    """Read the bars in ``windows`` on the split scale of ``as_of``, without those that cannot be adjusted.

    Args:
        database: The market database.
        windows: The window of each series; all series have one timeframe.
        asset_class: The asset class of every series.
        as_of: The local date whose scale is wanted.
        lookback_bars: How many bars before each window to read as well.

    Raises:
        SplitError: Two splits contradict each other.
    """
    by_series = {series: [window] for series, window in windows.items()}
    raw = read_rows(database, OHLCV, by_series, lookback_bars=lookback_bars)
    return adjust_as_far_as_known(database, raw, asset_class, as_of=as_of)


def scale_bars(
    database: Database, raw: pl.DataFrame, asset_class: AssetClass, splits: pl.DataFrame, *, as_of: date
) -> pl.DataFrame:
    """Return ``raw``, stored bars (``BAR_SCHEMA``) of one timeframe sorted by key, on the scale of ``as_of``.

    ``splits`` (``SPLIT_SCHEMA``) are the splits of the symbols of ``raw``.

    Raises:
        SplitError: Two splits contradict each other, or a split divides a week whose days are not stored.
    """
    if not asset_class.can_split or raw.is_empty() or splits.is_empty():
        return raw
    known, refused = _scale_as_far_as_known(database, raw, asset_class, splits, as_of=as_of)
    for symbol, weeks in refused.items():
        raise SplitError(refusal(symbol, weeks, calendar_of(asset_class)))
    return known


class KnownBars(NamedTuple):
    """Adjusted bars, and the bars that could not be adjusted."""

    bars: pl.DataFrame
    """The adjusted bars: ``BAR_SCHEMA``, sorted by key, without the weeks of ``refused``."""
    refused: dict[str, list[datetime]]
    """By symbol, the opens of the weeks that a split divides and whose days are not all stored."""


def adjust_as_far_as_known(
    database: Database, raw: pl.DataFrame, asset_class: AssetClass, *, as_of: date
) -> KnownBars:
    """Adjust ``raw`` as :func:`scale_bars` does, and return the week bars that it would refuse instead of raising.

    Raises:
        SplitError: Two splits contradict each other.
    """
    if not asset_class.can_split or raw.is_empty():
        return KnownBars(raw, {})
    splits = read_splits(database, raw["symbol"].unique().to_list())
    return _scale_as_far_as_known(database, raw, asset_class, splits, as_of=as_of)


def _scale_as_far_as_known(
    database: Database, raw: pl.DataFrame, asset_class: AssetClass, splits: pl.DataFrame, *, as_of: date
) -> KnownBars:
    calendar = calendar_of(asset_class)
    if raw["timeframe"][0] != Timeframe.W1.value:
        return KnownBars(adjust_for_splits(raw, splits, as_of, calendar), {})
    parts, refused = [], {}
    for weeks in raw.partition_by("symbol", maintain_order=True):
        symbol = weeks["symbol"][0]
        own = splits.filter(symbol=symbol)
        first, last = weeks["time"][0], weeks["time"][-1]
        divided = [
            week for week in divided_weeks(own, as_of, calendar) if week.end > first and week.start <= last
        ]
        days = read_rows(database, OHLCV, {Series(symbol, Timeframe.D1): divided})
        known, lacking = adjust_weeks(weeks, days, own, as_of, calendar)
        parts.append(known)
        if lacking:
            refused[symbol] = lacking
    return KnownBars(pl.concat(parts).sort(KEY), refused)


def symbols_without_splits(database: Database, series: Iterable[Series]) -> list[str]:
    """List the symbols of ``series`` that can split and whose splits were never fetched: they get no features."""
    classes = asset_classes(database)
    symbols = dict.fromkeys(member.symbol for member in series)
    splitting = [symbol for symbol in symbols if symbol in classes and classes[symbol].can_split]
    return find_unfetched(database, ActionKind.SPLITS, splitting)
