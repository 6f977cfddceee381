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
        'BRK.B,stock,"Berkshire, Class B",1w 1m\nBTC-USD,CRYPTO,,\n\nVIX,index,Volatility,1d\n'
        " SPY, etf ,,4h\nBACpL,stock,,\nBACPL,stock,,\n"
    )
    universe = read_universe(text, "mine.csv")
    assert universe == [
        TrackedSymbol("BRK.B", AssetClass.STOCK, "Berkshire, Class B", (Timeframe.M1, Timeframe.W1)),
        TrackedSymbol("BTC-USD", AssetClass.CRYPTO, None, DEFAULT_TIMEFRAMES),
        TrackedSymbol("VIX", AssetClass.INDEX, "Volatility", (Timeframe.D1,)),
        TrackedSymbol("SPY", AssetClass.ETF, None, (Timeframe.H4,)),
        TrackedSymbol("BACpL", AssetClass.STOCK),
        TrackedSymbol("BACPL", AssetClass.STOCK),
    ]
    assert [one.vendor_ticker for one in universe] == ["BRK.B", "X:BTCUSD", "I:VIX", "SPY", "BACpL", "BACPL"]
    assert [one.key for one in universe[0].series] == ["BRK.B:1m", "BRK.B:1w"]


def test_name_and_timeframes_may_be_left_out() -> None:
    assert read_universe("asset_class,symbol\netf,SPY\n", "x") == [TrackedSymbol("SPY", AssetClass.ETF)]
    assert read_universe(HEADING, "x") == []


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ("A B,stock,,", "column 1 (symbol)", "'A B' is not a symbol"),
        (",stock,,", "column 1 (symbol)", "is not a symbol"),
        ("BRK/B,stock,,", "column 1 (symbol)", "do you mean BRK.B?"),
        ("SPY,fund,,", "column 2 (asset_class)", "'fund': use one of stock, etf, crypto, index"),
        ("SPY,,,", "column 2 (asset_class)", "unknown asset class"),
        ("SPY", "column 2 (asset_class)", "unknown asset class"),
        ("SPY,etf,,1h 2h", "column 4 (timeframes)", "unknown timeframe '2h'"),
        ("SPY,etf,,1h,1d", "column 5", "the heading has 4 columns: put quotes around"),
        ("SPY,etf,a\x1b[31m,", "column 3 (name)", "control character"),
        (f"SPY,etf,{'x' * 201},", "column 3 (name)", "has 201 characters"),
        ("MSFT,stock,,", "column 1 (symbol)", "MSFT appears twice, first on line 2"),
        ("msft,stock,,", "column 1 (symbol)", "MSFT appears twice, first on line 2"),
        ("BTCUSD,crypto,,", "column 1 (symbol)", "'BTCUSD' is not a crypto pair"),
    ],
)
def test_a_bad_line_is_named_with_its_column(line: str, column: str, reason: str) -> None:
    text = f"{HEADING}MSFT,stock,Microsoft,1d\n{line}\nAAPL,stock,,\n"
    with pytest.raises(ConfigurationError) as caught:
        read_universe(text, "mine.csv")
    assert str(caught.value).startswith(f"mine.csv, line 3, {column}: ")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("nothing was imported")
    assert "\n" not in str(caught.value)


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    text = f'{HEADING}"BRK.B",stock,"a\u2028b",\n'
    with pytest.raises(ConfigurationError, match=r"line 2, column 3 \(name\)"):
        read_universe(text, "mine.csv")
    with pytest.raises(ConfigurationError, match="line 3: "):
        read_universe(f'{HEADING}AAPL,stock,,\nSPY,etf,"SPDR,1d\n', "mine.csv")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("SPY,etf\n", "it has no heading"),
        ("symbol,name\nSPY,x\n", "its heading has no column asset_class"),
        ("symbol;asset_class;name;timeframes\nSPY;etf;;\n", "its columns are separated by ';': write commas"),
        ("symbol\tasset_class\nSPY\tetf\n", "its columns are separated by '\\t': write commas"),
    ],
)
def test_a_file_without_its_heading_says_what_it_has_instead(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_universe(text, "mine.csv")
    assert str(caught.value).startswith(f"mine.csv, line 1, column 1: {reason}")
    assert "the first line of such a file is symbol,asset_class,name,timeframes" in str(caught.value)


@pytest.mark.parametrize("one", AssetClass)
def test_asset_classes_are_read_in_any_case(one: AssetClass) -> None:
    assert parse_asset_class(f" {one.value.title()} ") is one
