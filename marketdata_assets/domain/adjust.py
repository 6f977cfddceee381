"""Split adjustment: raw prices, converted to the scale of a chosen day.

Prices are stored as they were traded. A split changes the scale of all earlier prices, so adjusted prices are computed
when they are read, as of any day, and are never stored. Only splits that the vendor lists are applied: a price that
halves overnight is not by itself a split. Prices are not adjusted for dividends.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from fractions import Fraction
from math import isfinite
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar

SPLIT_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "execution_date": pl.Date(),
        "split_from": pl.Float64(),
        "split_to": pl.Float64(),
    }
)
"""Splits of any number of symbols: ``split_from`` shares become ``split_to`` when ``execution_date`` begins.

``execution_date`` is the local date of the first session on the new scale. A 7-for-1 split is from 1 to 7; in a
reverse split, ``split_to`` is the smaller number.
"""

FACTOR_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "until": UTC_TIME,
        "price_factor": pl.Float64(),
        "volume_factor": pl.Float64(),
    }
)
"""The factors of the bars that open before ``until`` (UTC), but not before an earlier ``until`` of the same symbol.

Bars from the last ``until`` on, and those of symbols without a row, stay as they are. The factors are the floats
nearest to the exact fraction and to its inverse.
"""

_PRICES: Final = ("open", "high", "low", "close", "vwap")
_DECIMALS: Final = {**dict.fromkeys(_PRICES, 6), "volume": 3}
"""The digits after the decimal point of the numbers that the vendor sends, which :func:`multiply` keeps exact."""
_EXACT: Final = 2.0**53
"""The largest integer up to which all integers are floats without rounding."""


class SplitError(MarketDataError):
    """An impossible split, or two splits that contradict each other."""


def split_factors(splits: pl.DataFrame, as_of: date, calendar: TradingCalendar) -> pl.DataFrame:
    """Return the factors that ``splits`` (:data:`SPLIT_SCHEMA`) make as of ``as_of``, as :data:`FACTOR_SCHEMA`, sorted.

    The factor of a day is the product of split_from / split_to over the splits executed after that day and on or before
    ``as_of``, a local date. Rows that repeat the execution date of a symbol with the same ratio count once, and a split
    of a number of shares into the same number changes nothing, whatever other split is listed for that date.

    Raises:
        SplitError: A date or a ratio is missing, ``split_from`` or ``split_to`` is not above 0, or two rows of
            one symbol and date have different ratios. Splits after ``as_of`` are checked as well.
    """
    rows = [
        (symbol, until, float(price), float(volume))
        for symbol, steps in sorted(_exact_factors(splits, as_of, calendar).items())
        for until, price, volume in steps
    ]
    return pl.DataFrame(rows, schema=FACTOR_SCHEMA, orient="row")


def _exact_factors(
    splits: pl.DataFrame, as_of: date, calendar: TradingCalendar
) -> dict[str, list[tuple[datetime, Fraction, Fraction]]]:
    """Return ``until``, ``price_factor`` and ``volume_factor`` of each symbol, in order of time and exact."""
    ratios: dict[str, dict[date, Fraction]] = {}
    # By columns: waking the threads of the query engine takes longer than reading a few splits.
    for symbol, executed, before, after in zip(*(splits[name] for name in SPLIT_SCHEMA), strict=True):
        ratio = _ratio(symbol, executed, before, after)
        if ratio == 1:
            continue
        known = ratios.setdefault(symbol, {}).setdefault(executed, ratio)
        if known != ratio:
            message = f"{symbol} has two splits on {executed}, {known} and {ratio} of the old price: keep the right split"
            raise SplitError(message)
    steps = {}
    for symbol, of_symbol in ratios.items():
        factor = Fraction(1)
        backwards = []
        for executed in sorted((day for day in of_symbol if day <= as_of), reverse=True):
            factor *= of_symbol[executed]
            backwards.append((calendar.day_start(executed), factor, 1 / factor))
        steps[symbol] = backwards[::-1]
    return steps


def adjust_for_splits(
    bars: pl.DataFrame, splits: pl.DataFrame, as_of: date, calendar: TradingCalendar
) -> pl.DataFrame:
    """Convert ``bars`` to the scale of ``as_of``, with the same rows, columns and order.

    Prices and vwap are multiplied by the factor of the bar's local day (:func:`split_factors`), volume is divided
    by it, as :func:`multiply` does; other columns and nulls stay. Price times volume does not change. A bar after
    ``as_of`` stays on its own scale.

    Week bars cannot be adjusted: a week with a split mixes two scales, and its Sunday lies before a split that all of
    its sessions follow. Adjust the ``1d`` bars and roll them up
    (:func:`~marketdata_assets.domain.rollup.roll_up`).

    Args:
        bars: symbol, timeframe, time (UTC), open, high, low, close, volume, vwap and any others, in any order;
            unadjusted.
        splits: :data:`SPLIT_SCHEMA`; splits of other symbols are ignored.
        as_of: The local date whose scale is wanted.
        calendar: The calendar of every bar.

    Raises:
        SplitError: As in :func:`split_factors`.
        ValueError: There are week bars.
    """
    if (bars["timeframe"] == Timeframe.W1.value).any():
        message = "week bars cannot be adjusted for splits: adjust the 1d bars and roll them up"
        raise ValueError(message)
    steps = _exact_factors(splits, as_of, calendar)
    if bars.is_empty() or not any(steps.values()):
        return bars
    if bars["symbol"].n_unique() == 1:
        own = steps.get(bars["symbol"][0], [])
        untils = [until for until, _, _ in own]
        first, last = (bisect_right(untils, edge) for edge in _edges(bars["time"]))
        # Looking up the factor of each bar takes longer than reading a day of minutes.
        if first == last == len(own):
            return bars
        if first == last:
            _, price, _ = own[first]
            return pl.DataFrame([_scale(bars[name], price) for name in bars.columns])
    factors = split_factors(splits, as_of, calendar)
    of_bars = (
        bars.select("symbol", pl.col("time").cast(UTC_TIME))
        .with_row_index("row")
        .sort("time")
        .join_asof(
            factors.sort("until"),
            left_on="time",
            right_on="until",
            by="symbol",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .sort("row")
    )
    prices = of_bars["price_factor"].to_numpy()
    exact = {float(factor): factor for of_symbol in steps.values() for _, factor, _ in of_symbol}
    columns = {name: bars[name].cast(pl.Float64).to_numpy(writable=True) for name in _DECIMALS}
    for value, factor in exact.items():
        rows = np.flatnonzero(prices == value)
        for name, column in columns.items():
            column[rows] = _scale(bars[name].gather(rows), factor).to_numpy()
    return bars.with_columns(pl.Series(name, column, nan_to_null=True) for name, column in columns.items())


def _scale(column: pl.Series, factor: Fraction) -> pl.Series:
    """Multiply a ``column`` of bars whose prices have the factor ``factor``; other columns than prices and volume stay."""
    if column.name not in _DECIMALS:
        return column
    by = 1 / factor if column.name == "volume" else factor
    found = multiply(column.to_numpy(), by, _DECIMALS[column.name])
    return pl.Series(column.name, found, nan_to_null=True)


def multiply(values: np.ndarray, factor: Fraction, decimals: int) -> np.ndarray:
    """Multiply ``values``, floats that stand for decimals, by ``factor``, and return the floats nearest to the products.

    A fifth of 1190.4 is 238.08: the product of the two rounded floats would be 238.07999999999998. A value that has more
    than ``decimals`` digits after the point, or is too large for exact arithmetic, is multiplied as a float.
    """
    if not any(part & (part - 1) for part in factor.as_integer_ratio()):
        return values * float(factor)  # powers of two round nothing
    unit = 10.0**decimals
    above, below = float(factor.numerator), float(factor.denominator) * unit
    counted = np.rint(values * unit)
    found: np.ndarray = counted * above / below
    # Where the decimals do not represent the value, or are too large to be exact floats.
    is_inexact = (counted / unit != values) | (np.abs(counted) * above > _EXACT)
    if below > _EXACT:
        is_inexact |= True
    if is_inexact.any():
        found[is_inexact] = values[is_inexact] * float(factor)
    return found


def changes_scale() -> pl.Expr:
    """Whether each split (:data:`SPLIT_SCHEMA`) changes prices, as 1 to 1 does not.

    True as well for an impossible split, for which :func:`split_factors` raises an error.
    """
    before, after = pl.col("split_from"), pl.col("split_to")
    return ~(before.is_finite() & (before > 0) & (before == after)).fill_null(value=False)


def _edges(times: pl.Series) -> tuple[datetime, datetime]:
    """Return the first and the last of ``times``, which must not be empty."""
    first, last = times.min(), times.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        message = f"times are datetimes, not {times.dtype}"
        raise TypeError(message)
    return first, last


def _ratio(symbol: str, executed: date | None, before: float | None, after: float | None) -> Fraction:
    if executed is None:
        message = f"a split of {symbol} has no execution date: repair or remove it"
        raise SplitError(message)
    if not all(part is not None and isfinite(part) and part > 0 for part in (before, after)):
        message = (
            f"the split of {symbol} on {executed} is from {before} to {after}: both must be above 0, repair or"
            " remove it"
        )
        raise SplitError(message)
    # From its decimal digits: 1.1 means eleven tenths, not the binary number nearest to it.
    return Fraction(str(before)) / Fraction(str(after))
