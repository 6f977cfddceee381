from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.polygon.action_pages import parse_actions
from marketdata_assets.polygon.actions import ENDPOINTS, SYMBOLS_A_REQUEST, plan_lists
from marketdata_assets.polygon.errors import MalformedPageError

if TYPE_CHECKING:
    from pathlib import Path

CURRENT, FORMER = ENDPOINTS[ActionKind.SPLITS]


def test_the_universe_is_one_request_of_the_current_endpoint() -> None:
    symbols = [f"S{number}" for number in range(62)]
    (request,) = plan_lists(ActionKind.SPLITS, CURRENT, symbols)
    query = dict(request.query)
    assert request.path == "/stocks/v1/splits"
    assert query == {"ticker.any_of": ",".join(symbols), "sort": "execution_date.asc", "limit": "5000"}
    assert str(request) == "splits of 62 symbols"


def test_the_former_endpoint_is_asked_symbol_by_symbol() -> None:
    requests = plan_lists(ActionKind.SPLITS, FORMER, ["AAPL", "BRK.B", "AAPL"])
    assert [dict(one.query)["ticker"] for one in requests] == ["AAPL", "BRK.B"]
    assert {one.path for one in requests} == {"/v3/reference/splits"}
    assert [str(one) for one in requests] == ["splits of AAPL", "splits of BRK.B"]


