"""Day bars of many symbols come by whole days of the market: real HTTP, real Postgres."""

from __future__ import annotations

import itertools
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.runs.execution import run_metadata
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass, Instrument, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.pipeline import market_days
from marketdata_assets.pipeline.fetching import fetch_events
from marketdata_assets.pipeline.ingest import Ingest
from marketdata_assets.polygon.planner import Plan, plan_fetches
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.storage.bars import read_coverage, read_rows, write_batch
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.tables import OHLCV
from marketdata_assets_tests.integration.platform import open_platform
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator
from marketdata_assets_tests.unit.frames import days_window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import polars as pl

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.pipeline.ingest_state import IngestReport

D1, W1 = Timeframe.D1, Timeframe.W1
NOW = datetime(2024, 7, 15, 6, tzinfo=UTC)
MONDAY, TUESDAY = date(2024, 7, 1), date(2024, 7, 2)
LATEST = [date(2024, 7, 10), date(2024, 7, 11), date(2024, 7, 12)]
XNYS = calendar_of(AssetClass.STOCK)


def tickers(count: int) -> list[str]:
    return ["".join(letters) for letters in itertools.islice(itertools.product("ABCDEGH", repeat=4), count)]


def stocks(symbols: Iterable[str]) -> list[Instrument]:
    return [Instrument(symbol, AssetClass.STOCK) for symbol in symbols]


