"""What the platform does by itself: new series, a night, and a day on which much goes wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets_tests.integration.platform import wait_until
from marketdata_assets_tests.ui.browsing import photograph
from marketdata_assets_tests.ui.running import RunningPlatform, running_platform

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

STOCKS = ("AAPL", "AMZN", "GOOGL", "IWM", "JPM", "META", "MSFT", "NFLX", "NVDA", "QQQ", "SPY", "TSLA", "XOM")
CRYPTO = ("BTC-USD", "ETH-USD")
SECONDS = 300
"""For the daemon to see something, to start a run for it, and for the run to end, on a busy machine."""


@pytest.fixture
def today() -> datetime:
    """The UTC midnight that opened today."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def turn_on(page: Page, platform: RunningPlatform, sensor: str) -> None:
    """Click the switch of ``sensor`` on the page of all automation."""
    page.goto(f"{platform.url}/automation")
    row = page.locator("[data-index]").filter(has=page.locator(f'a[href$="/sensors/{sensor}"]'))
    # The box that selects the row comes first; the switch comes once the sensor's state is known.
    expect(row.locator("label")).to_have_count(2)
    row.locator("label").nth(1).click()
    switch = row.locator("input").nth(1)
    expect(switch).to_be_checked()
    photograph(page, "automation")


def is_filled(platform: RunningPlatform, table: str, *series: str) -> bool:
    """Whether ``table`` has rows of each of ``series``."""
    found = platform.database.read_frame(f"select distinct symbol || ':' || timeframe as series from {table}")
    return set(series) <= set(found["series"])


def test_a_series_that_was_added_in_sql_gets_its_partitions_and_history(
    page: Page, tmp_path: Path, database_url: str, today: datetime
) -> None:
    start = (today - timedelta(days=8)).date()
    with running_platform(tmp_path, database_url, {"AAPL": ["1d"]}, start=start) as platform:
        platform.execute(
            "update tracked_symbols set timeframes = array['1m', '1h', '1d'] where symbol = 'AAPL'"
        )
        turn_on(page, platform, "series_sync")
        wanted = ("AAPL:1m", "AAPL:1h", "AAPL:1d")
        wait_until(lambda: is_filled(platform, "ohlcv", *wanted), "the bars have come", SECONDS)
        wait_until(lambda: is_filled(platform, "features", *wanted), "features follow", SECONDS)
        wait_until(
            lambda: platform.value("select count(*) from completeness_matrix") == len(wanted),
            "the matrix follows",
            SECONDS,
        )
        page.goto(f"{platform.url}/assets/ohlcv?view=partitions")
        for one in wanted:
            expect(page.get_by_text(one, exact=True).first).to_be_visible()
        assert {key.split("|")[1] for key in platform.materialized("ohlcv")} == set(wanted)
        assert not [run for run in platform.runs() if run["status"] == "FAILURE"]


def test_a_day_on_which_much_goes_wrong_ends_whole(
    page: Page, tmp_path: Path, database_url: str, today: datetime
) -> None:
    calendar = calendar_of(AssetClass.STOCK)
    sessions = calendar.sessions((today - timedelta(days=9)).date(), (today - timedelta(days=2)).date())
    lost = calendar.session(sessions[0])
    assert lost is not None
    symbols = {symbol: ["1m", "1h", "1d"] for symbol in (*STOCKS, *CRYPTO)}
    with running_platform(tmp_path, database_url, symbols, start=sessions[0]) as platform:
        platform.simulator.set_faults(
            Fault(
                kind=FaultKind.LOST_HOURS,
                ticker="SPY",
                start=lost.regular.start + timedelta(hours=2),
                end=lost.regular.start + timedelta(hours=3),
                returns_after=1,
            ),
            Fault(kind=FaultKind.RATE_LIMIT, rate=0.4, retry_after=1),
        )
        turn_on(page, platform, "series_sync")
        # The process that brings the histories is killed in the middle of it.
        platform.simulator.wait_for_requests(10, SECONDS)
        workers = platform.workers()
        assert workers
        for worker in workers:
            worker.kill()
        wait_until(
            lambda: is_filled(platform, "ohlcv", *(f"{one}:1d" for one in symbols)),
            "histories have come",
            SECONDS,
        )
        platform.wait_for_rest(SECONDS)
        assert any(run["status"] == "FAILURE" for run in platform.runs()), "nothing was killed"

        # The clock strikes two, and half past three.
        night = today + timedelta(days=1, hours=2)
        (bars,) = platform.tick("daily_bars", night)
        platform.launch("bars_and_gaps", bars)
        platform.wait_for_rest(SECONDS)
        for request in platform.tick("daily_features", night + timedelta(hours=1, minutes=30)):
            platform.launch("feature_update", request)
        platform.wait_for_rest(SECONDS)

        wait_until(
            lambda: (
                platform.value("select count(*) from gap_report where state in ('open', 'unfilled')") == 0
            ),
            "no gap is left",
            SECONDS,
        )
        wait_until(
            lambda: (
                platform.value("select count(*) filter (where status = 'whole') from completeness_matrix")
                == 3 * len(symbols)
            ),
            "the matrix is whole",
            SECONDS,
        )
        # A worker that is killed after it asked uses up the loss: then the hour comes without a gap that is filled.
        lost_hour = f"[{lost.regular.start + timedelta(hours=2)}, {lost.regular.start + timedelta(hours=3)})"
        in_the_hour = f"select count(*) from ohlcv where symbol = 'SPY' and timeframe = '1m' and time <@ '{lost_hour}'::tstzrange"
        assert platform.value(in_the_hour) == 60
        page.goto(f"{platform.url}/assets/completeness_matrix?view=events")
        expect(page.get_by_text("series_whole", exact=True)).to_be_visible()
        photograph(page, "morning")
