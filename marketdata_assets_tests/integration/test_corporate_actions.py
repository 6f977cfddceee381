"""Splits, dividends and earnings: listed by a simulated vendor, brought by the assets, kept in Postgres."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.runs.actions import refresh_actions
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.adjust import SPLIT_SCHEMA
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.jobs import CORPORATE_ACTIONS_JOB
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.adjusted import symbols_without_splits
from marketdata_assets.polygon.errors import EntitlementError, VendorFailureError
from marketdata_assets.simulator import Fault, FaultKind, Split
from marketdata_assets.storage.actions import ActionCounts, find_unfetched, read_splits, store_actions
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols, find_with_splits
from marketdata_assets_tests.integration.platform import Platform, open_platform, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from dagster import Definitions, ExecuteInProcessResult

    from marketdata_assets.defs.runs.actions import ActionsReport
    from marketdata_assets.storage.connection import Database

NOW = datetime(2024, 7, 1, 15, tzinfo=UTC)
TODAY = date(2024, 7, 1)
ANY = (Timeframe.D1, Window(NOW - timedelta(days=1), NOW))
CURRENT, FORMER = "/stocks/v1/splits", "/v3/reference/splits"


@pytest.fixture
def vendor(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - a factory of platforms
    """Opens a platform on the test's database, at 2024-07-01, with options of the simulator."""

    def opened(**options: Any) -> AbstractContextManager[Platform]:  # noqa: ANN401 - as above
        return open_platform(database_url, monkeypatch, **{"now": lambda: NOW, **options})

    return opened


@pytest.fixture
def platform(vendor: Any) -> Iterator[Platform]:  # noqa: ANN401 - as above
    with vendor(duplicate_splits=True) as running:
        running.track("AAPL:1d", "KO:1d", "SPY:1d", "BTC-USD:1d")
        yield running


def definitions(platform: Platform) -> Definitions:
    return build_definitions(resources={"polygon": PolygonResource(**platform.polygon)})


def refresh(platform: Platform) -> dict[ActionKind, ActionsReport]:
    return {
        report.kind: report for report in refresh_actions(Runner(definitions(platform), platform.instance))
    }


def run(platform: Platform) -> ExecuteInProcessResult:
    return Runner(definitions(platform), platform.instance).execute(CORPORATE_ACTIONS_JOB)


def rows(database: Database, table: str, columns: str = "*", where: str = "true") -> list[dict[str, Any]]:
    found = database.read_frame(f"select {columns} from {table} where {where} order by 1, 2, 3")
    return found.to_dicts()


def test_the_first_run_stores_and_the_second_touches_nothing(platform: Platform) -> None:
    series = [Series.parse(key) for key in ("KO:1d", "BTC-USD:1d", "AAPL:1d", "GONE:1d")]
    assert symbols_without_splits(platform.database, series) == ["KO", "AAPL"]
    first = refresh(platform)
    assert symbols_without_splits(platform.database, series) == []
    splits, dividends = first[ActionKind.SPLITS], first[ActionKind.DIVIDENDS]
    # AAPL has three and KO one, each listed twice.
    assert (splits.inserted, splits.stored, splits.requests) == (4, 4, 1)
    assert dividends.inserted == dividends.stored > 3 * 4 * 10
    assert dividends.requests == 1
    assert not first[ActionKind.EARNINGS].in_plan
    stored = rows(platform.database, "splits"), rows(platform.database, "dividends")

    platform.simulator.reset()
    second = refresh(platform)
    assert (second[ActionKind.SPLITS].inserted, second[ActionKind.SPLITS].changed) == (0, 0)
    assert (second[ActionKind.SPLITS].unchanged, second[ActionKind.SPLITS].withdrawn) == (4, 0)
    assert second[ActionKind.DIVIDENDS].unchanged == dividends.inserted
    assert (rows(platform.database, "splits"), rows(platform.database, "dividends")) == stored
    requested = sorted(request.path for request in platform.simulator.requests)
    assert requested == ["/benzinga/v1/earnings", "/stocks/v1/dividends", CURRENT]


