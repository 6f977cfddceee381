"""Gaps of simulated and of real bars: found, asked for again, explained, and kept."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.partitions import partition_key
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.defs.runs.gaps import scan_for_gaps
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import Series
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets_tests.integration.platform import Platform, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST, LAST = date(2023, 5, 22), date(2023, 7, 7)
WEDNESDAY = datetime(2023, 7, 5, 15, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def platform(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch) as running:
        yield running


def look(platform: Platform, first: date, last: date, *keys: str, repair: bool = True) -> int:
    """Look for gaps; how many requests that took."""
    before = len(platform.simulator.requests)
    scan_for_gaps(
        Runner(
            build_definitions(resources={"polygon": PolygonResource(**platform.polygon)}), platform.instance
        ),
        [Rectangle(first, last, tuple(map(Series.parse, keys)))],
        repair=repair,
    )
    return len(platform.simulator.requests) - before


def gaps(platform: Platform, where: str = "true") -> list[dict[str, Any]]:
    return platform.database.read_frame(
        f"select * from gap_report where {where} order by symbol, timeframe, gap_start"
    ).to_dicts()


def lost(
    start: datetime, length: timedelta, *, ticker: str = "SPY", returns_after: int | None = None
) -> Fault:
    return Fault(
        kind=FaultKind.LOST_HOURS,
        ticker=ticker,
        start=start,
        end=start + length,
        returns_after=returns_after,
    )


def test_an_hour_that_comes_back_is_filled_and_one_that_does_not_is_unfilled(platform: Platform) -> None:
    platform.track("SPY:1m", "SPY:1h")
    platform.simulator.set_faults(lost(WEDNESDAY, HOUR, returns_after=1), lost(WEDNESDAY + DAY, HOUR))
    keys = ("SPY:1m", "SPY:1h")
    platform.run_range(FIRST, LAST, *keys)
    assert look(platform, FIRST, LAST, *keys, repair=False) == 0
    assert {(gap["state"], gap["attempts"]) for gap in gaps(platform)} == {("open", 0)}
    assert sum(gap["missing_bars"] for gap in gaps(platform, "timeframe = '1m'")) == 120

    assert look(platform, FIRST, LAST, *keys) == 2  # both days at once, then the second again
    filled, unfilled = gaps(platform, "timeframe = '1m'")
    assert (filled["state"], filled["gap_start"], filled["attempts"]) == ("filled", WEDNESDAY, 1)
    assert filled["resolved_at"] is not None
    assert (unfilled["state"], unfilled["missing_bars"], unfilled["attempts"]) == ("unfilled", 60, 2)
    assert "outage" in unfilled["reason"]
    assert (
        platform.count("ohlcv", f"timeframe = '1m' and time >= '{WEDNESDAY}' and time < '{WEDNESDAY + HOUR}'")
        == 60
    )
    (bar,) = platform.bars("base_bars", f"timeframe = '1h' and time = '{WEDNESDAY}'")
    assert bar["base_bars"] == 60

    before = gaps(platform)
    assert look(platform, FIRST, LAST, *keys) == 0
    assert gaps(platform) == before


def test_a_thin_fund_raises_no_alarm_and_its_outage_does(platform: Platform) -> None:
    platform.track("DBB:1m")
    platform.run_range(FIRST, LAST, "DBB:1m")
    empty = 1 - platform.count("ohlcv") / (32 * 390)
    assert empty > 0.7
    look(platform, FIRST, LAST, "DBB:1m")
    assert {gap["state"] for gap in gaps(platform)} == {"no_trades"}
    assert "trades in 2" in gaps(platform)[0]["reason"]


def test_a_session_that_a_thin_fund_loses_is_unfilled(platform: Platform) -> None:
    platform.track("DBB:1m")
    day = datetime(2023, 7, 5, tzinfo=UTC)
    platform.simulator.set_faults(lost(day, DAY, ticker="DBB"))
    platform.run_range(FIRST, LAST, "DBB:1m")
    look(platform, FIRST, LAST, "DBB:1m")
    (alarm,) = gaps(platform, "state <> 'no_trades'")
    assert (alarm["state"], alarm["missing_bars"], alarm["attempts"]) == ("unfilled", 390, 2)


def test_a_vendor_that_fails_is_named(platform: Platform) -> None:
    platform.track("SPY:1m")
    platform.simulator.set_faults(lost(WEDNESDAY, HOUR))
    platform.run_range(FIRST, LAST, "SPY:1m")
    platform.simulator.set_faults(Fault(kind=FaultKind.SERVER_ERROR, ticker="SPY", status=500))
    look(platform, FIRST, LAST, "SPY:1m")
    (gap,) = gaps(platform)
    # A second attempt at once would meet the same failure.
    assert (gap["state"], gap["attempts"]) == ("open", 1)
    look(platform, FIRST, LAST, "SPY:1m")
    (gap,) = gaps(platform)
    assert (gap["state"], gap["attempts"]) == ("unfilled", 2)
    assert "HTTP 500" in gap["reason"]
    assert "HTTP 500" in gap["failure"]


def test_a_hole_of_weeks_is_one_gap_whatever_the_order_of_the_runs(platform: Platform) -> None:
    platform.track("SPY:1m")
    start, end = datetime(2023, 6, 5, tzinfo=UTC), datetime(2023, 6, 24, tzinfo=UTC)
    platform.simulator.set_faults(lost(start, end - start))
    platform.run_range(FIRST, LAST, "SPY:1m")
    for first, last in (
        (date(2023, 6, 12), date(2023, 6, 14)),
        (date(2023, 6, 15), date(2023, 7, 7)),
        (FIRST, date(2023, 6, 11)),
    ):
        look(platform, first, last, "SPY:1m", repair=False)
    (gap,) = gaps(platform)
    assert gap["missing_bars"] == 14 * 390
    assert gap["day"] == date(2023, 6, 5)
    assert gap["gap_end"] == datetime(2023, 6, 23, 20, tzinfo=UTC)


def test_completeness_is_kept_by_day(platform: Platform) -> None:
    platform.track("SPY:1m")
    platform.simulator.set_faults(lost(WEDNESDAY, HOUR))
    platform.run_range(FIRST, LAST, "SPY:1m")
    look(platform, FIRST, LAST, "SPY:1m")
    daily = platform.database.read_frame("select * from completeness_daily order by day")
    assert daily.height == 32  # sessions
    (gap_day,) = daily.filter(status="gaps").to_dicts()
    assert (gap_day["day"], gap_day["expected_bars"], gap_day["missing_bars"]) == (date(2023, 7, 5), 390, 60)
    half_day = daily.filter(day=date(2023, 7, 3)).row(0, named=True)
    assert (half_day["expected_bars"], half_day["status"]) == (210, "whole")


def judgements(platform: Platform) -> list[tuple[object, ...]]:
    columns = ("symbol", "timeframe", "gap_start", "gap_end", "missing_bars", "state", "attempts", "reason")
    return [tuple(gap[name] for name in columns) for gap in gaps(platform)]


def test_days_that_were_never_fetched_change_no_judgement_in_the_store(platform: Platform) -> None:
    """Days before, between and after two fetched stretches; the first of them ends with an outage."""
    platform.track("DBB:1m", "DBB:1h")
    keys = ("DBB:1m", "DBB:1h")
    platform.simulator.set_faults(
        lost(datetime(2023, 6, 2, 15, tzinfo=UTC), 5 * HOUR, ticker="DBB"),
        lost(datetime(2023, 6, 20, 13, tzinfo=UTC), HOUR, ticker="DBB"),
    )
    stretches = (date(2023, 5, 22), date(2023, 6, 2)), (date(2023, 6, 20), date(2023, 7, 7))
    for first, last in stretches:
        platform.run_range(first, last, *keys)
    for first, last in (*stretches, stretches[0]):
        look(platform, first, last, *keys)
    alone = judgements(platform)
    assert {gap["state"] for gap in gaps(platform)} == {"no_trades", "unfilled"}
    # The outage touches days that were never fetched, and reaches no further.
    (hours,) = gaps(platform, "timeframe = '1h' and state = 'unfilled' and gap_start < '2023-06-10'")
    assert (hours["missing_bars"], hours["gap_end"]) == (5, datetime(2023, 6, 2, 20, tzinfo=UTC))

    assert look(platform, date(2023, 4, 3), date(2023, 8, 4), *keys) == 0
    assert judgements(platform) == alone
    assert platform.count("completeness_daily", "day between '2023-06-03' and '2023-06-19'") == 0


def test_longer_timeframes_follow_their_base_in_the_same_run(platform: Platform) -> None:
    platform.track("SPY:1m", "SPY:1h", "BTC-USD:5m", "BTC-USD:4h")
    four = timedelta(hours=4)
    platform.simulator.set_faults(
        lost(WEDNESDAY, HOUR),
        lost(WEDNESDAY + DAY, HOUR, returns_after=1),
        lost(datetime(2023, 7, 5, 4, tzinfo=UTC), four, ticker="X:BTCUSD"),
    )
    week = date(2023, 7, 3), date(2023, 7, 7)
    platform.run_range(*week, "SPY:1m", "SPY:1h", "BTC-USD:5m", "BTC-USD:4h")
    # Only one timeframe of each is wanted; the other is stored along, so it is scanned along.
    assert look(platform, *week, "SPY:1m") == 2
    assert look(platform, *week, "BTC-USD:4h") == 2
    told = [
        (gap["symbol"], gap["timeframe"], gap["missing_bars"], gap["state"], gap["attempts"])
        for gap in gaps(platform)
    ]
    assert told == [
        ("BTC-USD", "4h", 1, "unfilled", 2),
        ("BTC-USD", "5m", 48, "unfilled", 2),
        ("SPY", "1h", 1, "unfilled", 2),
        ("SPY", "1h", 1, "filled", 1),
        ("SPY", "1m", 60, "unfilled", 2),
        ("SPY", "1m", 60, "filled", 1),
    ]
    assert platform.count("completeness_daily", "symbol = 'SPY' and timeframe = '1h'") == 4
    longer, base = gaps(platform, "symbol = 'SPY' and state = 'unfilled'")
    assert longer["reason"].startswith("1 bar (60 minutes) missing from")
    assert base["reason"].startswith("60 minutes missing from")


@pytest.mark.parametrize(("symbol", "ticker"), [("BTC-USD", "X:BTCUSD"), ("SPY", "SPY")])
@pytest.mark.parametrize("timeframe", ["1d", "1w"])
def test_a_week_that_begins_before_the_first_day_is_asked_for_with_its_days(
    platform: Platform, symbol: str, ticker: str, timeframe: str
) -> None:
    """A vendor without a bar, from a Thursday on: every gap ends, and the same look finds nothing to ask for."""
    platform.track(f"{symbol}:1d", f"{symbol}:1w")
    platform.simulator.set_faults(lost(datetime(2023, 6, 1, tzinfo=UTC), 60 * DAY, ticker=ticker))
    days = date(2023, 6, 15), date(2023, 7, 7)
    platform.run_range(*days, f"{symbol}:1d", f"{symbol}:1w")
    assert look(platform, *days, f"{symbol}:{timeframe}") == 2
    told = gaps(platform)
    assert len(told) == 2
    assert {(gap["state"], gap["attempts"]) for gap in told} == {("unfilled", 2)}
    for gap in told:
        assert gap["reason"].startswith(f"{gap['missing_bars']} ")
    (weeks,) = (gap for gap in told if gap["timeframe"] == "1w")
    assert (weeks["day"], weeks["missing_bars"]) == (date(2023, 6, 11), 4)
    assert look(platform, *days, f"{symbol}:{timeframe}") == 0


def replayed(
    database_url: str, monkeypatch: pytest.MonkeyPatch, realdata: Path, first: date, last: date, *keys: str
) -> list[dict[str, Any]]:
    with open_platform(database_url, monkeypatch, replay=realdata / "data") as platform:
        platform.track(*keys)
        platform.run_range(first, last, *keys)
        look(platform, first, last, *keys)
        return gaps(platform)


def expected_gaps(realdata: Path, name: str, *path: str) -> list[tuple[datetime, int]]:
    found: Any = json.loads((realdata / "expected" / f"{name}.json").read_text())["expected"]
    for key in path:
        found = found[key]
    return [(datetime.fromisoformat(gap["first"]), gap["bars"]) for gap in found["gaps"]]


def test_the_half_day_of_goog(database_url: str, monkeypatch: pytest.MonkeyPatch, realdata: Path) -> None:
    found = replayed(database_url, monkeypatch, realdata, date(2015, 12, 23), date(2015, 12, 28), "GOOG:1m")
    expected = expected_gaps(realdata, "A03_goog_half_day_holiday", "days", "2015-12-28")
    assert sum(bars for _, bars in expected) == 8
    assert [(gap["gap_start"], gap["missing_bars"]) for gap in found] == expected
    assert {gap["state"] for gap in found} == {"no_trades"}


@pytest.mark.parametrize(("symbol", "missing"), [("BTC-USD", 433), ("ETH-USD", 431)])
def test_the_outage_of_coinbase(
    database_url: str, monkeypatch: pytest.MonkeyPatch, realdata: Path, symbol: str, missing: int
) -> None:
    day = date(2018, 4, 4)
    found = replayed(database_url, monkeypatch, realdata, day, day, f"{symbol}:1m")
    name = symbol.replace("-", "")
    expected = expected_gaps(realdata, "A04_coinbase_outage", name, "2018-04-04")
    assert [(gap["gap_start"], gap["missing_bars"]) for gap in found] == expected
    assert sum(gap["missing_bars"] for gap in found) == missing
    assert {gap["state"] for gap in found} == {"unfilled"}
    assert all("outage" in gap["reason"] for gap in found)


def test_a_week_of_spy_is_whole(database_url: str, monkeypatch: pytest.MonkeyPatch, realdata: Path) -> None:
    found = replayed(database_url, monkeypatch, realdata, date(2013, 10, 7), date(2013, 10, 11), "SPY:1m")
    assert found == []


def test_each_partition_has_numbers_to_plot(platform: Platform) -> None:
    monday, holiday, wednesday = date(2023, 7, 3), date(2023, 7, 4), date(2023, 7, 5)
    platform.track("SPY:1m")
    platform.simulator.set_faults(lost(WEDNESDAY, HOUR))
    platform.run_range(monday, wednesday, "SPY:1m")
    look(platform, monday, wednesday, "SPY:1m", repair=False)
    records = platform.instance.fetch_materializations(dg.AssetKey("gap_report"), limit=3).records
    plotted = {}
    for record in records:
        assert record.asset_materialization is not None
        facts = record.asset_materialization.metadata
        plotted[str(record.partition_key)] = {
            name: facts[name].value
            for name in ("completeness", "expected_bars", "present_bars")
            if name in facts
        }
    assert plotted == {
        # Half a day before the holiday.
        partition_key(monday, Series.parse("SPY:1m")): {
            "completeness": 1.0,
            "expected_bars": 210,
            "present_bars": 210,
        },
        partition_key(holiday, Series.parse("SPY:1m")): {},
        partition_key(wednesday, Series.parse("SPY:1m")): {
            "completeness": pytest.approx(330 / 390),
            "expected_bars": 390,
            "present_bars": 330,
        },
    }
