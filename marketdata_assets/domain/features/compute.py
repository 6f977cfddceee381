"""The features of a frame of bars."""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import KEY, UTC_TIME
from marketdata_assets.domain.calendar import moment_of
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA, LOOKBACK, MEMORY, periods_per_year
from marketdata_assets.domain.features.layout import Layout, find_losses
from marketdata_assets.domain.features.recursive import recursive_indicators
from marketdata_assets.domain.features.rolling import rolling_moments, rolling_sum
from marketdata_assets.domain.features.volume import relative_volume, session_vwap
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.features.layout import Losses
    from marketdata_assets.domain.features.rolling import Floats
    from marketdata_assets.domain.slots import Flags, Integers

_VALUES: Final = ("open", "high", "low", "close", "volume", "vwap")
_BARS: Final = 20
BARS_AT_ONCE: Final = 1 << 17
"""The number of bars at a time: arrays of a megabyte are reused, while larger arrays are returned to the system."""
_EQUAL: Final = 1e-9
"""The largest difference, relative to the price, that counts as none: recursive means of constant prices err by less."""


def compute_features(
    bars: pl.DataFrame,
    calendar: TradingCalendar,
    gaps: pl.DataFrame | None = None,
    *,
    bars_at_once: int = BARS_AT_ONCE,
) -> pl.DataFrame:
    """Compute the features of each of ``bars``, as :data:`~marketdata_assets.domain.features.columns.FEATURES_SCHEMA`.

    A value depends only on the bars from
    :func:`~marketdata_assets.domain.features.columns.lookback_start` on and the
    :data:`~marketdata_assets.domain.features.columns.LOOKBACK_BARS` before them: pass these as well, keep the wanted
    days, and each column is what a full history gives, to 1e-9. Nulls at the start of ``bars`` are warm-up: read further
    back, unless the history begins there.

    - **Bars.** All bars count, those of extended hours included; a minute without trades has no bar and is not
      filled.
    - **Gaps.** Where expected slots were lost between two bars, the step across is unknown: returns and true
      range are null there, and the volatilities start again. The other columns continue over the existing bars.
      ``gap_in_window`` marks the bars of which a column may depend on lost slots: for ``MEMORY`` bars, to the end of
      the session, and at the same time of the following 20 sessions.
    - **Sessions.** The returns and the true range of the first bar of a day include the night. The volatility of
      intraday bars of exchange-traded series does not: ``volatility_20`` and ``yang_zhang_20`` leave out the step into
      the first bar of a day, and all five are annualised by regular hours alone. They measure how much prices move
      during a session, not the risk of holding overnight.
    - **Flat series.** RSI is null where no close has moved within its memory, ADX where neither high nor low has:
      TA-Lib returns 0 there, which elsewhere means the steepest possible fall.

    Args:
        bars: symbol, timeframe, time (UTC) and open, high, low, close, volume, vwap as floats; of any number of
            series on one calendar, adjusted for splits. An index has null volume and vwap, and so null volume
            features. A traded bar without a vwap enters ``vwap_session`` with (high + low + close) / 3.
        calendar: The calendar of every series.
        gaps: The gaps that count as loss: symbol, timeframe, gap_start, gap_end (exclusive), UTC. Gaps of other series
            and times are ignored. None without a gap.
        bars_at_once: About how many bars are computed together, in whole series.

    Raises:
        ValueError: A price is null, not finite or not above 0, or two bars have the same key.
    """
    ordered = _sort_bars(bars)
    has_one = ordered["timeframe"].n_unique() == 1
    by_timeframe = [ordered] if has_one else ordered.partition_by("timeframe", maintain_order=True)
    parts = [
        _compute_timeframe(part, calendar, gaps)
        for timeframe_bars in by_timeframe
        for part in _split_series(timeframe_bars, bars_at_once)
    ]
    features = pl.concat([FEATURES_SCHEMA.to_frame(), *parts])
    return features if has_one else features.sort(KEY)


def _split_series(bars: pl.DataFrame, bars_at_once: int) -> Iterator[pl.DataFrame]:
    """Split ``bars`` of one timeframe into parts of whole series, each of about ``bars_at_once`` bars or one series."""
    start = end = 0
    for length in bars["symbol"].rle().struct.field("len"):
        end += length
        if end - start >= bars_at_once:
            yield bars[start:end]
            start = end
    if end > start:
        yield bars[start:end]


