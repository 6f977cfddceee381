from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.domain.actions import ActionKind
from marketdata_assets.domain.bars import VENDOR_SCHEMA
from marketdata_assets.polygon.action_pages import parse_actions
from marketdata_assets.polygon.errors import MalformedPageError
from marketdata_assets.polygon.parser import MOST_ROWS, PageRows, parse_envelope, parse_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BAR = {"t": 1690790400000, "o": 1.5, "h": 3, "l": 1, "c": 2.25, "v": 6.3896155e07, "vw": 1.9, "n": 1234}
MOMENT = datetime(2023, 7, 31, 8, tzinfo=UTC)


def body(*rows: Any, **envelope: Any) -> bytes:  # noqa: ANN401 - whatever JSON a vendor may send
    return json.dumps({"status": "OK", "results": rows, **envelope}).encode()


def with_value_text(field: str, value: str) -> str:
    """``BAR`` as JSON with ``value``, which need be no value of Python's, as its ``field``."""
    return json.dumps(BAR).replace(f'"{field}": {json.dumps(BAR[field])}', f'"{field}": {value}')


def with_value(field: str, value: str) -> bytes:
    """A page of ``BAR`` and of ``BAR`` with ``value`` as its ``field``."""
    rows = f"[{json.dumps(BAR)}, {with_value_text(field, value)}]"
    return f'{{"status":"OK","results":{rows}}}'.encode()


def test_a_bar_becomes_a_row() -> None:
    frame = parse_page(body(BAR)).frame
    assert frame.schema == VENDOR_SCHEMA
    assert frame.rows() == [(MOMENT, 1.5, 3.0, 1.0, 2.25, 63_896_155.0, 1.9, 1234)]


def test_fields_that_no_bar_has_are_ignored() -> None:
    assert parse_page(body(BAR | {"otc": True, "x": {"a": [1]}})).frame.equals(parse_page(body(BAR)).frame)


def test_the_vendors_order_is_kept() -> None:
    frame = parse_page(body({"t": 120_000}, {"t": 0}, {"t": 60_000})).frame
    assert [moment.minute for moment in frame["time"]] == [2, 0, 1]


@pytest.mark.parametrize("results", [{}, {"results": []}, {"results": None}])
def test_a_page_without_bars_has_the_schema(results: dict[str, Any]) -> None:
    page = parse_page(json.dumps({"status": "OK", "resultsCount": 0, **results}).encode())
    assert page.frame.is_empty()
    assert page.frame.schema == VENDOR_SCHEMA


@pytest.mark.parametrize(
    "odd",
    [None, "NaN", "7", True, {"a": 1}, [1], 10**30, -(10**30), 10**400],
    ids=lambda odd: f"{odd!s:.10}",
)
@pytest.mark.parametrize("field", ["t", "n"])
def test_a_whole_number_of_the_wrong_kind_becomes_null(field: str, odd: object) -> None:
    frame = parse_page(body(BAR, BAR | {field: odd})).frame
    column = {"t": "time", "n": "transactions"}[field]
    assert frame[column].is_null().to_list() == [False, True]
    assert frame.drop(column)[0].equals(frame.drop(column)[1])


@pytest.mark.parametrize("odd", [None, "NaN", "7", False, {"a": 1}, [1]], ids=lambda odd: f"{odd!s:.10}")
@pytest.mark.parametrize("field", ["o", "h", "l", "c", "v", "vw"])
def test_a_price_of_the_wrong_kind_becomes_null(field: str, odd: object) -> None:
    frame = parse_page(body(BAR, BAR | {field: odd})).frame
    assert sum(frame.null_count().row(0)) == 1
    assert frame["time"].to_list() == [MOMENT, MOMENT]


