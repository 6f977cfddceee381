from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.domain.bars import VENDOR_SCHEMA
from marketdata_assets.polygon.errors import MalformedPageError
from marketdata_assets.polygon.parser import parse_envelope, parse_page

if TYPE_CHECKING:
    from pathlib import Path

BAR = {"t": 1690790400000, "o": 1.5, "h": 3, "l": 1, "c": 2.25, "v": 6.3896155e07, "vw": 1.9, "n": 1234}
MOMENT = datetime(2023, 7, 31, 8, tzinfo=UTC)


def body(*rows: Any, **envelope: Any) -> bytes:  # noqa: ANN401 - whatever JSON a vendor may send
    return json.dumps({"status": "OK", "results": rows, **envelope}).encode()


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


@pytest.mark.parametrize(
    "odd", [None, "NaN", "7", False, {"a": 1}, [1], 10**400], ids=lambda odd: f"{odd!s:.10}"
)
@pytest.mark.parametrize("field", ["o", "h", "l", "c", "v", "vw"])
def test_a_price_of_the_wrong_kind_becomes_null(field: str, odd: object) -> None:
    frame = parse_page(body(BAR, BAR | {field: odd})).frame
    assert sum(frame.null_count().row(0)) == 1
    assert frame["time"].to_list() == [MOMENT, MOMENT]


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


@pytest.mark.parametrize("text", [b"<html>502</html>", b"[]", b"7", b"null", b'{"results":{"a":1}}', b"\xff"])
def test_what_is_no_page_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedPageError):
        parse_page(text)


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
