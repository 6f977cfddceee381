from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest
from dagster import Definitions, asset

from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.polygon.errors import AuthenticationError, VendorFailureError
from marketdata_assets.polygon.request import FetchRequest
from marketdata_assets.polygon.vendor import PageFetched, RequestFailed
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets_tests.simulator import KEY, running_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets_tests.simulator import SimulatorHandle

XNYS = calendar_of(AssetClass.STOCK)


def window(first: str, last: str, asset_class: AssetClass = AssetClass.STOCK) -> Window:
    calendar = calendar_of(asset_class)
    return Window(
        calendar.day_start(date.fromisoformat(first)), calendar.day_window(date.fromisoformat(last)).end
    )


def minutes(symbol: str, first: str = "2024-01-02", last: str = "2024-01-05") -> FetchRequest:
    return FetchRequest(symbol, AssetClass.STOCK, Timeframe.M1, window(first, last))


@pytest.fixture
def simulator() -> Iterator[SimulatorHandle]:
    with running_simulator(foreign_next_url=True) as handle:
        yield handle


@pytest.fixture
def polygon(simulator: SimulatorHandle, monkeypatch: pytest.MonkeyPatch) -> PolygonResource:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    return PolygonResource(base_url=simulator.url, requests_per_minute=0, retry_first_wait_seconds=0)


