from __future__ import annotations

import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.tickers import infer_asset_class, question_spelling, vendor_ticker


@pytest.mark.parametrize(
    ("symbol", "asset_class", "ticker"),
    [
        ("AAPL", AssetClass.STOCK, "AAPL"),
        ("BRK.B", AssetClass.STOCK, "BRK.B"),
        ("BACpL", AssetClass.STOCK, "BACpL"),
        ("ETH-BTC", AssetClass.CRYPTO, "X:ETHBTC"),
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
        ("BTC-BRL", AssetClass.CRYPTO),
        ("BTC-USDT", AssetClass.CRYPTO),
        ("SOL-FDUSD", AssetClass.CRYPTO),
        ("BAC-PRL", AssetClass.STOCK),
        ("BACpL", AssetClass.STOCK),
        ("AAPL", AssetClass.STOCK),
        ("BRK-B", AssetClass.STOCK),
        ("BRK.B", AssetClass.STOCK),
    ],
)
def test_inferred_asset_class(symbol: str, asset_class: AssetClass) -> None:
    assert infer_asset_class(symbol) is asset_class


@pytest.mark.parametrize(
    ("symbol", "asset_class"),
    [
        *((symbol, None) for symbol in ("AAPL", "BRK.B", "BACpL", "ACHR.WS", "ABCr", "ABCw", "ABCpAw", "V")),
        *((symbol, AssetClass.ETF) for symbol in ("SPY", "VTI")),
        *(
            (symbol, None)
            for symbol in ("BTC-USD", "ETH-BTC", "BTC-BRL", "BTC-USDT", "1INCH-USD", "USDT-USD", "T-USD")
        ),
        *((symbol, AssetClass.INDEX) for symbol in ("VIX", "SPX", "VIX1D")),
        ("VIX", AssetClass.STOCK),
    ],
)
def test_a_symbol_that_is_spelt_as_the_vendor_does_is_not_questioned(
    symbol: str, asset_class: AssetClass | None
) -> None:
    assert question_spelling(symbol, asset_class) is None


@pytest.mark.parametrize(
    ("symbol", "asset_class", "meant"),
    [
        ("BTCUSD", None, "do you mean BTC-USD?"),
        ("BTCUSD", AssetClass.STOCK, "do you mean BTC-USD?"),
        ("BTCUSDT", None, "do you mean BTC-USDT?"),
        ("BTC-USD", AssetClass.STOCK, "BTC-USD with the class crypto?"),
        ("EUR-USD", AssetClass.STOCK, "EUR-USD with the class crypto?"),
        ("EUR-USD", None, "a pair of currencies"),
        ("BRK-B", None, "do you mean BRK.B?"),
        ("BRK-B", AssetClass.ETF, "do you mean BRK.B?"),
        ("BRK-B", AssetClass.CRYPTO, "do you mean BRK.B?"),
        ("BAC-PL", None, "do you mean BACpL?"),
        ("ACHR-WT", None, "do you mean ACHR.WS?"),
        ("VIX", None, "do you mean VIX with the class index?"),
        ("SPX", None, "with the class index?"),
        ("Aapl", None, "do you mean AAPL?"),
        ("GOOGLE", None, "is that the vendor's ticker?"),
        ("123", None, "is that the vendor's ticker?"),
        ("Btc-USD", None, "do you mean BTC-USD?"),
        ("BTC-USD", AssetClass.INDEX, "do you mean another class?"),
    ],
)
def test_a_symbol_that_is_probably_a_mistake_gets_a_question_in_one_line(
    symbol: str, asset_class: AssetClass | None, meant: str
) -> None:
    question = question_spelling(symbol, asset_class)
    assert question is not None
    assert symbol in question
    assert meant in question
    assert "\n" not in question


@pytest.mark.parametrize("asset_class", [None, *AssetClass])
@pytest.mark.parametrize("symbol", ["A..B", "USD-", "BTC-USD-EUR", "AAPL.", "A.-B", "BTC--USD"])
def test_what_no_ticker_of_the_vendor_can_be_is_refused(symbol: str, asset_class: AssetClass | None) -> None:
    with pytest.raises(ConfigurationError, match="is not a symbol of the vendor"):
        question_spelling(symbol, asset_class)
