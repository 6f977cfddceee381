"""The checks of whole series: freshness and completeness, over real tables and a simulated vendor."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from marketdata_assets.config import load_settings
from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.checks.series import ABOVE_THRESHOLD, FRESH
from marketdata_assets.domain.jobs import FRESHNESS_JOB, MATRIX_JOB
from marketdata_assets.pipeline.freshness import freshness_of, stale_rows
from marketdata_assets.pipeline.health import vitals
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.storage.symbols import (
    WantedSymbol,
    add_symbols,
    add_universe,
    list_presets,
    unused_presets,
)
from marketdata_assets_tests.integration.platform import Platform, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

MONDAY, TUESDAY, WEDNESDAY = date(2024, 5, 13), date(2024, 5, 14), date(2024, 5, 15)
NOW = datetime(2024, 5, 15, 12, tzinfo=UTC)
"""A Wednesday on which Tuesday's bars are due."""
KEYS = ("AAPL:1m", "AAPL:1h", "AAPL:1d", "BTC-USD:1m")


@pytest.fixture
def platform(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch) as running:
        yield running


def states(platform: Platform, now: datetime = NOW) -> dict[str, tuple[str, int | None]]:
    return {
        f"{row['symbol']}:{row['timeframe']}": (row["state"], row["late"])
        for row in freshness_of(platform.database, now).iter_rows(named=True)
    }


def long_tracked(platform: Platform) -> None:
    platform.execute("update tracked_symbols set updated_at = '2020-01-01'")


def test_a_preset_that_was_never_fetched_nor_chosen_is_not_monitored(platform: Platform) -> None:
    add_universe(platform.database)
    long_tracked(platform)
    assert unused_presets(platform.database) == list_presets(platform.database) != frozenset()
    assert states(platform) == {}
    assert vitals(platform.database, load_settings(), NOW).stale == ()
    # A request is monitored, be it one that failed: the daily run fetches presets.
    platform.execute(
        "insert into fetch_log (id, symbol, base, timeframes, window_start, window_end, status, pages, bars,"
        "  retries, duration_seconds, waited_seconds, requested_at)"
        " values (gen_random_uuid(), 'SPY', '1d', array['1d'], '2024-05-13', '2024-05-15', 'failed', 0, 0, 0, 0, 0,"
        "  '2024-05-15')"
    )
    add_symbols(platform.database, [WantedSymbol("AAPL")])
    long_tracked(platform)
    assert set(states(platform)) == {"SPY:1h", "SPY:1d", "AAPL:1h", "AAPL:1d"}


def evaluate(platform: Platform, job: str) -> tuple[dg.AssetCheckEvaluation, dict[str, Any]]:
    result = (
        build_definitions()
        .resolve_job_def(job)
        .execute_in_process(
            instance=platform.instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    )
    assert result.success
    [found] = result.get_asset_check_evaluations()
    return found, {name: value.value for name, value in found.metadata.items()}


def test_what_a_daily_run_brought_is_fresh_and_an_old_day_makes_nothing_so(platform: Platform) -> None:
    platform.track(*KEYS)
    long_tracked(platform)
    assert states(platform) == dict.fromkeys(KEYS, ("not_asked", None))
    platform.run_range(MONDAY, TUESDAY, *KEYS)
    assert states(platform) == dict.fromkeys(KEYS, ("fresh", 0))
    later = datetime(2024, 5, 17, 12, tzinfo=UTC)
    assert states(platform, later) == dict.fromkeys(KEYS, ("not_asked", 2))

    platform.run_range(date(2024, 5, 6), date(2024, 5, 7), *KEYS, force=True)
    assert states(platform, later)["AAPL:1m"] == ("not_asked", 2)
    stale = stale_rows(freshness_of(platform.database, later))
    assert stale["late"].to_list() == [2, 2, 2, 2]


def test_a_vendor_that_failed_or_is_silent_is_told_from_nobody_having_asked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Fault(kind=FaultKind.SERVER_ERROR, ticker="MSFT")
    with open_platform(database_url, monkeypatch, faults=[broken]) as platform:
        platform.track("AAPL:1m", "MSFT:1m", "SPY:1m")
        long_tracked(platform)
        platform.run_range(date(2024, 4, 22), TUESDAY, "AAPL:1m", "SPY:1m", sound=False)
        # As if the vendor had answered without them.
        platform.execute("delete from ohlcv where symbol = 'AAPL' and time >= '2024-05-14 15:00+00'")
        assert states(platform) == {
            "AAPL:1m": ("silent", 1),
            "MSFT:1m": ("failed", None),
            "SPY:1m": ("fresh", 0),
        }


def test_a_series_that_was_just_added_is_given_time(platform: Platform) -> None:
    platform.track("AAPL:1m")
    platform.execute("update tracked_symbols set updated_at = '2024-05-15 11:00+00'")
    assert states(platform) == {}
    assert states(platform, datetime(2024, 5, 16, 12, tzinfo=UTC)) == {"AAPL:1m": ("not_asked", None)}


def test_a_series_that_was_added_in_sql_is_given_time(platform: Platform) -> None:
    platform.track("AAPL:1d")
    long_tracked(platform)
    platform.execute("update tracked_symbols set timeframes = timeframes")
    assert states(platform) == {"AAPL:1d": ("not_asked", None)}
    platform.execute("update tracked_symbols set timeframes = '{1h,1d}'")
    assert states(platform) == {}
    platform.execute("update tracked_symbols set active = false, updated_at = '2020-01-01'")
    platform.execute("update tracked_symbols set active = true")
    assert states(platform) == {}


def test_the_freshness_job_is_the_check_alone_and_shows_the_stale_series(platform: Platform) -> None:
    platform.track(*KEYS)
    long_tracked(platform)
    platform.run_one(TUESDAY, "AAPL:1m")
    found, facts = evaluate(platform, FRESHNESS_JOB)
    assert found.check_name == FRESH
    assert not found.passed
    assert not found.blocking
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert (facts["series"], facts["stale_series"], facts["not_asked"]) == (4, 4, 4)
    assert facts["stale"].splitlines()[0].startswith("| series | state |")
    assert "| BTC-USD:1m | not_asked |" in facts["stale"]
    assert "| 2024-05-14 23:59 |" in facts["stale"]


def test_the_matrix_says_which_series_are_not_whole_enough(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.track("AAPL:1h", "SPY:1h", "MSFT:1h")
    platform.execute(
        "insert into completeness_daily (symbol, timeframe, day, expected_bars, present_bars, no_trade_bars,"
        " missing_bars, completeness, status) values ('AAPL', '1h', '2024-05-14', 1000, 900, 96, 4, 0.996, 'gaps'),"
        " ('SPY', '1h', '2024-05-14', 1000, 990, 4, 6, 0.994, 'gaps')"
    )
    found, facts = evaluate(platform, MATRIX_JOB)
    assert found.check_name == ABOVE_THRESHOLD
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert (found.description or "").startswith(
        "1 of 2 series are not at least 99.5 % complete: SPY:1h. 1 more"
    )
    assert (facts["series_below"], facts["series_unchecked"], facts["missing_bars"]) == (1, 1, 6)
    assert "| SPY:1h | 99.400% | 6 | 1,000 |" in facts["below"]
    monkeypatch.setenv("MARKETDATA_COMPLETENESS_PERCENT", "99")
    assert evaluate(platform, MATRIX_JOB)[0].passed