def test_a_year_of_minutes_comes_in_full_pages_in_order(
    polygon: PolygonResource, simulator: SimulatorHandle
) -> None:
    events = list(polygon.stream([minutes("SPY", "2023-01-01", "2023-12-31")]))
    pages = [event for event in events if isinstance(event, PageFetched)]
    assert [page.record.page for page in pages] == list(range(1, len(pages) + 1))
    assert [page.is_last for page in pages] == [False] * (len(pages) - 1) + [True]
    bars = sum(page.frame.height for page in pages)
    assert len(simulator.requests) == len(pages) <= -(-bars // 50_000) + 1
    times = [moment for page in pages for moment in (page.frame["time"][0], page.frame["time"][-1])]
    assert times == sorted(times)
    for request in simulator.requests:
        assert not request.key_in_url
        assert {"adjusted": "false", "sort": "asc", "limit": "50000"}.items() <= dict(request.params).items()


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_fetch_range_of_every_timeframe(polygon: PolygonResource, timeframe: Timeframe) -> None:
    bars = polygon.fetch_range("SPY", timeframe, date(2024, 1, 1), date(2024, 1, 31))
    assert bars.height > 0
    assert bars["time"].is_sorted()
    assert bars["time"].is_unique().all()
    assert bars["time"][0] >= datetime(2024, 1, 1, 5, tzinfo=UTC)
    assert bars["time"][-1] < datetime(2024, 2, 1, 5, tzinfo=UTC)


def test_fetch_range_infers_a_crypto_pair(polygon: PolygonResource, simulator: SimulatorHandle) -> None:
    bars = polygon.fetch_range("BTC-USD", Timeframe.D1, date(2024, 1, 1), date(2024, 1, 3))
    assert [moment.day for moment in bars["time"]] == [1, 2, 3]
    assert "X:BTCUSD" in simulator.requests[0].path


def test_a_reversed_range_is_refused(polygon: PolygonResource) -> None:
    with pytest.raises(ConfigurationError, match="reversed"):
        polygon.fetch_range("SPY", Timeframe.D1, date(2024, 1, 3), date(2024, 1, 1))


def test_faults_that_pass_cost_retries_and_nothing_else(
    polygon: PolygonResource, simulator: SimulatorHandle
) -> None:
    kinds = [FaultKind.SERVER_ERROR, FaultKind.RESET, FaultKind.TRUNCATED_JSON, FaultKind.NON_JSON]
    clean = [e.frame for e in polygon.stream([minutes("SPY")]) if isinstance(e, PageFetched)]
    for kind in kinds:
        simulator.set_faults(Fault(kind=kind, count=2))
        (event,) = polygon.stream([minutes("SPY")])
        assert isinstance(event, PageFetched)
        assert event.record.retries == 2
        assert event.frame.equals(clean[0])


def test_a_429_storm_keeps_everybody_back(polygon: PolygonResource, simulator: SimulatorHandle) -> None:
    simulator.set_faults(Fault(kind=FaultKind.RATE_LIMIT, count=1, retry_after=1))
    requests = [minutes(symbol) for symbol in ("SPY", "AAPL", "MSFT", "NVDA")]
    serial = polygon.model_copy(update={"concurrency": 1})
    events = list(serial.stream(requests))
    assert all(isinstance(event, PageFetched) for event in events)
    arrived = [request.elapsed for request in simulator.requests]
    assert arrived[1] - arrived[0] >= 0.95
    assert len(arrived) == 5


def test_one_failed_request_leaves_the_others(polygon: PolygonResource, simulator: SimulatorHandle) -> None:
    simulator.set_faults(Fault(kind=FaultKind.SERVER_ERROR, ticker="AAPL", status=502))
    events = list(polygon.stream([minutes("AAPL"), minutes("SPY"), minutes("MSFT")]))
    failed = [event for event in events if isinstance(event, RequestFailed)]
    assert [event.request.symbol for event in failed] == ["AAPL"]
    assert isinstance(failed[0].error, VendorFailureError)
    assert failed[0].record.retries == polygon.max_attempts - 1
    assert {event.request.symbol for event in events} == {"AAPL", "SPY", "MSFT"}


def test_a_wrong_key_ends_everything_at_once(
    polygon: PolygonResource, simulator: SimulatorHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "wrong")
    with pytest.raises(AuthenticationError):
        list(polygon.stream([minutes("SPY")] * 100))
    assert len(simulator.requests) <= polygon.concurrency


def test_a_cut_history_is_noticed(polygon: PolygonResource, simulator: SimulatorHandle) -> None:
    simulator.set_faults(Fault(kind=FaultKind.HISTORY_CUT, start=datetime(2024, 3, 1, tzinfo=UTC)))
    daily = FetchRequest("SPY", AssetClass.ETF, Timeframe.D1, window("2024-01-02", "2024-03-28"))
    (event,) = polygon.stream([daily])
    assert isinstance(event, PageFetched)
    assert event.notice is not None
    assert event.notice.sessions > 30
    simulator.set_faults()
    (event,) = polygon.stream([daily])
    assert isinstance(event, PageFetched)
    assert event.notice is None


def test_closing_early_stops_the_thread(polygon: PolygonResource, simulator: SimulatorHandle) -> None:
    before = threading.active_count()
    with contextlib.closing(polygon.stream([minutes("SPY")] * 200)) as events:
        next(events)
    names = [thread.name for thread in threading.enumerate()]
    assert "polygon" not in names
    assert threading.active_count() <= before
    assert len(simulator.requests) < 50


def test_a_caller_that_fails_stops_the_thread(polygon: PolygonResource) -> None:
    def fail() -> None:
        with contextlib.closing(polygon.stream([minutes("SPY")] * 200)) as events:
            raise KeyboardInterrupt(next(events).request.symbol)

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert "polygon" not in [thread.name for thread in threading.enumerate()]


def test_a_slow_caller_holds_the_fetching_back(polygon: PolygonResource, simulator: SimulatorHandle) -> None:
    with contextlib.closing(polygon.stream([minutes("SPY")] * 200)) as events:
        next(events)
        ready = threading.Event()
        ready.wait(1)
        # one page taken, two queued, one held by each worker
        assert len(simulator.requests) <= 1 + 2 + 2 * polygon.concurrency


def test_the_shared_limit_is_used(
    simulator: SimulatorHandle, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("DATABASE_URL", database_url)
    limited = PolygonResource(base_url=simulator.url, requests_per_minute=240)
    events = list(limited.stream([minutes("SPY")] * 28))
    # 25 at once, then one every 0.2525 s
    assert sum(event.record.waited_seconds for event in events) > 0.5
    assert simulator.requests[-1].elapsed - simulator.requests[0].elapsed > 0.5


def test_without_a_key_the_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"POLYGON_API_KEY.*marketdata demo"):
        PolygonResource(requests_per_minute=0).stream([])


def test_without_a_database_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        PolygonResource().stream([])


def test_the_key_is_nowhere_to_be_seen(
    polygon: PolygonResource, simulator: SimulatorHandle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = [repr(polygon), str(polygon), polygon.model_dump_json()]
    seen.append(str(PolygonResource.to_config_schema().as_field().config_type.__dict__))

    @asset
    def bars(polygon: PolygonResource) -> None:
        for event in polygon.stream([minutes("SPY")]):
            seen.append(repr(event))

    definitions = Definitions(assets=[bars], resources={"polygon": polygon})
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(asset_selection=[bars.key])
    seen += [repr(event) for event in result.all_events]
    simulator.set_faults(Fault(kind=FaultKind.SERVER_ERROR, body=f"oops {KEY}"))
    for event in polygon.stream([minutes("SPY")]):
        assert isinstance(event, RequestFailed)
        seen += [repr(event), "".join(traceback.format_exception(event.error))]
    seen.append(caplog.text)
    assert len(seen) > 8
    for text in seen:
        assert KEY not in text