@contextmanager
def vendor(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[SimulatorHandle]:  # noqa: ANN401 - the simulator's
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    with running_simulator(now=lambda: NOW, **options) as simulator:
        monkeypatch.setenv("POLYGON_BASE_URL", simulator.url)
        yield simulator


def planned(
    database: Database,
    instruments: Sequence[Instrument],
    days: Sequence[date],
    *timeframes: Timeframe,
    **options: Any,  # noqa: ANN401 - the planner's
) -> Plan:
    coverage = read_coverage(database, [one.symbol for one in instruments])
    return plan_fetches(dict.fromkeys(instruments, timeframes or (D1,)), days, coverage, now=NOW, **options)


def run(database: Database, chosen: Plan) -> IngestReport:
    """Store what ``chosen`` brings, as the asset does."""
    polygon = PolygonResource(requests_per_minute=0, max_attempts=1, retry_first_wait_seconds=0)
    symbols = sorted({fetch.request.symbol for fetch in (*chosen.fetches, *chosen.replaced)})
    ingest = Ingest(chosen, now=NOW, coverage=read_coverage(database, symbols), run_id="a-run")

    def read_bars(series: Series, window: Window) -> pl.DataFrame:
        return read_rows(database, OHLCV, {series: [window]})

    with closing(fetch_events(polygon, chosen.requests, database)) as events:
        for batch in ingest.batches(
            events, read_bars, lambda requests: fetch_events(polygon, requests, database)
        ):
            write_batch(database, batch)
    return ingest.report


def by_ranges(chosen: Plan) -> Plan:
    return replace(chosen, days=(), replaced=(), fetches=(*chosen.fetches, *chosen.replaced))


def stored(database: Database) -> pl.DataFrame:
    columns = ", ".join(OHLCV.columns)
    return database.read_frame(f"select {columns} from ohlcv order by symbol, timeframe, time")


def log(database: Database, where: str = "true") -> list[dict[str, Any]]:
    query = f"select symbol, status, pages, bars, shared, error from fetch_log where {where} order by 1, 5"
    return database.read_frame(query).to_dicts()


def clear(database: Database) -> None:
    database.transaction(
        lambda connection: connection.execute("truncate ohlcv, coverage, fetch_log, bar_counts")
    )


def change(database: Database, symbol: str, day: date) -> None:
    """Give a stored day bar another close, as though the range endpoint had sent it."""
    window = XNYS.day_window(day)
    database.transaction(
        lambda connection: connection.execute(
            "update ohlcv set close = close + 1, high = high + 2"
            " where symbol = %s and timeframe = '1d' and time >= %s and time < %s",
            [symbol, window.start, window.end],
        )
    )


def test_a_night_of_many_symbols_costs_a_request_a_day_and_stores_what_ranges_store(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tickers(60)
    with vendor(monkeypatch, tickers=frozenset(names)) as simulator, Database(database_url) as database:
        chosen = planned(database, stocks(names), [MONDAY, TUESDAY])
        report = run(database, chosen)
        assert [request.path for request in simulator.requests] == [
            f"/v2/aggs/grouped/locale/us/market/stocks/{day}" for day in (MONDAY, TUESDAY)
        ]
        assert (report.requests, report.pages, report.failures) == (2, 2, [])
        grouped = stored(database)
        coverage = read_coverage(database, names)
        answered = log(database, "status = 'ok' and symbol <> 'stocks'")
        assert len(answered) == len(names)
        assert all((row["pages"], row["bars"], row["shared"]) == (0, 2, True) for row in answered)
        assert [row["pages"] for row in log(database, "not shared")] == [1, 1]
        assert planned(database, stocks(names), [MONDAY, TUESDAY]) == Plan()

        clear(database)
        report = run(database, by_ranges(chosen))
        assert report.requests == len(names)
        assert stored(database).equals(grouped)
        for series, windows in read_coverage(database, names).items():
            assert all(any(one.covers(window) for one in coverage[series]) for window in windows)


@pytest.mark.parametrize("is_recent", [False, True])
def test_bars_of_ranges_stay_when_a_day_of_the_market_differs(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    is_recent: bool,  # noqa: FBT001 - a parameter
) -> None:
    days = LATEST[1:] if is_recent else [MONDAY, TUESDAY]
    names = ["AAPL", "MSFT", "SPY"]
    with vendor(monkeypatch) as simulator, Database(database_url) as database:
        run(database, by_ranges(planned(database, stocks(names), days)))
        before = stored(database)
        change(database, "AAPL", days[0])
        changed = stored(database)
        simulator.reset()
        report = run(database, planned(database, stocks(names), days, force=True))
        paths = [request.path for request in simulator.requests]
        assert sum("grouped" in path for path in paths) == len(days)
        if is_recent:
            # Late trades may have revised it: the range says so, and its word replaces the bar.
            assert [path.split("/")[4] for path in paths if "range" in path] == ["AAPL"]
            assert stored(database).equals(before)
            assert report.differs_from_range == []
        else:
            assert len(paths) == len(days)
            assert stored(database).equals(changed)
            assert report.differs_from_range == [(Series("AAPL", D1), days[0])]
            [notice] = report.notices
            assert f"AAPL:1d of {days[0]}" in notice
            assert "the bars of the ranges stay" in notice


def test_a_bar_that_came_with_a_day_of_the_market_is_revised_by_another(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["AAPL", "MSFT", "SPY"]
    with vendor(monkeypatch) as simulator, Database(database_url) as database:
        run(database, planned(database, stocks(names), LATEST[1:]))
        before = stored(database)
        change(database, "AAPL", LATEST[1])
        simulator.reset()
        report = run(database, planned(database, stocks(names), LATEST[1:]))
        assert all("grouped" in request.path for request in simulator.requests)
        assert stored(database).equals(before)
        assert report.differs_from_range == []
        assert database.read_frame("select symbol from ohlcv_revision")["symbol"].to_list() == ["AAPL"]


def test_weeks_are_rolled_up_from_the_days_of_a_market_as_from_ranges(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*tickers(8), "AAPL"]
    days = [date(2024, 6, 23) + timedelta(days=n) for n in range(7)]
    with vendor(monkeypatch, tickers=frozenset(names)) as simulator, Database(database_url) as database:
        chosen = planned(database, stocks(names), days, D1, W1)
        run(database, chosen)
        assert len(simulator.requests) == 5
        grouped, coverage = stored(database), read_coverage(database, names)
        assert grouped.filter(timeframe="1w").height == len(names)
        # The scan for gaps looks at nothing that was not asked for, and a week is asked for as a whole.
        week = days_window(XNYS, days[0], days[-1])
        requested = database.read_frame(
            "select symbol, window_start, window_end, bars from fetch_log where timeframes = '{1w}' and shared order by 1"
        )
        assert requested.rows() == [(name, week.start, week.end, 1) for name in sorted(names)]
        clear(database)
        run(database, by_ranges(chosen))
        assert stored(database).equals(grouped)
        weeks = {series: windows for series, windows in coverage.items() if series.timeframe is W1}
        assert weeks == {
            series: windows
            for series, windows in read_coverage(database, names).items()
            if series.timeframe is W1
        }


def test_pairs_of_crypto_come_by_days_of_their_market(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [Instrument(symbol, AssetClass.CRYPTO) for symbol in ("BTC-USD", "ETH-USD", "SOL-USD")]
    days = [date(2024, 7, 6), date(2024, 7, 7)]
    with vendor(monkeypatch) as simulator, Database(database_url) as database:
        chosen = planned(database, pairs, days)
        run(database, chosen)
        assert [request.path for request in simulator.requests] == [
            f"/v2/aggs/grouped/locale/global/market/crypto/{day}" for day in days
        ]
        grouped = stored(database)
        assert grouped["time"].unique().sort().to_list() == [
            datetime(2024, 7, day, tzinfo=UTC) for day in (6, 7)
        ]
        clear(database)
        run(database, by_ranges(chosen))
        assert stored(database).equals(grouped)


def test_a_symbol_that_no_day_has_is_requested_by_its_range(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator, like the vendor, leaves some tickers out of a market's day."""
    with vendor(monkeypatch) as simulator, Database(database_url) as database:
        report = run(database, planned(database, stocks(["AAPL", "MSFT", "QQZX"]), [MONDAY, TUESDAY]))
        assert [request.path.split("/")[3:5] for request in simulator.requests] == [
            ["grouped", "locale"],
            ["grouped", "locale"],
            ["ticker", "QQZX"],
        ]
        assert report.failures == []
        assert stored(database).group_by("symbol").len().sort("symbol").rows() == [
            ("AAPL", 2),
            ("MSFT", 2),
            ("QQZX", 2),
        ]


def test_a_listed_symbol_without_a_row_has_an_answer_without_a_bar(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["AAPL", "MSFT", "SPY", "QQQ"]
    with vendor(monkeypatch) as simulator, Database(database_url) as database:
        run(database, planned(database, stocks(names), [MONDAY]))
        window = XNYS.day_window(TUESDAY)
        simulator.fail(FaultKind.LOST_HOURS, ticker="MSFT", start=window.start, end=window.end)
        simulator.running.simulator.requests.clear()
        report = run(database, planned(database, stocks(names), [TUESDAY]))
        assert len(simulator.requests) == 1
        assert report.failures == []
        assert [
            row["bars"] for row in log(database, f"symbol = 'MSFT' and window_start = '{window.start}'")
        ] == [0]
        [covered] = read_coverage(database, ["MSFT"])[Series("MSFT", D1)]
        assert covered.covers(window)


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        pytest.param({"kind": FaultKind.SERVER_ERROR, "count": 1}, 2, id="many symbols"),
        pytest.param({"kind": FaultKind.NOT_AUTHORIZED, "count": 1, "status": 403}, 2, id="too old"),
    ],
)
def test_a_day_that_fails_fails_for_each_of_its_symbols(
    database_url: str, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], requests: int
) -> None:
    names = ["AAPL", "MSFT", "SPY"]
    monkeypatch.setattr(market_days, "RANGES_INSTEAD", 2)
    window = XNYS.day_window(TUESDAY)
    broken = Fault(**fault, start=window.start, end=window.end)
    with (
        vendor(monkeypatch, faults=(broken,)) as simulator,
        Database(database_url) as database,
    ):
        report = run(database, planned(database, stocks(names), [MONDAY, TUESDAY]))
        assert len(simulator.requests) == requests
        assert report.failed_symbols == sorted(names)
        assert {failed.window for failed in report.failures} == {window}
        assert stored(database)["time"].unique().to_list() == [XNYS.day_start(MONDAY)]
        rows = log(database, "shared")
        assert sorted(row["status"] for row in rows) == ["failed"] * len(names) + ["ok"] * len(names)
        # The run costs what it asked: rows of symbols cost nothing.
        [counted] = database.read_frame("select count(*) from fetch_log where not shared").rows()
        assert counted == (requests,)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_vendor_without_days_of_markets_is_asked_by_ranges(
    database_url: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    path = f"/v2/aggs/grouped/locale/us/market/stocks/{MONDAY}"
    names = ["AAPL", "MSFT", "SPY"]
    with vendor(monkeypatch, refused={path: status}) as simulator, Database(database_url) as database:
        report = run(database, planned(database, stocks(names), [MONDAY]))
        assert [request.ticker for request in simulator.requests] == [None, *names]
        assert report.failures == []
        assert stored(database).height == len(names)
        assert [row["symbol"] for row in log(database, "status = 'ok'")] == names


def test_a_run_says_how_many_bars_differ_from_those_of_ranges(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["AAPL:1d", "MSFT:1d", "SPY:1d"]
    with open_platform(database_url, monkeypatch) as platform:
        platform.track(*keys)
        platform.run_one(MONDAY, keys[0])
        change(platform.database, "AAPL", MONDAY)
        before = platform.bars(where="symbol = 'AAPL'")
        result = platform.run_range(MONDAY, MONDAY, *keys, force=True)
        day_bars = [one.path for one in platform.simulator.requests if "/grouped/" in one.path]
        assert day_bars == [f"/v2/aggs/grouped/locale/us/market/stocks/{MONDAY}"]
        assert platform.bars(where="symbol = 'AAPL'") == before
        count = run_metadata(result)["run_bars_differing_from_range"].value
        assert count == 1
