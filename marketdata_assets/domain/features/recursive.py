"""The indicators that depend on the whole series, and the regression slope, by TA-Lib, series by series.

A value that is not a number would make every later row NaN or, in RSI, silently 0: callers pass finite prices, and only
bars that exist. TA-Lib seeds exponential means and Wilder's means with the mean of their first n values, and both means
of MACD at its 26th bar (ta_EMA.c, ta_ATR.c, ta_MACD.c).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from marketdata_assets.domain.features.rolling import Floats
    from marketdata_assets.domain.slots import Integers


class Recursive(NamedTuple):
    """The indicators, one value per bar; NaN in the warm-up of a series."""

    atr_14: Floats
    rsi_14: Floats
    ema_12: Floats
    ema_20: Floats
    ema_26: Floats
    macd: Floats
    macd_signal: Floats
    adx_14: Floats
    slope_14: Floats


def recursive_indicators(high: Floats, low: Floats, close: Floats, edges: Integers) -> Recursive:
    """Compute the indicators of the series whose bars lie between neighbouring ``edges``, in order of time.

    All arrays are contiguous float64 and finite. RSI is 0.0 in a series that never moved, as in TA-Lib.
    """
    # Imported here: it loads pandas where installed, half a second that `marketdata --help` need not spend.
    import talib  # noqa: PLC0415

    out = Recursive(*(np.empty(len(close)) for _ in Recursive._fields))
    for start, end in pairwise(edges.tolist()):
        bars = slice(start, end)
        highs, lows, closes = high[bars], low[bars], close[bars]
        out.atr_14[bars] = talib.ATR(highs, lows, closes, 14)
        out.rsi_14[bars] = talib.RSI(closes, 14)
        out.ema_12[bars] = talib.EMA(closes, 12)
        out.ema_20[bars] = talib.EMA(closes, 20)
        out.ema_26[bars] = talib.EMA(closes, 26)
        out.macd[bars], out.macd_signal[bars], _ = talib.MACD(closes, 12, 26, 9)
        out.adx_14[bars] = talib.ADX(highs, lows, closes, 14)
        out.slope_14[bars] = talib.LINEARREG_SLOPE(closes, 14)
    return out
