"""The columns of the features, the number of bars that each reads, and annualisation."""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

    from marketdata_assets.domain.calendar import TradingCalendar

_FLOAT: Final = pl.Float64()

FEATURES_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "timeframe": pl.String(),
        "time": UTC_TIME,
        "simple_return": _FLOAT,
        "log_return": _FLOAT,
        "true_range": _FLOAT,
        "atr_14": _FLOAT,
        "natr_14": _FLOAT,
        "rsi_14": _FLOAT,
        "ema_20": _FLOAT,
        "sma_20": _FLOAT,
        "ema_spread_12_26": _FLOAT,
        "macd": _FLOAT,
        "macd_signal": _FLOAT,
        "adx_14": _FLOAT,
        "bb_upper_20": _FLOAT,
        "bb_lower_20": _FLOAT,
        "slope_14": _FLOAT,
        "volatility_20": _FLOAT,
        "parkinson_20": _FLOAT,
        "garman_klass_20": _FLOAT,
        "rogers_satchell_20": _FLOAT,
        "yang_zhang_20": _FLOAT,
        "vwap_session": _FLOAT,
        "dollar_volume": _FLOAT,
        "relative_volume_20": _FLOAT,
        "trend": pl.Int8(),
        "gap_in_window": pl.Boolean(),
    }
)
"""One row per bar, keyed by (symbol, timeframe, time), in the order of the key. docs/features.md defines them.

Returns, volatilities (annualised), ``ema_spread_12_26`` and ``relative_volume_20`` are shares (0.01 is 1 %);
``natr_14``, ``rsi_14`` and ``adx_14`` run from 0 to 100; ``slope_14`` is in currency per bar, ``dollar_volume`` in
currency, the others are prices. ``trend`` is 1, -1 or 0. Unknown values are null, never NaN; ``gap_in_window`` is
never null.
"""

_SLOWEST: Final = 26
"""The length of the slow average of MACD and of the EMA spread, in bars."""

LOOKBACK: Final[Mapping[str, int]] = MappingProxyType(
    {
        "simple_return": 1,
        "log_return": 1,
        "true_range": 1,
        "atr_14": 25 * 14,
        "natr_14": 25 * 14,
        "rsi_14": 25 * 14,
        "ema_20": 12 * 20,
        "sma_20": 19,
        "ema_spread_12_26": 15 * _SLOWEST,
        "macd": 15 * _SLOWEST,
        "macd_signal": 15 * _SLOWEST,
        "adx_14": 30 * 14,
        "bb_upper_20": 19,
        "bb_lower_20": 19,
        "slope_14": 13,
        "volatility_20": 20,
        "parkinson_20": 19,
        "garman_klass_20": 19,
        "rogers_satchell_20": 19,
        "yang_zhang_20": 20,
        "dollar_volume": 0,
        "trend": 15 * _SLOWEST,
    }
)
"""The number of earlier bars that a column needs, so that a longer history changes it by less than 1e-9.

Exact for finite windows. Recursive columns forget their seed geometrically: 12 n bars for an exponential mean of
n, 25 n for a mean of Wilder's, 30 n for ADX (three such means in a row), 15 times the slow mean for MACD and the spread.
Measured over thousands of random starts on daily, hourly and one-minute bars. MACD and slope cross zero: their
1e-9 is relative to the price.
"""

LOOKBACK_SESSIONS: Final[Mapping[str, int]] = MappingProxyType({"vwap_session": 0, "relative_volume_20": 20})
"""The number of earlier sessions (for week bars: weeks) that a column needs, besides the whole day of the bar."""

FIRST_ROW: Final[Mapping[str, int]] = MappingProxyType(
    {
        "simple_return": 1,
        "log_return": 1,
        "true_range": 1,
        "atr_14": 14,
        "natr_14": 14,
        "ema_20": 19,
        "sma_20": 19,
        "ema_spread_12_26": 25,
        "macd": 33,
        "macd_signal": 33,
        "bb_upper_20": 19,
        "bb_lower_20": 19,
        "slope_14": 13,
        "trend": 25,
    }
)
"""The position, from 0, of the first bar of a history that has a value; later bars have one unless ``gap_in_window``.

Columns that may be null for other reasons (flat prices, no volume, few trades) are left out.
"""

MEMORY: Final = max(LOOKBACK.values())
"""The number of bars for which a gap stays in the window of some column, which is the longest look-back."""

LOOKBACK_BARS: Final = 2 * MEMORY
"""The number of bars before the first wanted local day that every column of :data:`LOOKBACK` needs.

It is twice the memory: RSI and ADX forget nothing while prices do not change, which may last as long as the memory.
"""

_REGULAR_BARS: Final = {
    Timeframe.M1: 390.0,
    Timeframe.M5: 78.0,
    Timeframe.M15: 26.0,
    Timeframe.M30: 13.0,
    Timeframe.H1: 6.5,
    Timeframe.H4: 1.625,
    Timeframe.D1: 1.0,
}
_SESSIONS_PER_YEAR, _WEEKS_PER_YEAR, _DAYS_PER_YEAR = 252, 52, 365


def lookback_start(first: date, timeframe: Timeframe, calendar: TradingCalendar) -> datetime:
    """Return the moment (UTC) from which on the bars before ``first``, the first wanted local day, are needed.

    With those bars, and :data:`LOOKBACK_BARS` before them, every column of that day is what a full history gives. It is a
    moment and not a number of bars so that the look-back holds :data:`LOOKBACK_SESSIONS`, however many bars a series has
    outside of sessions.
    """
    sessions = max(LOOKBACK_SESSIONS.values())
    if timeframe is Timeframe.W1:
        return calendar.day_start(first - timedelta(weeks=sessions))
    earlier = calendar.last_sessions(first - timedelta(days=1), sessions)
    return calendar.day_start(earlier[0] if earlier else first)


def periods_per_year(timeframe: Timeframe, calendar: TradingCalendar) -> float:
    """Return the number of bars in a year, by which a variance per bar is annualised.

    A year of an exchange is 252 sessions of 390 regular minutes, so that a session has 6.5 hour bars although it touches
    seven clock hours. Always-open markets have 365 days, and 365/7 weeks.
    """
    if calendar.is_always_open:
        return _DAYS_PER_YEAR * (timedelta(days=1) / timeframe.duration)
    if timeframe is Timeframe.W1:
        return _WEEKS_PER_YEAR
    return _SESSIONS_PER_YEAR * _REGULAR_BARS[timeframe]