def test_what_is_stored_is_what_was_listed(platform: Platform) -> None:
    refresh(platform)
    # Exact digits, as text: a double would show what it is not.
    assert rows(
        platform.database,
        "splits",
        "symbol, execution_date, split_from::text, split_to::text, adjustment_type",
        "symbol = 'AAPL'",
    )[1] == {
        "symbol": "AAPL",
        "execution_date": date(2014, 6, 9),
        "split_from": "1.0",
        "split_to": "7.0",
        "adjustment_type": "forward_split",
    }
    paid = rows(platform.database, "dividends", "*, cash_amount::double precision as cash", "symbol = 'KO'")
    assert all(row["cash"] > 0 and row["currency"] == "USD" and row["frequency"] == 4 for row in paid)
    assert all(row["pay_date"] > row["ex_dividend_date"] for row in paid)
    assert paid[0]["distribution_type"] == "recurring"
    assert read_splits(platform.database, ["KO"]).rows() == [("KO", date(2012, 8, 13), 1.0, 2.0)]
    assert read_splits(platform.database, ["SPY"]).schema == SPLIT_SCHEMA


def test_stocks_and_etfs_are_asked_about_and_nothing_else(platform: Platform) -> None:
    refresh(platform)
    request = platform.simulator.requests[0]
    assert request.params["ticker.any_of"] == "AAPL,KO,SPY"
    assert not request.key_in_url
    assert find_unfetched(platform.database, ActionKind.SPLITS, ["SPY"]) == []
    assert find_unfetched(platform.database, ActionKind.SPLITS, ["BTC-USD"]) == ["BTC-USD"]
    assert find_unfetched(platform.database, ActionKind.EARNINGS, ["SPY"]) == ["SPY"]


def test_without_stocks_nothing_is_asked(vendor: Any) -> None:  # noqa: ANN401
    with vendor() as platform:
        platform.track("BTC-USD:1d")
        assert {report.requests for report in refresh(platform).values()} == {0}
        assert platform.simulator.requests == []


def test_the_metadata_of_a_run(platform: Platform) -> None:
    result = run(platform)
    (event,) = result.asset_materializations_for_node("splits")
    facts = {name: value.value for name, value in event.metadata.items()}
    assert (facts["dagster/row_count"], facts["rows_inserted"], facts["rows_fetched"]) == (4, 4, 8)
    assert (facts["endpoint"], facts["symbols"]) == (CURRENT, 3)
    assert "| 2020-08-31 | AAPL | 1 | 4 | forward_split |" in str(facts["latest"])
    (event,) = result.asset_materializations_for_node("earnings")
    assert event.metadata["in_plan"].value is False
    assert "not in your plan" in str(event.metadata["note"].value)
    assert "dagster/row_count" not in event.metadata


def test_earnings_where_the_plan_has_them(vendor: Any) -> None:  # noqa: ANN401
    with vendor(earnings=True) as platform:
        platform.track("AAPL:1d", "SPY:1d")
        report = refresh(platform)[ActionKind.EARNINGS]
        assert report.in_plan
        assert report.inserted == report.stored > 10
        reported = rows(platform.database, "earnings", where="actual_eps is not null")
        announced = rows(platform.database, "earnings", where="date_status = 'projected'")
        assert {row["symbol"] for row in reported} == {"AAPL"}
        assert max(row["date"] for row in reported) <= TODAY < min(row["date"] for row in announced)
        assert refresh(platform)[ActionKind.EARNINGS].unchanged == report.inserted


def test_a_split_that_changes_is_withdrawn_and_comes_back(vendor: Any) -> None:  # noqa: ANN401
    def listed(*extra: Split) -> ActionsReport:
        with vendor(splits=extra) as platform:
            platform.track("AAPL:1d", "KO:1d")
            return refresh(platform)[ActionKind.SPLITS]

    day = date(2023, 3, 1)
    assert listed(Split("KO", day, 1, 2)).inserted == 5
    changed = listed(Split("KO", day, 1, 3))
    assert (changed.inserted, changed.changed, changed.unchanged, changed.stored) == (0, 1, 4, 5)
    gone = listed()
    assert (gone.withdrawn, gone.changed, gone.unchanged, gone.stored) == (1, 0, 4, 4)
    again = listed()
    assert (again.withdrawn, again.changed, again.unchanged) == (0, 0, 4)
    back = listed(Split("KO", day, 1, 3))
    assert (back.inserted, back.changed, back.withdrawn, back.stored) == (0, 1, 0, 5)


