from __future__ import annotations

from collections import Counter

import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass, parse_symbol
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.symbols import (
    DEFAULT_TIMEFRAMES,
    TrackedSymbol,
    packaged_universe,
    parse_asset_class,
    read_universe,
)

HEADING = "symbol,asset_class,name,timeframes\n"


def test_the_packaged_universe_is_20_stocks_20_etfs_and_22_crypto_pairs() -> None:
    universe = packaged_universe()
    assert Counter(one.asset_class for one in universe) == {
        AssetClass.STOCK: 20,
        AssetClass.ETF: 20,
        AssetClass.CRYPTO: 22,
    }
    assert len({one.symbol for one in universe}) == len({one.vendor_ticker for one in universe}) == 62
    for one in universe:
        assert parse_symbol(one.symbol) == one.symbol
        assert one.timeframes == DEFAULT_TIMEFRAMES == (Timeframe.H1, Timeframe.D1)
        assert one.name
        assert one.active
        assert one.calendar == ("24/7" if one.asset_class is AssetClass.CRYPTO else "XNYS")
        assert one.vendor_ticker.startswith("X:") == (one.asset_class is AssetClass.CRYPTO)


def test_a_universe_of_ones_own() -> None:
    text = HEADING + (
        'brk.b,stock,"Berkshire, Class B",1w 1m\nBTC-USD,CRYPTO,,\n\nVIX,index,Volatility,1d\nspy, etf ,,4h\n'
    )
    universe = read_universe(text, "mine.csv")
    assert universe == [
        TrackedSymbol("BRK.B", AssetClass.STOCK, "Berkshire, Class B", (Timeframe.M1, Timeframe.W1)),
        TrackedSymbol("BTC-USD", AssetClass.CRYPTO, None, DEFAULT_TIMEFRAMES),
        TrackedSymbol("VIX", AssetClass.INDEX, "Volatility", (Timeframe.D1,)),
        TrackedSymbol("SPY", AssetClass.ETF, None, (Timeframe.H4,)),
    ]
    assert [one.vendor_ticker for one in universe] == ["BRK.B", "X:BTCUSD", "I:VIX", "SPY"]
    assert [one.key for one in universe[0].series] == ["BRK.B:1m", "BRK.B:1w"]


def test_name_and_timeframes_may_be_left_out() -> None:
    assert read_universe("asset_class,symbol\netf,SPY\n", "x") == [TrackedSymbol("SPY", AssetClass.ETF)]
    assert read_universe(HEADING, "x") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("A B,stock,,", "'A B' is not a symbol"),
        (",stock,,", "is not a symbol"),
        ("SPY,fund,,", "unknown asset class 'fund': use one of stock, etf, crypto, index"),
        ("SPY,,,", "unknown asset class"),
        ("SPY", "unknown asset class"),
        ("SPY,etf,,1h 2h", "unknown timeframe '2h'"),
        ("MSFT,stock,,", "MSFT stands there twice"),
        ("msft,stock,,", "MSFT stands there twice"),
        ("BTCUSD,crypto,,", "'BTCUSD' is not a crypto pair"),
    ],
)
def test_a_bad_line_is_named(line: str, reason: str) -> None:
    text = f"{HEADING}MSFT,stock,Microsoft,1d\n{line}\nAAPL,stock,,\n"
    with pytest.raises(ConfigurationError) as caught:
        read_universe(text, "mine.csv")
    assert str(caught.value).startswith("mine.csv, line 3: ")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("nothing was imported")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "SPY,etf\n", "symbol,name\nSPY,x\n"])
def test_a_file_without_its_heading_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mine\.csv lacks a heading with symbol and asset_class"):
        read_universe(text, "mine.csv")


@pytest.mark.parametrize("one", AssetClass)
def test_asset_classes_are_read_in_any_case(one: AssetClass) -> None:
    assert parse_asset_class(f" {one.value.title()} ") is one