@given(st.lists(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), max_size=250))
def test_every_symbol_is_asked_for_once_and_no_url_is_too_long(symbols: list[str]) -> None:
    requests = plan_lists(ActionKind.DIVIDENDS, ENDPOINTS[ActionKind.DIVIDENDS][0], symbols)
    assert [name for one in requests for name in one.symbols] == list(dict.fromkeys(symbols))
    assert [dict(one.query)["ticker.any_of"].split(",") for one in requests] == [
        list(one.symbols) for one in requests
    ]
    assert len(requests) == -(-len(set(symbols)) // SYMBOLS_A_REQUEST)


def read(folder: Path, name: str, kind: ActionKind) -> list[dict[str, Any]]:
    page = parse_actions(kind, (folder / f"{name}.json").read_bytes())
    assert page.frame.schema == SCHEMAS[kind]
    return page.frame.to_dicts()


def test_a_documented_split(vendor_fixtures: Path) -> None:
    body = (vendor_fixtures / "doc_stocks_v1_splits.json").read_bytes()
    page = parse_actions(ActionKind.SPLITS, body)
    assert page.envelope.request_id == "1"  # an integer in the body
    assert page.frame.to_dicts() == [
        {
            "symbol": "AAPL",
            "execution_date": date(2005, 2, 28),
            "split_from": 1.0,
            "split_to": 2.0,
            "adjustment_type": "forward_split",
            "vendor_id": "E90a77bdf742661741ed7c8fc086415f0457c2816c45899d73aaa88bdc8ff6025",
        }
    ]


def test_the_former_endpoints_splits(vendor_fixtures: Path) -> None:
    rows = read(vendor_fixtures, "v3_reference_splits_client_mock", ActionKind.SPLITS)
    assert len(rows) == 10
    assert rows[-1] == {
        "symbol": "CIG.C",
        "execution_date": date(2022, 5, 2),
        "split_from": 3.0,
        "split_to": 4.0,
        "adjustment_type": None,
        "vendor_id": None,
    }


def test_dividends_of_both_endpoints(vendor_fixtures: Path) -> None:
    (current,) = read(vendor_fixtures, "doc_stocks_v1_dividends", ActionKind.DIVIDENDS)
    assert (current["ex_dividend_date"], current["cash_amount"]) == (date(2025, 8, 11), 0.26)
    assert (current["distribution_type"], current["dividend_type"]) == ("recurring", None)
    assert (current["frequency"], current["pay_date"]) == (4, date(2025, 8, 14))
    former = read(vendor_fixtures, "v3_reference_dividends_client_mock", ActionKind.DIVIDENDS)[0]
    assert (former["symbol"], former["cash_amount"], former["currency"]) == ("CSSEN", 0.59375, None)
    assert (former["distribution_type"], former["dividend_type"]) == (None, "CD")


def test_a_documented_announcement(vendor_fixtures: Path) -> None:
    (row,) = read(vendor_fixtures, "doc_benzinga_v1_earnings", ActionKind.EARNINGS)
    assert (row["symbol"], row["vendor_id"]) == ("GFAI", "651bcd8d7e4d6000011f2232")
    assert (row["date"], row["time"]) == (date(2029, 9, 24), time(7))
    assert (row["actual_eps"], row["estimated_eps"], row["actual_revenue"]) == (-0.19, None, 17_566_000.0)
    assert row["last_updated"] == datetime(2025, 1, 7, 10, 19, 50, tzinfo=UTC)


@pytest.mark.parametrize(
    "odd", [None, True, "x", "2020-13-01", 10**400, [1], {"a": 1}], ids=lambda odd: f"{odd!s:.10}"
)
def test_a_value_of_the_wrong_kind_becomes_null_and_the_row_stays(odd: object) -> None:
    row = {"ticker": "AAPL", "execution_date": odd, "split_from": odd, "split_to": 4}
    body = json.dumps({"status": "OK", "results": [row, "no row"]}).encode()
    page = parse_actions(ActionKind.SPLITS, body)
    first, second = page.frame.to_dicts()
    # What is absent is no fault; what is there and cannot be kept is, with the vendor's own value.
    assert list(page.rows.faults) == ([] if odd is None else [0])
    assert all(fault.startswith("execution_date ") for fault in page.rows.faults.values())
    assert (first["symbol"], first["split_to"]) == ("AAPL", 4.0)
    assert (first["execution_date"], first["split_from"]) == (None, None)
    assert set(second.values()) == {None}


@pytest.mark.parametrize(
    ("kind", "field", "value", "fault"),
    [
        (ActionKind.SPLITS, "split_to", "4", 'split_to "4"'),
        (ActionKind.DIVIDENDS, "cash_amount", "0.26", 'cash_amount "0.26"'),
        (ActionKind.DIVIDENDS, "frequency", 1.5, "frequency 1.5"),
        (ActionKind.DIVIDENDS, "currency", {"a": "b" * 100}, 'currency {"a": "' + "b" * 33 + "…"),
        (ActionKind.DIVIDENDS, "pay_date", "soon", 'pay_date "soon"'),
        (ActionKind.EARNINGS, "actual_eps", "1.2", 'actual_eps "1.2"'),
        (ActionKind.EARNINGS, "actual_revenue", True, "actual_revenue true"),
        (ActionKind.EARNINGS, "fiscal_year", 1e25, "fiscal_year 1e+25"),
        (ActionKind.EARNINGS, "last_updated", "2025-01-07", 'last_updated "2025-01-07"'),
    ],
)
def test_an_optional_value_of_the_wrong_kind_is_a_fault(
    kind: ActionKind, field: str, value: object, fault: str
) -> None:
    body = json.dumps({"status": "OK", "results": [{"ticker": "AAPL", field: value}]}).encode()
    assert parse_actions(kind, body).rows.faults == {0: fault}


def test_what_is_empty_or_numbered_is_no_fault() -> None:
    row = {"ticker": "AAPL", "id": 7, "currency": "", "pay_date": None, "frequency": 4.0}
    page = parse_actions(ActionKind.DIVIDENDS, json.dumps({"status": "OK", "results": [row]}).encode())
    assert page.rows.faults == {}
    assert page.frame.select("vendor_id", "currency", "frequency").row(0) == ("7", None, 4)


@pytest.mark.parametrize("results", [{}, {"results": []}, {"results": None}])
def test_a_page_without_rows_has_the_schema(results: dict[str, Any]) -> None:
    frame = parse_actions(ActionKind.EARNINGS, json.dumps({"status": "OK", **results}).encode()).frame
    assert frame.is_empty()
    assert frame.schema == SCHEMAS[ActionKind.EARNINGS]


@pytest.mark.parametrize("body", [b'{"results": {"a": 1}}', b'{"results": [', b"<html>"])
def test_what_is_no_page_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedPageError):
        parse_actions(ActionKind.SPLITS, body)
