"""What people see and do in Dagster's UI: lineage, a backfill by hand, checks, the matrix, plots, held-back features."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator import FaultKind
from marketdata_assets_tests.conftest import fresh_database
from marketdata_assets_tests.integration.platform import wait_until
from marketdata_assets_tests.ui.browsing import opened_page, photograph
from marketdata_assets_tests.ui.running import RunningPlatform, running_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

SYMBOLS = {"AAPL": ["1m", "1h"], "SPY": ["1m", "1h"]}
SERIES = [f"{symbol}:{timeframe}" for symbol, timeframes in SYMBOLS.items() for timeframe in timeframes]


@dataclass(frozen=True)
class Days:
    """Closed sessions, near enough to today to be among the partitions that the UI plots."""

    sound: tuple[date, ...]
    """Three in a row."""
    poisoned: date
    failed: date


@pytest.fixture(scope="module")
def days() -> Days:
    last = datetime.now(UTC).date() - timedelta(days=3)
    sessions = list(calendar_of(AssetClass.STOCK).sessions(last - timedelta(days=21), last))
    rows = [
        three
        for three in zip(sessions, sessions[1:], sessions[2:], strict=False)
        if (three[2] - three[0]).days == 2
    ]
    first = sessions.index(rows[-1][0])
    return Days(rows[-1], sessions[first - 1], sessions[first - 2])


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, template_url: str, days: Days
) -> Iterator[RunningPlatform]:
    with (
        fresh_database(postgres_server) as url,
        running_platform(tmp_path_factory.mktemp("ui"), url, SYMBOLS, start=days.failed) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def bars(browser: Browser, platform: RunningPlatform, days: Days) -> RunningPlatform:
    """The platform with the bars of the sound days, as a backfill that was clicked together has brought them."""
    with opened_page(browser) as page:
        launch_backfill(page, platform, "ohlcv", *days.sound)
    return platform


def launch_backfill(page: Page, platform: RunningPlatform, asset: str, *days: date) -> None:
    """Click a backfill of ``asset`` over ``days`` and every series together, and wait for its end."""
    before = {run["runId"] for run in platform.runs()}
    page.goto(f"{platform.url}/assets/{asset}?view=partitions")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    dialog = page.get_by_role("dialog")
    chosen = dialog.get_by_placeholder(re.compile("^ex: "))
    chosen.fill(f"[{days[0]}...{days[-1]}]")
    chosen.press("Enter")
    dialog.get_by_role("button", name="All", exact=True).last.click()
    expect(dialog.get_by_text(f"{len(days) * len(SERIES)} partitions")).to_be_visible()
    photograph(page, f"backfill_{asset}")
    dialog.get_by_role("button", name=re.compile("^Launch")).click()
    wait_until(lambda: len(platform.runs()) - len(before) >= len(days), "every run is started", 180)
    platform.wait_for_rest()


def partitions(*days: date) -> set[str]:
    """Keys of every series on ``days``."""
    return {f"{day}|{one}" for day in days for one in SERIES}


def test_the_lineage_graph_shows_the_assets_and_their_edges(page: Page, platform: RunningPlatform) -> None:
    page.set_viewport_size({"width": 1500, "height": 1250})
    page.goto(f"{platform.url}/asset-groups")
    expect(page.get_by_text("bars", exact=True).first).to_be_visible()
    page.keyboard.press("Alt+e")
    for name in ("ohlcv", "gap_report", "completeness_matrix", "features", "splits", "dividends", "earnings"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    # ohlcv and gap_report lead to features, so does splits; ohlcv to gap_report, and that to the matrix
    expect(page.locator("svg path[marker-end]")).to_have_count(5)
    expect(page.get_by_text("Loading...")).to_have_count(0)
    photograph(page, "lineage")


def test_a_backfill_by_clicks_brings_the_bars(bars: RunningPlatform, days: Days) -> None:
    assert bars.materialized("ohlcv") == partitions(*days.sound)
    found = bars.database.read_frame(
        "select symbol || ':' || timeframe as series, (time at time zone 'America/New_York')::date as day,"
        " count(*) as bars from ohlcv group by 1, 2"
    )
    stored = {f"{day}|{series}": count for series, day, count in found.iter_rows()}
    assert set(stored) == partitions(*days.sound)
    # a regular session has 390 minutes, and its hours lie in 7 clock hours
    assert all(count >= (390 if key.endswith("1m") else 7) for key, count in stored.items())


def test_bars_are_plotted_over_partitions(page: Page, bars: RunningPlatform) -> None:
    page.goto(f"{bars.url}/assets/ohlcv")
    page.get_by_text("Plots", exact=True).click()
    plot = page.locator("canvas").first
    plot.scroll_into_view_if_needed()
    expect(plot).to_be_visible()
    photograph(page, "plots")


def test_the_matrix_follows_by_itself_and_shows_its_heatmap(
    page: Page, bars: RunningPlatform, days: Days
) -> None:
    bars.marketdata("gaps", "--start", str(days.sound[0]), "--end", str(days.sound[-1]))
    wait_until(
        lambda: bars.value("select count(*) from completeness_matrix") == len(SERIES),
        "the matrix is there",
        120,
    )
    page.goto(f"{bars.url}/assets/completeness_matrix?view=events")
    row = page.get_by_role("row").filter(has=page.get_by_text("heatmap", exact=True))
    row.get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").get_by_alt_text("Completeness of symbols by timeframe")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 100
    photograph(page, "heatmap")


def test_a_poisoned_series_gets_no_features_and_all_others_do(
    page: Page, bars: RunningPlatform, days: Days
) -> None:
    bars.marketdata("actions")
    bars.simulator.fail(FaultKind.INVALID_BARS, ticker="SPY", rate=0.8)
    launch_backfill(page, bars, "ohlcv", days.poisoned)
    bars.simulator.set_faults()
    page.goto(f"{bars.url}/assets/ohlcv?view=checks&checkDetail=ohlcv_valid")
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    page.get_by_text("[Show Markdown]").first.click()
    table = page.get_by_role("dialog").get_by_role("table")
    expect(table.get_by_text("SPY:1m").first).to_be_visible()
    expect(table.get_by_text("AAPL:1m")).to_have_count(0)
    photograph(page, "check")

    page.keyboard.press("Escape")
    launch_backfill(page, bars, "features", days.poisoned)
    wait_until(lambda: bars.backfill_status() == "COMPLETED_SUCCESS", "the backfill completes", 120)
    assert partitions(days.poisoned) <= bars.materialized("features")
    query = "select string_agg(distinct symbol, ',') from features"
    assert bars.value(query) == "AAPL"
    page.goto(f"{bars.url}/assets/features?view=partitions&partition={days.poisoned}%7CSPY%3A1m")
    expect(page.get_by_text("blocked", exact=True)).to_be_visible()
    expect(page.get_by_text("blocked by ohlcv_valid")).to_be_visible()
    photograph(page, "blocked")


def test_the_partitions_of_a_failed_run_are_red(page: Page, bars: RunningPlatform, days: Days) -> None:
    bars.simulator.fail(FaultKind.SERVER_ERROR, status=400)
    launch_backfill(page, bars, "ohlcv", days.failed)
    bars.simulator.set_faults()
    wait_until(lambda: bars.backfill_status() == "COMPLETED_FAILED", "the backfill ends", 120)
    page.goto(f"{bars.url}/assets/ohlcv?view=partitions&partition={days.failed}%7CSPY%3A1m")
    expect(page.get_by_text(f"Failed ({len(SERIES)})", exact=True)).to_be_visible()
    photograph(page, "failed")
