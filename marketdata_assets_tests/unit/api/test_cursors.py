"""Cursors: opaque, bound to a query, never trusted."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.api import cursors
from marketdata_assets.api.cursors import GapCursor, SeriesCursor
from marketdata_assets.api.problems import Problem
from marketdata_assets.domain.calendar import microseconds, moment_of

MOMENTS = st.datetimes(
    datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2199-01-01"), timezones=st.just(UTC)
)


@given(MOMENTS, MOMENTS, st.none() | st.dates())
def test_a_cursor_comes_back_as_it_went(last: datetime, end: datetime, scale: date | None) -> None:
    cursor = SeriesCursor("q", microseconds(last), microseconds(end), scale)
    text = cursors.encode(cursor)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert cursors.decode(text, SeriesCursor, "q") == cursor
    assert moment_of(cursor.last) == last


@pytest.mark.parametrize("symbol", ["BACpL", "BACPL", "BTC-USD"])
def test_a_cursor_keeps_the_capitals_of_a_symbol(symbol: str) -> None:
    text = cursors.encode(GapCursor("q", symbol, "1m", 0))
    assert cursors.decode(text, GapCursor, "q").symbol == symbol


def test_a_fingerprint_covers_everything_but_the_page() -> None:
    requested = {"symbol": "AAPL", "limit": 5, "cursor": None}
    same = cursors.query_fingerprint("bars", {**requested, "limit": 7, "cursor": "x"})
    assert cursors.query_fingerprint("bars", requested) == same
    assert cursors.query_fingerprint("bars", {**requested, "symbol": "SPY"}) != same
    assert cursors.query_fingerprint("features", requested) != same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "AAAA",
        "ä",
        cursors.encode(SeriesCursor("other", 0, 1, None)),
        cursors.encode(SeriesCursor("q", 10**18, 1, None)),
        cursors.encode(GapCursor("q", "AAPL", "1m", 0)),
    ],
)
def test_what_is_not_a_cursor_of_this_query_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        cursors.decode(text, SeriesCursor, "q")
    assert (refused.value.status, refused.value.code) == (422, "invalid-cursor")


@given(st.text())
def test_no_text_breaks_the_decoder(text: str) -> None:
    with pytest.raises(Problem):
        cursors.decode(text, GapCursor, "q")


def test_a_gap_cursor_holds_a_key_and_nothing_else() -> None:
    forged = cursors.encode(GapCursor("q", "'; drop table ohlcv; --", "1m", 0))
    with pytest.raises(Problem):
        cursors.decode(forged, GapCursor, "q")
