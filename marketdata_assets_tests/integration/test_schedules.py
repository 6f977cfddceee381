"""What schedules ask for, and what comes of it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest
from dagster import AssetKey, DagsterInstance, DefaultScheduleStatus, instance_for_test

from marketdata_assets.domain.jobs import BARS_JOB, CORPORATE_ACTIONS_JOB, FEATURES_JOB, HISTORY_JOB
from marketdata_assets.domain.partitions import RANGE_END, RANGE_START
from marketdata_assets.domain.run_tags import PURPOSE_TAG
from marketdata_assets.simulator import FaultKind
from marketdata_assets.storage.symbols import deactivate
from marketdata_assets_tests.integration.daemon import Daemon
from marketdata_assets_tests.integration.platform import Platform, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

NIGHT = datetime(2023, 7, 6, 2, tzinfo=UTC)  # Wednesday evening in New York, after Independence Day
THURSDAY = datetime(2023, 7, 6, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with instance_for_test() as instance:  # type: ignore[no-untyped-call,unused-ignore]
        yield instance


@pytest.fixture
def platform(
    database_url: str, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch, instance=instance) as opened:
        yield opened


@pytest.fixture
def daemon(platform: Platform) -> Daemon:
    return Daemon(platform)


def test_a_night_is_one_run_that_brings_every_bar_and_looks_for_gaps(
    platform: Platform, daemon: Daemon
) -> None:
    platform.track("AAPL:1h", "AAPL:1d", "SPY:1m", "BTC-USD:1h")
    (request,) = daemon.scheduled("daily_bars", NIGHT)
    assert request.tags[PURPOSE_TAG] == "daily_bars"
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == (
        "2023-06-30|AAPL:1h",
        "2023-07-05|BTC-USD:1h",
    )
    assert daemon.scheduled("daily_bars", NIGHT)[0].run_key == request.run_key
    daemon.execute(request, HISTORY_JOB)
    stored = platform.database.read_frame(
        "select symbol || ':' || timeframe as key, min(time)::date as first, max(time)::date as last"
        " from ohlcv group by 1 order by 1"
    )
    assert stored.rows() == [
        ("AAPL:1d", date(2023, 6, 30), date(2023, 7, 5)),
        ("AAPL:1h", date(2023, 6, 30), date(2023, 7, 5)),
        ("BTC-USD:1h", date(2023, 6, 30), date(2023, 7, 5)),
        ("SPY:1m", date(2023, 6, 30), date(2023, 7, 5)),
    ]
    for asset in ("ohlcv", "gap_report"):
        assert len(platform.instance.get_materialized_partitions(AssetKey(asset))) == 6 * 4
    # What was missed since is made up for.
    (later,) = daemon.scheduled("daily_bars", NIGHT.replace(day=20))
    assert later.tags[RANGE_START].startswith("2023-07-06|")
    assert later.run_key != request.run_key


def test_a_symbol_that_fails_at_night_does_not_keep_the_others_from_being_scanned(
    platform: Platform, daemon: Daemon
) -> None:
    platform.track("AAPL:1d", "MSFT:1d")
    platform.simulator.fail(FaultKind.SERVER_ERROR, ticker="MSFT")
    (request,) = daemon.scheduled("daily_bars", NIGHT)
    result = daemon.execute(request, HISTORY_JOB)
    recorded = platform.instance.get_materialized_partitions(AssetKey("ohlcv"))
    assert {key.partition("|")[2] for key in recorded} == {"AAPL:1d"}
    told = result.asset_materializations_for_node("ohlcv")[0].metadata
    assert told["failed_symbols"].value == ["MSFT"]
    looked = platform.instance.get_materialized_partitions(AssetKey("gap_report"))
    assert {key.partition("|")[2] for key in looked} == {"AAPL:1d", "MSFT:1d"}


def test_when_every_symbol_fails_the_night_fails(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1d", "MSFT:1d")
    platform.simulator.fail(FaultKind.SERVER_ERROR)
    (request,) = daemon.scheduled("daily_bars", NIGHT)
    daemon.execute(request, HISTORY_JOB, sound=False)
    assert not platform.instance.get_materialized_partitions(AssetKey("gap_report"))


def test_a_series_that_died_does_not_widen_every_night(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1d", "MSFT:1d")

    def first_day(msft_until: date) -> str:
        platform.execute("delete from fetch_log")
        for key, day in (("MSFT:1d", msft_until), ("AAPL:1d", date(2023, 7, 3))):
            platform.run_range(day, day, key, force=True)
        (request,) = daemon.scheduled("daily_bars", NIGHT)
        return request.tags[RANGE_START].partition("|")[0]

    assert first_day(date(2023, 6, 20)) == "2023-06-21"
    assert first_day(date(2023, 5, 2)) == "2023-06-30"


def test_nothing_tracked_is_nothing_to_do(platform: Platform, daemon: Daemon) -> None:
    for name in ("daily_bars", "daily_features", "daily_corporate_actions", "intraday_bars"):
        assert daemon.scheduled(name, NIGHT) == []
        assert daemon.skip_reason
        assert "\n" not in daemon.skip_reason


def test_features_are_what_is_out_of_date_and_wait_for_the_bars(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1d", "MSFT:1d")
    platform.never_split("AAPL", "MSFT")
    (request,) = daemon.scheduled("daily_bars", NIGHT)
    run = daemon.begin(request, HISTORY_JOB)
    half_past = NIGHT.replace(hour=3, minute=30)
    assert daemon.scheduled("daily_features", half_past) == []
    assert run.run_id in (daemon.skip_reason or "")
    daemon.cancel(run)
    daemon.execute(request, HISTORY_JOB)
    (features,) = daemon.scheduled("daily_features", half_past)
    assert features.tags[PURPOSE_TAG] == "daily_features"
    assert features.tags[RANGE_START].endswith("|AAPL:1d")
    begun = daemon.begin(features, FEATURES_JOB)
    assert daemon.scheduled("daily_features", half_past.replace(hour=8)) == []
    daemon.cancel(begun)
    daemon.execute(features, FEATURES_JOB)
    assert platform.count("features") == platform.count("ohlcv") > 0
    assert daemon.scheduled("daily_features", half_past.replace(hour=4)) == []
    assert daemon.skip_reason == "no feature is stale"


def test_corporate_actions_are_one_run_when_something_splits(platform: Platform, daemon: Daemon) -> None:
    early = NIGHT.replace(hour=1, minute=30)
    platform.track("BTC-USD:1d")
    assert daemon.scheduled("daily_corporate_actions", early) == []
    platform.track("AAPL:1d")
    (request,) = daemon.scheduled("daily_corporate_actions", early)
    daemon.execute(request, CORPORATE_ACTIONS_JOB)
    assert platform.count("corporate_action_checks", "kind = 'splits' and symbol = 'AAPL'") == 1


def test_an_open_market_is_followed_and_ticks_do_not_pile_up(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1m", "BTC-USD:1m", "SPY:1m", "SPY:1h")
    schedule = daemon.definitions.resolve_schedule_def("intraday_bars")
    assert schedule.default_status is DefaultScheduleStatus.STOPPED

    def ranges(hour: int) -> list[tuple[str, str]]:
        return [
            (one.tags[RANGE_START], one.tags[RANGE_END])
            for one in daemon.scheduled("intraday_bars", THURSDAY.replace(hour=hour))
        ]

    assert ranges(15) == [("2023-07-06|AAPL:1m", "2023-07-06|SPY:1h")]
    assert ranges(3) == [("2023-07-06|BTC-USD:1m", "2023-07-06|BTC-USD:1m")]
    deactivate(platform.database, "BTC-USD")
    # The partitions follow later: what lies between is not traded.
    assert ranges(15) == [
        ("2023-07-06|AAPL:1m", "2023-07-06|AAPL:1m"),
        ("2023-07-06|SPY:1m", "2023-07-06|SPY:1h"),
    ]
    assert ranges(3) == []
    assert daemon.skip_reason == "no market is open at 2023-07-06 03:00 UTC"
    requests = daemon.scheduled("intraday_bars", THURSDAY.replace(hour=15))
    assert len({one.run_key for one in requests}) == 2
    run = daemon.begin(requests[0], BARS_JOB)
    assert ranges(16) == []
    assert run.run_id in (daemon.skip_reason or "")
    daemon.cancel(run)
    assert len(ranges(16)) == 2


def test_a_symbol_that_fails_does_not_keep_the_others_from_being_followed(
    platform: Platform, daemon: Daemon
) -> None:
    platform.track("AAPL:1m", "MSFT:1m")
    platform.simulator.fail(FaultKind.SERVER_ERROR, ticker="MSFT")
    (request,) = daemon.scheduled("intraday_bars", THURSDAY.replace(hour=15))
    daemon.execute(request, BARS_JOB)
    recorded = platform.instance.get_materialized_partitions(AssetKey("ohlcv"))
    assert recorded == {"2023-07-06|AAPL:1m"}