@pytest.mark.parametrize("status", [403, 404])
def test_the_former_endpoint_is_asked_where_the_current_one_is_not_for_us(
    vendor: Any,  # noqa: ANN401
    status: int,
) -> None:
    with vendor() as platform:
        platform.track("AAPL:1d", "KO:1d")
        refresh(platform)
    with vendor(refused={CURRENT: status, "/stocks/v1/dividends": status}) as platform:
        reports = refresh(platform)
        splits = reports[ActionKind.SPLITS]
        # What only the current endpoint tells, adjustment_type, is not forgotten.
        assert (splits.unchanged, splits.changed, splits.requests) == (4, 0, 2)
        paths = [request.path for request in platform.simulator.requests]
        assert (paths.count(CURRENT), paths.count(FORMER)) == (1, 2)
        assert reports[ActionKind.DIVIDENDS].withdrawn == 0
        kinds = platform.database.read_frame(
            "select distinct dividend_type, distribution_type from dividends"
        )
        assert kinds.rows() == [("CD", "recurring")]


def test_a_failure_is_no_reason_to_ask_elsewhere(vendor: Any) -> None:  # noqa: ANN401
    with vendor(faults=(Fault(kind=FaultKind.SERVER_ERROR, count=2),)) as platform:
        platform.track("AAPL:1d")
        with pytest.raises(MarketDataError, match="dividends of AAPL: no usable answer"):
            refresh(platform)
        paths = [request.path for request in platform.simulator.requests]
        assert "/v3/reference/dividends" not in paths
        # The other lists of the run are stored all the same.
        assert platform.count("splits") > 0
        assert platform.count("dividends") == 0


def test_a_plan_without_any_endpoint_of_splits_fails_the_run(vendor: Any) -> None:  # noqa: ANN401
    with vendor(refused={CURRENT: 403, FORMER: 403}) as platform:
        platform.track("AAPL:1d")
        result = run(platform)
        assert not result.success
        assert EntitlementError.__name__ in reason_of(result)
        assert VendorFailureError.__name__ not in reason_of(result)


OPTIONAL = ("/stocks/v1/dividends", "/v3/reference/dividends", "/benzinga/v1/earnings")


@pytest.mark.parametrize("status", [403, 404, 410, 501])
def test_lists_that_the_plan_or_the_vendor_does_not_have_fail_nothing(
    vendor: Any,  # noqa: ANN401
    status: int,
) -> None:
    with vendor(refused=dict.fromkeys(OPTIONAL, status)) as platform:
        platform.track("AAPL:1d")
        reports = refresh(platform)
        assert {kind for kind, report in reports.items() if report.in_plan} == {ActionKind.SPLITS}
        assert find_unfetched(platform.database, ActionKind.SPLITS, ["AAPL"]) == []
        assert find_unfetched(platform.database, ActionKind.DIVIDENDS, ["AAPL"]) == ["AAPL"]


def test_every_kind_that_failed_is_named_with_its_reason(vendor: Any) -> None:  # noqa: ANN401
    with vendor(refused={CURRENT: 403, FORMER: 403, "/stocks/v1/dividends": 422}) as platform:
        platform.track("AAPL:1d", "KO:1d")
        with pytest.raises(
            MarketDataError, match=r"splits of .*HTTP 403.*; and dividends of .*HTTP 422"
        ) as caught:
            refresh(platform)
        assert "\n" not in str(caught.value)


def test_splits_that_contradict_each_other_fail_their_symbol_alone(vendor: Any) -> None:  # noqa: ANN401
    with vendor(splits=(Split("AAPL", date(2020, 8, 31), 1, 5),)) as platform:
        platform.track("AAPL:1d", "KO:1d")
        with pytest.raises(MarketDataError, match="AAPL has two splits with different ratios") as caught:
            refresh(platform)
        assert "KO" not in str(caught.value)
        assert read_splits(platform.database, ["AAPL", "KO"])["symbol"].to_list() == ["KO"]
        assert find_unfetched(platform.database, ActionKind.SPLITS, ["AAPL"]) == ["AAPL"]