def _sort_bars(bars: pl.DataFrame) -> pl.DataFrame:
    """Select the columns that are needed, and sort the bars by key."""
    needed = bars.select(
        "symbol", "timeframe", pl.col("time").cast(UTC_TIME), pl.col(_VALUES).cast(pl.Float64())
    )
    if _first_out_of_order(needed) is None:
        return needed
    needed = needed.sort(KEY)
    duplicate = _first_out_of_order(needed)
    if duplicate is not None:
        symbol, timeframe, time = needed.row(duplicate)[:3]
        message = f"{symbol}:{timeframe} has more than one bar at {time:%Y-%m-%dT%H:%MZ}: pass each bar once"
        raise ValueError(message)
    return needed


def _first_out_of_order(bars: pl.DataFrame) -> int | None:
    symbol, timeframe, time = (pl.col(name) for name in KEY)
    in_order = (
        pl.when(symbol != symbol.shift())
        .then(symbol > symbol.shift())
        .when(timeframe != timeframe.shift())
        .then(timeframe > timeframe.shift())
        .otherwise(time > time.shift())
    )
    position: int | None = bars.select((~in_order).arg_true().first()).item()
    return position


class _Bars(NamedTuple):
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    """NaN where it is unknown."""
    vwap: Floats
    """NaN where it is unknown."""
    previous: Floats
    """The close of the bar before, which may belong to another series."""


def _compute_timeframe(
    frame: pl.DataFrame, calendar: TradingCalendar, gaps: pl.DataFrame | None
) -> pl.DataFrame:
    lengths = frame["symbol"].rle().struct
    layout = Layout(
        timeframe=Timeframe(frame["timeframe"][0]),
        calendar=calendar,
        symbols=lengths.field("value").to_list(),
        edges=np.concatenate([[0], np.cumsum(lengths.field("len").to_numpy(), dtype=np.int64)]),
        times=frame["time"].to_physical().to_numpy(),
    )
    arrays = {name: np.ascontiguousarray(frame[name].to_numpy()) for name in _VALUES}
    bars = _Bars(**arrays, previous=np.roll(arrays["close"], 1))
    _require_prices(bars, layout)
    losses = find_losses(layout, gaps)
    features = _compute_columns(bars, layout, losses)
    return frame.select(KEY).with_columns(
        pl.Series(name, features[name], dtype=dtype, nan_to_null=True)
        for name, dtype in FEATURES_SCHEMA.items()
        if name not in KEY
    )


def _require_prices(bars: _Bars, layout: Layout) -> None:
    lowest = np.minimum(np.minimum(bars.open, bars.high), np.minimum(bars.low, bars.close))
    sound = np.isfinite(bars.open + bars.high + bars.low + bars.close) & (lowest > 0)
    if sound.all():
        return
    worst = int(np.argmin(sound))
    symbol = layout.symbols[int(np.searchsorted(layout.edges, worst, side="right")) - 1]
    message = (
        f"{symbol}:{layout.timeframe} at {moment_of(int(layout.times[worst])):%Y-%m-%dT%H:%MZ} has a price that is"
        " not a number above 0: quarantine the bar and delete it from the table of bars"
    )
    raise ValueError(message)


