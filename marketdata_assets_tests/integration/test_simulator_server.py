"""The simulator on a real socket: what a client feels when the connection misbehaves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.simulator import FaultKind, RunningSimulator
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

PATH = "/v2/aggs/ticker/SPY/range/1/minute/2024-03-07/2024-03-07"


def get(vendor: SimulatorHandle, path: str = PATH, timeout: float = 30) -> httpx.Response:
    return httpx.get(f"{vendor.url}{path}", headers={"Authorization": f"Bearer {KEY}"}, timeout=timeout)


def test_a_reset_is_a_cut_connection_and_the_next_request_works() -> None:
    with running_simulator() as vendor:
        vendor.fail(FaultKind.RESET, count=1)
        with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
            get(vendor)
        assert get(vendor).json()["resultsCount"] > 0
        assert [record.faults for record in vendor.requests] == [["reset"], []]


def test_a_timeout_hangs_until_the_client_gives_up_and_blocks_nobody_else() -> None:
    with running_simulator() as vendor:
        vendor.fail(FaultKind.TIMEOUT, ticker="SPY")
        with pytest.raises(httpx.ReadTimeout):
            get(vendor, timeout=0.3)
        assert get(vendor, PATH.replace("SPY", "QQQ")).status_code == 200


def test_a_hanging_request_does_not_keep_the_simulator_from_stopping() -> None:
    with ThreadPoolExecutor() as pool:
        with running_simulator() as vendor:
            vendor.fail(FaultKind.TIMEOUT, seconds=3600)
            hanging = pool.submit(get, vendor)
            vendor.wait_for_requests(1)
        hanging.exception(timeout=20)  # ended at all: the simulator is gone, an hour before its time


def test_concurrent_clients_never_get_more_than_the_limit() -> None:
    with running_simulator(requests_per_minute=20) as vendor:
        with ThreadPoolExecutor(8) as pool:
            statuses = [answer.status_code for answer in pool.map(lambda _: get(vendor), range(50))]
        assert statuses.count(200) == 20
        assert statuses.count(429) == 30


def test_the_log_can_be_read_from_another_process() -> None:
    with running_simulator() as vendor:
        get(vendor)
        [entry] = httpx.get(f"{vendor.url}/_simulator/requests").json()["requests"]
        assert entry["ticker"] == "SPY"
        assert entry["base_bars"] == entry["bars"] > 390
        assert KEY not in str(entry)


def test_a_taken_port_is_one_clear_line() -> None:
    with running_simulator() as vendor:
        port = int(vendor.url.rsplit(":", 1)[1])
        with pytest.raises(ConfigurationError, match=str(port)) as caught:
            RunningSimulator(port=port)
    assert "\n" not in str(caught.value)
