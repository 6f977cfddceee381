from __future__ import annotations

import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.tickers import inferred_asset_class, vendor_ticker


@pytest.mark.parametrize(
    ("symbol", "asset_class", "ticker"),
    [
        ("AAPL", AssetClass.STOCK, "AAPL"),
        ("BRK.B", AssetClass.STOCK, "BRK.B"),
        ("SPY", AssetClass.ETF, "SPY"),
        ("BTC-USD", AssetClass.CRYPTO, "X:BTCUSD"),
        ("ETH-EUR", AssetClass.CRYPTO, "X:ETHEUR"),
        ("VIX", AssetClass.INDEX, "I:VIX"),
    ],
)
def test_vendor_ticker(symbol: str, asset_class: AssetClass, ticker: str) -> None:
    assert vendor_ticker(symbol, asset_class) == ticker


@pytest.mark.parametrize("symbol", ["BTCUSD", "BTC-", "-USD", "BTC-USD-X"])
def test_a_crypto_symbol_that_is_no_pair_is_refused(symbol: str) -> None:
    with pytest.raises(ConfigurationError, match="BTC-USD"):
        vendor_ticker(symbol, AssetClass.CRYPTO)


@pytest.mark.parametrize(
    ("symbol", "asset_class"),
    [
        ("BTC-USD", AssetClass.CRYPTO),
        ("ETH-BTC", AssetClass.CRYPTO),
        ("AAPL", AssetClass.STOCK),
        ("BRK-B", AssetClass.STOCK),
        ("BRK.B", AssetClass.STOCK),
    ],
)
def test_inferred_asset_class(symbol: str, asset_class: AssetClass) -> None:
    assert inferred_asset_class(symbol) is asset_class