def _compute_columns(bars: _Bars, layout: Layout, losses: Losses) -> dict[str, Floats | Integers | Flags]:
    _, high, low, close, volume, vwap, previous = bars
    begins = (layout.age == 0) | losses.crossed
    simple_return = np.where(begins, np.nan, (close - previous) / previous)
    true_range = np.maximum(high - low, np.maximum(np.abs(high - previous), np.abs(low - previous)))
    recursive = recursive_indicators(high, low, close, layout.edges)
    spread = (recursive.ema_12 - recursive.ema_26) / recursive.ema_26
    closes = rolling_moments(close, _BARS)
    middle = _blank_warm_up(closes.mean, layout.age, _BARS - 1)
    width = 2 * closes.population_deviation()
    typical = np.where(np.isnan(vwap), (high + low + close) / 3, vwap)
    vwap_session = session_vwap(typical, volume, layout)
    relative, lost_relative = relative_volume(volume, layout, losses)
    gap_in_window = (
        (layout.since(losses.crossed) < MEMORY)
        | (losses.in_session & ~np.isnan(vwap_session))
        | lost_relative
    )
    moved = (layout.age > 0) & (close != previous)
    ranged = (layout.age > 0) & ((high != np.roll(high, 1)) | (low != np.roll(low, 1)))
    log_return = np.log1p(simple_return)
    return {
        "simple_return": simple_return,
        "log_return": log_return,
        "true_range": np.where(begins, np.nan, true_range),
        "atr_14": recursive.atr_14,
        "natr_14": 100 * recursive.atr_14 / close,
        "rsi_14": np.where(layout.since(moved) < LOOKBACK["rsi_14"], recursive.rsi_14, np.nan),
        "ema_20": recursive.ema_20,
        "sma_20": middle,
        "ema_spread_12_26": spread,
        "macd": recursive.macd,
        "macd_signal": recursive.macd_signal,
        "adx_14": np.where(layout.since(ranged) < LOOKBACK["adx_14"], recursive.adx_14, np.nan),
        "bb_upper_20": middle + width,
        "bb_lower_20": middle - width,
        "slope_14": recursive.slope_14,
        **_compute_volatilities(bars, log_return, layout, begins),
        "vwap_session": vwap_session,
        "dollar_volume": close * volume,
        "relative_volume_20": relative,
        "trend": _trend(close / recursive.ema_20 - 1, spread),
        "gap_in_window": gap_in_window,
    }


def _compute_volatilities(
    bars: _Bars, log_return: Floats, layout: Layout, begins: Flags
) -> dict[str, Floats]:
    """Compute the five annualised volatilities, over 20 bars without a gap between them."""
    age = layout.since(begins)
    periods = periods_per_year(layout.timeframe, layout.calendar)
    inside_day = ~layout.opens_day if layout.breaks_overnight else None
    # log1p of a difference keeps the digits of a small step, which the logarithm of a ratio loses.
    up, down, body, opening = (
        np.log1p((price - base) / base)
        for price, base in (
            (bars.high, bars.open),
            (bars.low, bars.open),
            (bars.close, bars.open),
            (bars.open, bars.previous),
        )
    )
    range_squared = (up - down) ** 2
    rogers_satchell = np.maximum(rolling_sum(up * (up - body) + down * (down - body), _BARS) / _BARS, 0)
    garman_klass = np.maximum(rolling_sum(range_squared / 2 - (2 * log(2) - 1) * body**2, _BARS) / _BARS, 0)
    close_to_close = rolling_moments(log_return, _BARS, inside_day).sample_variance()
    k = 0.34 / (1.34 + (_BARS + 1) / (_BARS - 1))
    yang_zhang = (
        rolling_moments(opening, _BARS, inside_day).sample_variance()
        + k * rolling_moments(body, _BARS).sample_variance()
        + (1 - k) * rogers_satchell
    )
    year = sqrt(periods)
    return {
        "volatility_20": year * _blank_warm_up(np.sqrt(close_to_close), age, _BARS),
        "parkinson_20": year
        * _blank_warm_up(np.sqrt(rolling_sum(range_squared, _BARS) / (4 * _BARS * log(2))), age, _BARS - 1),
        "garman_klass_20": year * _blank_warm_up(np.sqrt(garman_klass), age, _BARS - 1),
        "rogers_satchell_20": year * _blank_warm_up(np.sqrt(rogers_satchell), age, _BARS - 1),
        "yang_zhang_20": year * _blank_warm_up(np.sqrt(yang_zhang), age, _BARS),
    }


def _blank_warm_up(values: Floats, age: Integers, warm_up: int) -> Floats:
    """Replace the first ``warm_up`` rows of each history, whose windows reach into another series, by NaN."""
    return np.where(age >= warm_up, values, np.nan)


def _trend(over_mean: Floats, spread: Floats) -> Floats:
    """Return 1 where both are above 0, -1 where both are below 0, else 0; NaN where either is NaN."""
    direction = np.where((over_mean > _EQUAL) & (spread > _EQUAL), 1.0, 0.0)
    direction[(over_mean < -_EQUAL) & (spread < -_EQUAL)] = -1.0
    return np.where(np.isnan(over_mean) | np.isnan(spread), np.nan, direction)
