from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.actions import (
    DATES,
    FACTS,
    KEYS,
    NUMBER,
    SCHEMAS,
    ActionKind,
    number_dividends,
    reach_of,
    screen_actions,
)

TODAY = date(2024, 7, 9)
DAY = date(2020, 8, 31)


def listed(kind: ActionKind, *rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMAS[kind])


def split(symbol: str = "AAPL", day: date | None = DAY, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - any column
    row = {"symbol": symbol, "execution_date": day, "split_from": 1.0, "split_to": 4.0, "vendor_id": "E1"}
    return {**row, **values}


def dividend(amount: float | None = 0.26, **values: Any) -> dict[str, Any]:  # noqa: ANN401
    row = {"symbol": "AAPL", "ex_dividend_date": DAY, "cash_amount": amount, "currency": "USD"}
    return {**row, **values}


@pytest.mark.parametrize("order", [1, -1])
def test_a_split_that_is_listed_twice_counts_once(order: int) -> None:
    rows = [split(), split(vendor_id="E0"), split(vendor_id=None)][::order]
    screened = screen_actions(ActionKind.SPLITS, listed(ActionKind.SPLITS, *rows), ["AAPL"])
    assert screened.rows["vendor_id"].to_list() == ["E0"]
    assert screened.problems == {}


def test_the_same_ratio_in_other_numbers_is_the_same_split() -> None:
    rows = listed(ActionKind.SPLITS, split(), split(split_from=2.0, split_to=8.0, vendor_id="E2"))
    screened = screen_actions(ActionKind.SPLITS, rows, ["AAPL"])
    assert screened.rows.select("split_from", "split_to").rows() == [(1.0, 4.0)]
    assert not screened.problems


def test_two_ratios_for_one_day_set_the_symbol_aside_and_no_other() -> None:
    rows = listed(ActionKind.SPLITS, split(), split(split_to=5.0), split(day=date(2014, 6, 9)), split("MSFT"))
    screened = screen_actions(ActionKind.SPLITS, rows, ["AAPL", "MSFT"])
    assert screened.rows["symbol"].to_list() == ["MSFT"]
    assert screened.problems == {"AAPL": "AAPL has two splits with different ratios listed for 2020-08-31"}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (ActionKind.SPLITS, split(day=None)),
        (ActionKind.SPLITS, split(split_to=None)),
        (ActionKind.SPLITS, split(split_to=0.0)),
        (ActionKind.SPLITS, split(split_from=-1.0)),
        (ActionKind.SPLITS, split(split_from=float("nan"))),
        (ActionKind.DIVIDENDS, dividend(None)),
        (ActionKind.DIVIDENDS, dividend(-0.1)),
        (ActionKind.DIVIDENDS, dividend(ex_dividend_date=None)),
        (ActionKind.EARNINGS, {"symbol": "AAPL", "vendor_id": None, "date": DAY}),
        (ActionKind.EARNINGS, {"symbol": "AAPL", "vendor_id": "b1", "date": None}),
    ],
)
def test_a_row_that_cannot_be_sets_its_symbol_aside(kind: ActionKind, row: dict[str, Any]) -> None:
    sound = {
        ActionKind.SPLITS: split(day=date(2014, 6, 9)),
        ActionKind.DIVIDENDS: dividend(0.5),
        ActionKind.EARNINGS: {"symbol": "AAPL", "vendor_id": "b0", "date": DAY},
    }[kind]
    frame = listed(kind, row, sound, {**sound, "symbol": "MSFT"})
    screened = screen_actions(kind, frame, ["AAPL", "MSFT"])
    assert screened.rows["symbol"].to_list() == ["MSFT"]
    assert list(screened.problems) == ["AAPL"]
    assert str(row[KEYS[kind][1]]) in screened.problems["AAPL"]


def test_symbols_that_were_not_requested_are_left_out() -> None:
    rows = listed(ActionKind.SPLITS, split("MSFT", day=None), split())
    screened = screen_actions(ActionKind.SPLITS, rows, ["AAPL"])
    assert screened.rows["symbol"].to_list() == ["AAPL"]
    assert not screened.problems