ODD_VALUES = [
    *(
        (field, value, "wrong_type")
        for field in ("o", "c", "v", "vw", "n")
        for value in ('"12"', "true", "[1]", "{}")
    ),
    ("n", "1.5", "transactions_not_whole"),
    ("n", "1e25", "transactions_too_large"),
    ("n", "10000000000000000000000000", "transactions_too_large"),
    ("n", "-1e25", "transactions_too_large"),
    ("n", "1e999", "transactions_too_large"),
    ("n", "1" + "0" * 5_000, "transactions_too_large"),
    # An infinite price or volume is left to the rules of values.
    *((field, "1e999", None) for field in ("o", "v", "vw")),
    *((field, "null", None) for field in ("v", "vw", "n")),
    ("n", "1234.0", None),
    ("vw", "-5", None),
]


@pytest.mark.parametrize(("field", "value", "rule"), ODD_VALUES, ids=lambda value: f"{value!s:.12}")
def test_a_value_that_its_column_cannot_hold_leaves_a_rule_and_the_vendors_text(
    field: str, value: str, rule: str | None
) -> None:
    page = parse_page(with_value(field, value))
    assert page.rows.faults == ({} if rule is None else {1: rule})
    sound, odd = page.rows.texts([0, 1])
    assert (sound, odd) == (json.dumps(BAR), with_value_text(field, value))


def test_the_text_of_a_row_is_the_vendors_own() -> None:
    text = '{ "t" : 1690790400000,"o":513.360,  "c":1e400,"vw":1.90,"c":"x","note":"\\u00e9\u00e9" }'
    page = parse_page(b'{"status":"OK","results":[' + text.encode() + b"]}")
    assert page.rows.texts([0]) == [text]
    assert page.rows.texts([]) == []
    assert PageRows().texts([0, 1]) == [None, None]


def test_a_fraction_of_a_millisecond_is_not_cut_off() -> None:
    frame = parse_page(with_value("t", "1690790400000.5")).frame
    assert frame["time"].to_list() == [MOMENT, MOMENT + timedelta(microseconds=500)]


def test_a_row_that_is_no_object_is_a_row_of_nulls() -> None:
    frame = parse_page(body(BAR, 7, None, "x")).frame
    assert frame.height == 4
    assert frame[1:].null_count().row(0) == (3,) * frame.width


def test_a_missing_field_becomes_null() -> None:
    frame = parse_page(body({"t": 1690790400000, "o": 1})).frame
    assert frame.rows() == [(MOMENT, 1.0, None, None, None, None, None, None)]


def test_numbers_in_exponent_form() -> None:
    row = b'{"t":1.6907904e12,"o":1e0,"h":1E+0,"l":10e-1,"c":1,"v":6.3e7,"vw":1,"n":1.2e3}'
    frame = parse_page(b'{"status":"OK","results":[' + row + b"]}").frame
    assert frame.rows() == [(MOMENT, 1.0, 1.0, 1.0, 1.0, 63_000_000.0, 1.0, 1200)]


@pytest.mark.parametrize("field", [None, 0, "x", [], {}])
def test_an_odd_envelope_does_not_hide_the_bars(field: object) -> None:
    page = parse_page(body(BAR, queryCount=field, next_url=field, request_id=field, ticker=field))
    assert page.frame.height == 1


def test_an_integer_request_id_is_text() -> None:
    assert parse_envelope(body(request_id=1)).request_id == "1"


def test_the_problem_is_error_or_message() -> None:
    assert parse_envelope(b'{"status":"ERROR","error":"Unknown API Key"}').problem == "Unknown API Key"
    assert parse_envelope(b'{"status":"NOT_AUTHORIZED","message":"upgrade"}').problem == "upgrade"


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_truncated_body_is_malformed(cut: int) -> None:
    with pytest.raises(MalformedPageError):
        parse_page(body(BAR, BAR)[:cut])


