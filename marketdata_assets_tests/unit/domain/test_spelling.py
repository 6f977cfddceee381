from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.spelling import Match, capitalise, match_symbol, split_pair, suggest_share

symbols = st.from_regex(r"[A-Z][A-Za-z]{0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "known", "match"),
    [
        ("aapl", ["AAPL", "MSFT"], Match("AAPL")),
        ("bacpl", ["BACpL"], Match("BACpL")),
        ("bacpl", ["BACpL", "BACPL"], Match(None, ("BACPL", "BACpL"))),
        ("BACPL", ["BACpL", "BACPL"], Match("BACPL")),
        ("BACpL", ["BACpL", "BACPL"], Match("BACpL")),
        ("BACPL", ["BACpL"], Match(None, ("BACpL",))),
        ("Aapl", ["AAPL"], Match(None, ("AAPL",))),
        ("NFLX", ["AAPL"], Match(None)),
        ("123", ["123"], Match("123")),
    ],
)
def test_capitals_tell_symbols_apart_and_small_letters_find_the_only_one(
    text: str, known: list[str], match: Match
) -> None:
    assert match_symbol(text, known) == match
    assert match_symbol(text, reversed(known)) == match


@given(st.lists(symbols, unique=True), symbols)
def test_a_symbol_as_it_is_written_means_itself_or_nothing(known: list[str], symbol: str) -> None:
    match = match_symbol(symbol, known)
    assert match.symbol == (symbol if symbol in known else None)
    lower = match_symbol(symbol.lower(), known)
    fitting = [candidate for candidate in known if candidate.lower() == symbol.lower()]
    assert lower == (Match(fitting[0]) if len(fitting) == 1 else Match(None, tuple(sorted(fitting))))


@pytest.mark.parametrize(("text", "symbol"), [("aapl", "AAPL"), ("btc-usd", "BTC-USD"), ("BACpL", "BACpL")])
def test_only_small_letters_alone_become_capitals(text: str, symbol: str) -> None:
    assert capitalise(text) == symbol


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("BRK-B", "BRK.B"),
        ("BRK/B", "BRK.B"),
        ("BAC-PL", "BACpL"),
        ("BAC-PRL", "BACpL"),
        ("ACHR-WT", "ACHR.WS"),
        ("CCL-UN", "CCL.U"),
        ("ABC-R", "ABCr"),
        ("ABC-WI", "ABCw"),
        ("BTC-USD", None),
        ("AAPL", None),
    ],
)
def test_shares_as_others_write_them(text: str, share: str | None) -> None:
    assert suggest_share(text) == share


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("BTCUSD", "BTC-USD"),
        ("BTCUSDT", "BTC-USDT"),
        ("ETHBTC", "ETH-BTC"),
        ("BTCBRL", "BTC-BRL"),
        ("AAPL", None),
    ],
)
def test_pairs_in_one_word(text: str, pair: str | None) -> None:
    assert split_pair(text) == pair