def split_frame(*found: tuple[str, date, float, float]) -> pl.DataFrame:
    names = SPLIT_SCHEMA.names()
    return pl.DataFrame(
        [dict(zip(names, row, strict=True)) for row in found], schema=SCHEMAS[ActionKind.SPLITS]
    )


def store(database: Database, frame: pl.DataFrame, *symbols: str) -> ActionCounts:
    return store_actions(
        database, ActionKind.SPLITS, frame, symbols=symbols, endpoint=CURRENT, today=date(2024, 7, 1)
    )


OLD, NEW = ("KO", date(2012, 8, 13), 1.0, 2.0), ("KO", date(2023, 3, 1), 1.0, 3.0)


def test_a_list_that_does_not_reach_back_withdraws_nothing(database: Database) -> None:
    assert store(database, split_frame(OLD, NEW), "KO") == ActionCounts(inserted=2)
    assert store(database, split_frame(NEW), "KO") == ActionCounts(unchanged=1, kept=1)
    assert store(database, split_frame(), "KO") == ActionCounts(kept=2)
    earlier = ("KO", date(1996, 5, 13), 1.0, 2.0)
    assert store(database, split_frame(earlier), "KO") == ActionCounts(inserted=1, withdrawn=2)
    assert read_splits(database, ["KO"]).rows() == [earlier]


def test_a_list_withdraws_nothing_of_symbols_that_it_is_not_about(database: Database) -> None:
    store(database, split_frame(OLD), "KO")
    other = ("AAPL", date(2005, 2, 28), 1.0, 2.0)
    assert store(database, split_frame(other), "AAPL") == ActionCounts(inserted=1)
    assert read_splits(database, ["KO", "AAPL"]).rows() == [other, OLD]


def test_ratios_are_kept_to_the_last_digit(database: Database) -> None:
    odd = ("GOOGL", date(2014, 4, 3), 1000.0, 1998.0), ("KO", date(2020, 1, 2), 1.0, 1.012345678901234)
    store(database, split_frame(*odd), "GOOGL", "KO")
    assert store(database, split_frame(*odd), "GOOGL", "KO").unchanged == 2
    assert read_splits(database, ["GOOGL", "KO"]).rows() == list(odd)
    (stored,) = rows(database, "splits", "symbol, split_from, split_to::text", "symbol = 'KO'")
    assert stored["split_to"] == "1.012345678901234"


def test_splits_that_come_with_their_symbol_are_those_that_are_listed(database: Database) -> None:
    add_symbols(database, [TrackedSymbol("KO", AssetClass.STOCK), TrackedSymbol("SPY", AssetClass.ETF)])
    assert find_with_splits(database, "KO", *ANY) == (TrackedSymbol("KO", AssetClass.STOCK), None, False)
    later = ("KO", date(2999, 1, 4), 1.0, 1.012345678901234)
    store(database, split_frame(later, NEW, OLD), "KO", "SPY")
    store(database, split_frame(later, OLD), "KO")
    for symbol, count in (("KO", 2), ("SPY", 0)):
        _, found, _ = find_with_splits(database, symbol, *ANY)
        assert found is not None
        assert found.height == count
        assert_frame_equal(found, read_splits(database, [symbol]))


def test_a_stored_split_is_where_the_view_of_factors_begins_to_apply(database: Database) -> None:
    store(database, split_frame(OLD, NEW, ("KO", date(2999, 1, 4), 1.0, 9.0)), "KO")
    found = database.read_frame("select since, until, price_factor from split_factors order by until")
    assert found["price_factor"].to_list() == [1 / 6, 1 / 3]
    assert found["until"].to_list() == [
        datetime(2012, 8, 13, 4, tzinfo=UTC),
        datetime(2023, 3, 1, 5, tzinfo=UTC),
    ]
    assert found["since"][1] == found["until"][0]
    assert found["until"][1] - found["since"][1] > timedelta(days=3_000)