def test_two_dividends_of_one_day_are_two() -> None:
    rows = listed(ActionKind.DIVIDENDS, dividend(0.26), dividend(1.5), dividend(0.26, vendor_id="E9"))
    screened = screen_actions(ActionKind.DIVIDENDS, rows, ["AAPL"])
    assert screened.rows["cash_amount"].to_list() == [0.26, 1.5]
    assert screened.rows["vendor_id"].to_list() == ["E9", None]


def test_two_kinds_or_currencies_of_one_amount_are_two_dividends_and_a_repeat_is_one() -> None:
    rows = [
        dividend(0.5, distribution_type="recurring", vendor_id="a"),
        dividend(0.5, distribution_type="special", vendor_id="b"),
        dividend(0.5, distribution_type="recurring", currency="CAD", vendor_id="c"),
        dividend(0.5, distribution_type="recurring", vendor_id="d"),
    ]
    screened = screen_actions(ActionKind.DIVIDENDS, listed(ActionKind.DIVIDENDS, *rows), ["AAPL"])
    assert sorted(screened.rows["vendor_id"]) == ["a", "b", "c"]
    assert not screened.problems


@pytest.mark.parametrize("order", [1, -1])
def test_a_split_into_as_many_shares_contradicts_none_and_gives_way(order: int) -> None:
    rows = [split(split_to=1.0, vendor_id="E0"), split(), split(day=date(2014, 6, 9), split_to=1.0)][::order]
    screened = screen_actions(ActionKind.SPLITS, listed(ActionKind.SPLITS, *rows), ["AAPL"])
    assert screened.problems == {}
    assert screened.rows.select("execution_date", "split_to").rows() == [(date(2014, 6, 9), 1.0), (DAY, 4.0)]


def numbered(*rows: dict[str, Any]) -> pl.DataFrame:
    schema = {
        name: SCHEMAS[ActionKind.DIVIDENDS][name] for name in (*FACTS[ActionKind.DIVIDENDS], "vendor_id")
    }
    return pl.DataFrame(
        [{name: row.get(name) for name in (*schema, NUMBER)} for row in rows],
        schema={**schema, NUMBER: pl.Int16()},
        orient="row",
    )


REGULAR = dividend(0.5, distribution_type="recurring", vendor_id="a")
SPECIAL = dividend(0.5, distribution_type="special", vendor_id="b")


@pytest.mark.parametrize(
    ("stored", "rows", "expected"),
    [
        ([], [SPECIAL, REGULAR], {"a": 2, "b": 1}),
        # A stored row keeps its number, whatever comes beside it.
        ([{**SPECIAL, NUMBER: 1}], [REGULAR, SPECIAL], {"a": 2, "b": 1}),
        ([{**REGULAR, NUMBER: 2}], [REGULAR, SPECIAL], {"a": 2, "b": 1}),
        # By id, though the kind was corrected; by kind, though the id is another.
        ([{**REGULAR, NUMBER: 1}, {**SPECIAL, NUMBER: 2}], [{**REGULAR, "vendor_id": "b"}], {"b": 2}),
        ([{**REGULAR, NUMBER: 1}, {**SPECIAL, NUMBER: 2}], [{**SPECIAL, "vendor_id": "z"}], {"z": 2}),
        # The former endpoint has other ids and other names of kinds.
        (
            [{**SPECIAL, NUMBER: 1}, {**REGULAR, NUMBER: 2}],
            [
                dividend(0.5, dividend_type="CD", vendor_id="x"),
                dividend(0.5, dividend_type="SC", vendor_id="y"),
            ],
            {"x": 2, "y": 1},
        ),
        # One row of its amount is what it was, whatever was corrected.
        ([{**REGULAR, NUMBER: 1, "currency": "EUR"}], [{**SPECIAL, "vendor_id": "z"}], {"z": 1}),
    ],
)
def test_a_listed_dividend_is_the_stored_one_that_it_most_resembles(
    stored: list[dict[str, Any]], rows: list[dict[str, Any]], expected: dict[str, int]
) -> None:
    found = number_dividends(listed(ActionKind.DIVIDENDS, *rows), numbered(*stored))
    assert dict(found.select("vendor_id", NUMBER).iter_rows()) == expected


