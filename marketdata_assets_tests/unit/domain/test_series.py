from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.errors import ConfigurationError, MarketDataError
from marketdata_assets.domain.series import AssetClass, Series, check_name, parse_symbol
from marketdata_assets.domain.timeframe import BASES, Timeframe

symbols = st.from_regex(r"[A-Z0-9][A-Za-z0-9.\-]{0,19}", fullmatch=True)


@given(symbols, st.sampled_from(Timeframe))
def test_a_key_names_its_series(symbol: str, timeframe: Timeframe) -> None:
    series = Series(symbol, timeframe)
    assert Series.parse(series.key) == series
    assert str(series) == series.key == f"{symbol}:{timeframe.value}"


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("AAPL:1m", Series("AAPL", Timeframe.M1)),
        ("BRK.B:1d", Series("BRK.B", Timeframe.D1)),
        ("BACpL:1h", Series("BACpL", Timeframe.H1)),
    ],
)
def test_series_keys(key: str, series: Series) -> None:
    assert Series.parse(key) == series


@pytest.mark.parametrize("key", ["AAPL", "", "AAPL:", ":1m", "AAPL:2m", "AAPL:1M", "A|B:1m", "X:BTCUSD:1m"])
def test_a_key_that_names_no_series_is_refused_in_one_line(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Series.parse(key)
    assert "\n" not in str(caught.value)


@given(symbols)
def test_a_symbol_is_trimmed_and_kept_as_it_is_written(symbol: str) -> None:
    assert parse_symbol(f" {symbol} ") == symbol


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("BRK/B", "BRK.B"),
        ("BAC/PL", "BACpL"),
        ("BTC/USD", "BTC-USD"),
        ("eth_btc", "ETH-BTC"),
        ("X:BTCUSDT", "BTC-USDT"),
        ("I:VIX", "VIX with the class index"),
        ("^VIX", "VIX with the class index"),
    ],
)
def test_a_text_of_another_vendor_gets_the_spelling_of_this_one(text: str, meant: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_symbol(text)
    assert str(caught.value) == f"{text!r} is not a symbol: do you mean {meant}?"


@pytest.mark.parametrize("name", ["Apple", "Société Générale", "Berkshire, Class B", "x" * 200, "日本電信"])
def test_a_name_is_one_line_of_plain_text(name: str) -> None:
    check_name("AAPL", name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("x" * 201, "has 201 characters"),
        *((f"A{hidden}B", "control character") for hidden in "\0\t\n\r\x1b\x7f\x85\x9b\u2028\u2029"),
    ],
)
def test_a_name_that_is_something_else_is_refused_in_one_printable_line(name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the name of AAPL .*{reason}") as caught:
        check_name("AAPL", name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["", " ", "A B", "A|B", "A,B", "A[0]", "X:BTCUSD", ".A", "-A", "A" * 21, "ÄPL", "A\nB", "A\n|"]
)
def test_text_that_is_no_symbol_is_quoted_in_the_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a symbol") as caught:
        parse_symbol(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_series_sort_by_symbol_then_timeframe_name() -> None:
    assert sorted(map(Series.parse, ["B:1m", "A:1w", "A:1d"])) == list(
        map(Series.parse, ["A:1d", "A:1w", "B:1m"])
    )


@pytest.mark.parametrize(
    ("name", "multiplier", "timespan", "duration", "base"),
    [
        ("1m", 1, "minute", timedelta(minutes=1), "1m"),
        ("5m", 5, "minute", timedelta(minutes=5), "1m"),
        ("15m", 15, "minute", timedelta(minutes=15), "1m"),
        ("30m", 30, "minute", timedelta(minutes=30), "1m"),
        ("1h", 1, "hour", timedelta(hours=1), "1m"),
        ("4h", 4, "hour", timedelta(hours=4), "1m"),
        ("1d", 1, "day", timedelta(days=1), "1d"),
        ("1w", 1, "week", timedelta(days=7), "1d"),
    ],
)
def test_the_eight_timeframes(
    name: str, multiplier: int, timespan: str, duration: timedelta, base: str
) -> None:
    timeframe = Timeframe.parse(f" {name} ")
    assert timeframe.value == str(timeframe) == name
    assert (timeframe.multiplier, timeframe.timespan) == (multiplier, timespan)
    assert timeframe.duration == duration
    assert timeframe.base.value == base
    assert timeframe.is_base == (timeframe in BASES) == (name == base)
    assert timeframe.is_intraday == (duration < timedelta(days=1))


def test_there_are_eight_timeframes_from_short_to_long() -> None:
    assert len(Timeframe) == 8
    assert [timeframe.duration for timeframe in Timeframe] == sorted(
        timeframe.duration for timeframe in Timeframe
    )


@pytest.mark.parametrize("text", ["2m", "", "1M", "3D", "61m", "month"])
def test_an_unknown_timeframe_is_refused_by_name_with_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigurationError, match="1m, 5m, 15m, 30m, 1h, 4h, 1d, 1w") as caught:
        Timeframe.parse(text)
    assert repr(text) in str(caught.value)


def test_errors_carry_the_exit_code_of_the_command_line() -> None:
    assert (MarketDataError("x").exit_code, ConfigurationError("x").exit_code) == (1, 2)
    assert issubclass(ConfigurationError, MarketDataError)


@pytest.mark.parametrize(
    ("asset_class", "can_split"),
    [("stock", True), ("etf", True), ("crypto", False), ("index", False)],
)
def test_shares_can_split(asset_class: str, *, can_split: bool) -> None:
    assert AssetClass(asset_class).can_split is can_split
