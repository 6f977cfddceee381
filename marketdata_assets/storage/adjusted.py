"""Stored bars on the scale of a day: what features are computed of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.actions import ActionKind
from marketdata_assets.domain.adjust import adjust_for_splits
from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.weeks import adjust_weeks, divided_weeks
from marketdata_assets.storage.actions import read_splits, unchecked
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.tables import OHLCV

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

SPLITTING: Final = (AssetClass.STOCK, AssetClass.ETF)
"""What can be split."""


def read_adjusted(
    database: Database,
    windows: Mapping[Series, Window],
    asset_class: AssetClass,
    *,
    as_of: date,
    lookback_bars: int = 0,
) -> pl.DataFrame:
    """The bars (``BAR_SCHEMA``) in ``windows`` on the scale of ``as_of``, sorted by key.

    Args:
        database: Where to read.
        windows: By series, all of one timeframe.
        asset_class: Of every series.
        as_of: The local date whose scale is wanted.
        lookback_bars: How many bars before each window come with it.

    Raises:
        SplitError: Two splits contradict each other, or a split divides a week whose days are not stored.
    """
    spans = {one: [window] for one, window in windows.items()}
    return adjusted(
        database, read_rows(database, OHLCV, spans, lookback_bars=lookback_bars), asset_class, as_of=as_of
    )


def adjusted(database: Database, raw: pl.DataFrame, asset_class: AssetClass, *, as_of: date) -> pl.DataFrame:
    """``raw``, stored bars (``BAR_SCHEMA``) of one timeframe sorted by key, on the scale of ``as_of``.

    Raises:
        SplitError: Two splits contradict each other, or a split divides a week whose days are not stored.
    """
    if asset_class not in SPLITTING or raw.is_empty():
        return raw
    return scaled(
        database, raw, asset_class, read_splits(database, raw["symbol"].unique().to_list()), as_of=as_of
    )


def scaled(
    database: Database, raw: pl.DataFrame, asset_class: AssetClass, splits: pl.DataFrame, *, as_of: date
) -> pl.DataFrame:
    """What :func:`adjusted` gives, for whoever has the ``splits`` (``SPLIT_SCHEMA``) of the symbols already."""
    if asset_class not in SPLITTING or raw.is_empty() or splits.is_empty():
        return raw
    calendar = calendar_of(asset_class)
    if raw["timeframe"][0] != Timeframe.W1.value:
        return adjust_for_splits(raw, splits, as_of, calendar)
    parts = []
    for weeks in raw.partition_by("symbol", maintain_order=True):
        own = splits.filter(symbol=weeks["symbol"][0])
        first, last = weeks["time"][0], weeks["time"][-1]
        divided = [
            one for one in divided_weeks(own, as_of, calendar) if one.end > first and one.start <= last
        ]
        days = read_rows(database, OHLCV, {Series(weeks["symbol"][0], Timeframe.D1): divided})
        parts.append(adjust_weeks(weeks, days, own, as_of, calendar))
    return pl.concat(parts).sort(KEY)


def unchecked_symbols(database: Database, symbols: Iterable[str]) -> list[str]:
    """Those of ``symbols`` whose splits were never asked for."""
    return unchecked(database, ActionKind.SPLITS, symbols)
