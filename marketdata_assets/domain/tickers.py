"""Tickers: the vendor's spelling of a symbol, and what in a symbol is probably a mistake."""

from __future__ import annotations

import re
from typing import Final

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.spelling import CURRENCIES, capitalise, split_pair, suggest_share

_SHORTEST_QUOTE: Final = 3
"""The fewest letters of a quote currency: share classes, warrants and units have one or two (BRK-B, ACHR-WS)."""
_PREFERRED: Final = re.compile(r"[A-Z]{1,5}-PR[A-Z]")
_JUNK: Final = re.compile(r".*(?:[.\-]{2}|[.\-]$|-.*-).*")
_SHARE: Final = re.compile(r"[A-Z]{1,5}(?:p[A-Z]?)?[rw]{0,2}(?:\.[A-Z]{1,2}){0,2}w?")
"""The vendor's spelling of shares: AAPL, BRK.B, BACpL (preferred), ACHR.WS (warrant), ABCr (right), ABCw (when issued)."""
_INDEX: Final = re.compile(r"[A-Z0-9]{1,12}(?:\.[A-Z0-9]{1,6})?")
_COIN: Final = re.compile(r"[A-Z0-9]{1,15}")
_INDICES: Final = frozenset(
    {
        *(
            "VIX",
            "VIX1D",
            "VIX9D",
            "VVIX",
            "VXN",
            "RVX",
            "OVX",
            "GVZ",
            "SKEW",
            "SPX",
            "NDX",
            "DJI",
            "RUT",
            "RUI",
        ),
        *("RUA", "OEX", "XEO", "XND", "NYA", "TNX", "TYX", "FVX", "IRX", "SOX"),
    }
)
"""Well-known indices whose names no stock or ETF has."""


def vendor_ticker(symbol: str, asset_class: AssetClass) -> str:
    """Return the vendor's ticker: ``X:BTCUSD`` for BTC-USD, ``I:VIX`` for the index VIX, a stock's symbol.

    Raises:
        ConfigurationError: A crypto symbol is not BASE-QUOTE.
    """
    if asset_class is AssetClass.CRYPTO:
        base, separator, quote = symbol.partition("-")
        if not (base and separator and quote) or "-" in quote:
            message = f"{symbol!r} is not a crypto pair: write BASE-QUOTE, as in BTC-USD"
            raise ConfigurationError(message)
        return f"X:{base}{quote}"
    if asset_class is AssetClass.INDEX:
        return f"I:{symbol}"
    return symbol


def infer_asset_class(symbol: str) -> AssetClass:
    """Guess the class of an untracked symbol: crypto for BASE-QUOTE (``ETH-EUR``, ``BTC-BRL``, ``ETH-BTC``), else stock.

    A quote has at least three letters. An index or an ETF cannot be recognised by its name.
    """
    base, _, quote = symbol.partition("-")
    is_pair = base and len(quote) >= _SHORTEST_QUOTE and "-" not in quote
    return AssetClass.CRYPTO if is_pair and not _PREFERRED.fullmatch(symbol) else AssetClass.STOCK


def is_index(symbol: str) -> bool:
    """Whether ``symbol``, in capitals or not, is known to be an index at the vendor."""
    return capitalise(symbol) in _INDICES


def question_spelling(symbol: str, asset_class: AssetClass | None) -> str | None:
    """Describe in one line why ``symbol`` is probably a mistake and what is probably meant; None when it looks right.

    ``asset_class`` is the class that was given, if any. Tickers are judged by their form alone, so a questioned symbol
    may exist.

    Raises:
        ConfigurationError: No ticker of the vendor has this form, or a crypto symbol is not a pair.
    """
    if _JUNK.fullmatch(symbol):
        message = (
            f"{symbol!r} is not a symbol of the vendor: '.' and '-' stand between letters or digits, as in BRK.B, and"
            " one '-' in a pair, as in BTC-USD"
        )
        raise ConfigurationError(message)
    kind = asset_class or infer_asset_class(symbol)
    if kind is AssetClass.CRYPTO:
        vendor_ticker(symbol, kind)
        return _question_pair(symbol)
    if asset_class is None and symbol in _INDICES:
        return f"{symbol} is an index at the vendor: do you mean {symbol} with the class index?"
    if kind is AssetClass.INDEX:
        fits = _INDEX.fullmatch(symbol)
        return (
            None if fits else f"{symbol} is not spelt like an index of the vendor: do you mean another class?"
        )
    return None if _SHARE.fullmatch(symbol) else _question_share(symbol)


def _question_pair(symbol: str) -> str | None:
    base, _, quote = symbol.partition("-")
    if not (_COIN.fullmatch(base) and _COIN.fullmatch(quote)):
        return f"{symbol} is not spelt like a crypto pair of the vendor: do you mean {symbol.upper()}?"
    if base in CURRENCIES and quote in CURRENCIES:
        return f"{symbol} is a pair of currencies, and the vendor's crypto pairs begin with a coin: do you mean a coin?"
    if len(quote) < _SHORTEST_QUOTE:
        return f"{symbol} looks like a share and not like a crypto pair: do you mean {suggest_share(symbol) or base}?"
    return None


def _question_share(symbol: str) -> str:
    if infer_asset_class(symbol) is AssetClass.CRYPTO:
        return f"{symbol} is a crypto pair and not a share: do you mean {symbol} with the class crypto?"
    suggestion = suggest_share(symbol) or split_pair(symbol)
    if suggestion is None and _SHARE.fullmatch(symbol.upper()):
        suggestion = symbol.upper()
    meant = f"do you mean {suggestion}?" if suggestion else "is that the vendor's ticker?"
    return f"{symbol} is not spelt like a share of the vendor, as AAPL, BRK.B and BACpL are: {meant}"