kinds = st.sampled_from([None, "recurring", "special", "irregular"])


@given(
    lists=st.lists(
        st.lists(st.tuples(kinds, st.sampled_from([None, "USD", "CAD"]), st.sampled_from("abc")), max_size=6),
        min_size=1,
        max_size=4,
    )
)
def test_numbers_are_keys_and_the_same_list_again_keeps_every_number(
    lists: list[list[tuple[Any, Any, str]]],
) -> None:
    stored = numbered()
    for rows in lists:
        page = listed(
            ActionKind.DIVIDENDS,
            *(
                dividend(0.5, distribution_type=kind, currency=currency, vendor_id=vendor_id)
                for kind, currency, vendor_id in rows
            ),
        )
        screened = screen_actions(ActionKind.DIVIDENDS, page, ["AAPL"]).rows
        found = number_dividends(screened, stored)
        assert found.drop(NUMBER).sort(pl.all()).equals(screened.sort(pl.all()))
        assert found.select(KEYS[ActionKind.DIVIDENDS]).is_unique().all()
        new = found.select(stored.columns)
        kept = stored.join(new, on=NUMBER, how="anti")
        stored = pl.concat([kept, new])
        again = number_dividends(screened, stored).select(stored.columns)
        assert again.sort(NUMBER).equals(new.sort(NUMBER)) or screened["vendor_id"].is_duplicated().any()


def test_of_one_announcement_the_row_that_was_updated_last_counts() -> None:
    def row(moment: datetime | None, year: int) -> dict[str, Any]:
        return {
            "symbol": "AAPL",
            "vendor_id": "b1",
            "date": DAY,
            "last_updated": moment,
            "fiscal_year": year,
        }

    older, newer = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
    rows = listed(ActionKind.EARNINGS, row(older, 1), row(newer, 2), row(None, 3))
    screened = screen_actions(ActionKind.EARNINGS, rows, ["AAPL"])
    assert screened.rows["fiscal_year"].to_list() == [2]


days = st.dates(date(2000, 1, 1), date(2024, 12, 31))


@given(rows=st.lists(st.tuples(st.sampled_from(["AAPL", "MSFT", "KO"]), days, st.integers(1, 3))))
def test_no_key_is_left_twice_and_screening_again_changes_nothing(rows: list[tuple[str, date, int]]) -> None:
    frame = listed(ActionKind.SPLITS, *(split(symbol, day, split_to=float(to)) for symbol, day, to in rows))
    screened = screen_actions(ActionKind.SPLITS, frame, ["AAPL", "MSFT", "KO"])
    assert screened.rows.select(KEYS[ActionKind.SPLITS]).is_unique().all()
    assert not set(screened.problems) & set(screened.rows["symbol"])
    assert {symbol for symbol, _, _ in rows} == {*screened.problems, *screened.rows["symbol"]}
    again = screen_actions(ActionKind.SPLITS, screened.rows, ["AAPL", "MSFT", "KO"])
    assert again.rows.equals(screened.rows)


@pytest.mark.parametrize("kind", list(ActionKind))
def test_a_list_reaches_to_its_earliest_row_and_two_years_back_at_least(kind: ActionKind) -> None:
    def of(*found: date) -> pl.DataFrame:
        return listed(kind, *({DATES[kind]: day} for day in found))

    assert reach_of(kind, of(date(2014, 6, 9), date(2020, 8, 31)), TODAY) == date(2014, 6, 9)
    assert reach_of(kind, of(date(2024, 6, 10)), TODAY) == date(2022, 7, 10)
    assert reach_of(kind, of(), TODAY) is None