DEEP = b"[" * 100_000 + b"]" * 100_000
NOT_A_PAGE = {
    "html": b"<html>502</html>",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "results that are an object": b'{"results":{"a":1}}',
    "results that are a text": b'{"results":"[]"}',
    "not UTF-8": b"\xff",
    "a fact that is not UTF-8": b'{"status":"\xe9"}',
    "a field that is not UTF-8": b'{"\xe9":1,"status":"OK"}',
    "rows that are not UTF-8": b'{"status":"OK","results":[{"t":1,"x":"\xe9"}]}',
    "deep": DEEP,
    "a deep field": b'{"x":' + DEEP + b"}",
    "deep rows": b'{"results":' + DEEP + b"}",
    "a deep value": b'{"results":[{"t":1,"v":' + DEEP + b"}]}",
    "more rows than any page has": b'{"results":[' + b"{}," * MOST_ROWS + b"{}]}",
    "more numbers than any page has rows": b'{"results":[' + b"7," * MOST_ROWS + b"7]}",
    "a byte order mark": b'\xef\xbb\xbf{"status":"OK"}',
    "UTF-16": '{"status":"OK"}'.encode("utf-16"),
}


@pytest.mark.parametrize("text", NOT_A_PAGE.values(), ids=NOT_A_PAGE)
@pytest.mark.parametrize(
    "parse", [parse_page, partial(parse_actions, ActionKind.DIVIDENDS)], ids=["bars", "list"]
)
def test_what_is_no_page_is_malformed(parse: Callable[[bytes], object], text: bytes) -> None:
    with pytest.raises(MalformedPageError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("claims", "adjusted", "rows"),
    [
        ({}, False, ()),
        ({"adjusted": False, "resultsCount": 1, "count": 2}, False, (1, 2)),
        ({"adjusted": True, "resultsCount": "1", "count": True}, True, ()),
        ({"adjusted": "true", "count": None}, True, ()),
        ({"adjusted": None, "resultsCount": 0}, False, (0,)),
    ],
)
def test_what_a_page_says_of_itself(claims: dict[str, Any], adjusted: object, rows: tuple[int, ...]) -> None:
    envelope = parse_page(body(BAR, **claims)).envelope
    assert (envelope.is_adjusted, envelope.rows) == (adjusted, rows)


def test_a_fact_that_is_too_long_is_none() -> None:
    envelope = parse_envelope(body(ticker="A" * 100_000, error=[[]] * 100_000, request_id="r"))
    assert (envelope.ticker, envelope.problem, envelope.request_id) == (None, None, "r")


def test_recorded_minutes_with_a_next_page(vendor_fixtures: Path) -> None:
    page = parse_page((vendor_fixtures / "aggs_minute_AAPL_2023-07-31_limit10_next_url.json").read_bytes())
    assert page.frame.shape == (10, 8)
    assert page.frame.row(0) == (MOMENT, 195.89, 195.9, 195.53, 195.53, 4428.0, 195.7709, 121)
    assert page.envelope.base_bars == 10
    assert page.envelope.next_url == (
        "https://api.polygon.io/v2/aggs/ticker/AAPL/range/1/minute/1690791480000/2023-07-31?cursor=bGltaXQ9MTAmc29ydD1hc2M"
    )


def test_an_index_has_no_volume_vwap_or_transactions(vendor_fixtures: Path) -> None:
    frame = parse_page((vendor_fixtures / "doc_aggs_day_I-NDX.json").read_bytes()).frame
    assert frame.select("volume", "vwap", "transactions").null_count().row(0) == (2, 2, 2)
    assert frame["close"].to_list() == [11995.88235998666, 11830.28178808306]


def test_every_recorded_aggregate_page_parses(vendor_fixtures: Path) -> None:
    pages = [file for file in vendor_fixtures.glob("*aggs_*.json") if "results_only" not in file.name]
    assert len(pages) >= 10
    for file in pages:
        page = parse_page(file.read_bytes())
        recorded = json.loads(file.read_bytes())
        assert page.frame["close"].to_list() == [row["c"] for row in recorded.get("results", [])]
        assert page.frame.select("time", "open", "high", "low", "close").null_count().row(0) == (0,) * 5
        assert page.envelope.status == recorded["status"]
