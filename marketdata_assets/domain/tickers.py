"""How the vendor writes a symbol."""

from __future__ import annotations

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass

_QUOTES = frozenset({"USD", "USDT", "USDC", "EUR", "GBP", "JPY", "AUD", "CAD", "CHF", "BTC", "ETH"})


def vendor_ticker(symbol: str, asset_class: AssetClass) -> str:
    """The vendor's ticker: ``X:BTCUSD`` for BTC-USD, ``I:VIX`` for the index VIX, a stock's symbol.

    Raises :class:`ConfigurationError` when a crypto symbol is not BASE-QUOTE.
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


def inferred_asset_class(symbol: str) -> AssetClass:
    """Crypto for BASE-QUOTE in a usual quote currency (``ETH-EUR``), else stock.

    A guess for symbols that nobody has registered: a name does not tell an index or an ETF from a stock.
    """
    base, _, quote = symbol.partition("-")
    return AssetClass.CRYPTO if base and quote in _QUOTES else AssetClass.STOCK
