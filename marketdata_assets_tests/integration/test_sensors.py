"""What sensors ask for, and what comes of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from dagster import DagsterRunStatus, RunRequest, RunsFilter, build_sensor_context

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.instance.environment import sync_series
from marketdata_assets.defs.run_tags import ended_at
from marketdata_assets.defs.runs import history as runs_module
from marketdata_assets.defs.runs.commands import Command
from marketdata_assets.defs.runs.execution import Runner
from marketdata_assets.defs.runs.gaps import scan_for_gaps
from marketdata_assets.defs.sensors import failures
from marketdata_assets.defs.sensors import series as series_module
from marketdata_assets.defs.sensors.repairs import MAX_REPAIRS
from marketdata_assets.defs.sensors.series import MAX_ATTEMPTS
from marketdata_assets.domain.jobs import BARS_JOB, GAPS_JOB, HISTORY_JOB
from marketdata_assets.domain.monitoring import Topic, VendorUse, Vitals, concerns
from marketdata_assets.domain.partitions import RANGE_END, RANGE_START, SERIES, Rectangle
from marketdata_assets.domain.run_tags import COMMAND_TAG, PURPOSE_TAG
from marketdata_assets.domain.series import Series
from marketdata_assets.pipeline.alerts import AlertError
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.storage.symbols import deactivate
from marketdata_assets_tests.integration.daemon import Clock, Daemon
from marketdata_assets_tests.integration.platform import Platform, open_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

THURSDAY = datetime(2023, 7, 6, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOLE = datetime(2023, 7, 5, 15, tzinfo=UTC)


@pytest.fixture
def platform(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with open_platform(database_url, monkeypatch) as opened:
        monkeypatch.setenv("MARKETDATA_INITIAL_DAYS", "30")
        monkeypatch.setenv("MARKETDATA_INITIAL_MINUTE_DAYS", "3")
        yield opened


@pytest.fixture
def daemon(platform: Platform) -> Daemon:
    return Daemon(platform, THURSDAY)


@pytest.fixture
def clock(daemon: Daemon) -> Clock:
    return daemon.clock


def ranges(requests: list[RunRequest], job: str = HISTORY_JOB) -> list[tuple[str, str]]:
    return [
        (one.tags[RANGE_START], one.tags[RANGE_END])
        for one in requests
        if one.job_name in (job, None) and RANGE_START in one.tags
    ]


def histories(requests: list[RunRequest]) -> list[RunRequest]:
    return [one for one in requests if one.job_name == HISTORY_JOB]


def partitions(platform: Platform) -> list[str]:
    return list(platform.instance.get_dynamic_partitions(SERIES))


def test_series_that_are_edited_in_sql_get_their_partitions_and_their_history(
    platform: Platform, daemon: Daemon, clock: Clock
) -> None:
    platform.execute(
        "insert into tracked_symbols (symbol, asset_class, timeframes) values"
        " ('AAPL', 'stock', '{1d}'), ('SPY', 'etf', '{1m}')"
    )
    requests = daemon.sensed("series_sync")
    assert partitions(platform) == ["AAPL:1d", "SPY:1m"]
    assert [one.job_name for one in requests] == ["corporate_actions", HISTORY_JOB, HISTORY_JOB]
    assert ranges(requests) == [
        ("2023-06-07|AAPL:1d", "2023-07-06|AAPL:1d"),
        ("2023-07-04|SPY:1m", "2023-07-06|SPY:1m"),
    ]
    for request in requests:
        daemon.execute(request, HISTORY_JOB)
    # What follows by itself are the features of what has come; and then nothing.
    features = daemon.sensed("series_sync")
    assert {one.job_name for one in features} == {"feature_update"}
    for request in features:
        daemon.execute(request, HISTORY_JOB)
    assert platform.count("features", "timeframe = '1d'") == platform.count("ohlcv", "timeframe = '1d'") > 15
    assert platform.count("features", "timeframe = '1m'") > 1000
    assert platform.count("gap_report", "state = 'open'") == 0
    assert daemon.sensed("series_sync") == []
    assert daemon.skip_reason == "every series has its partitions and its history"

    platform.execute("update tracked_symbols set timeframes = '{1h,1d}' where symbol = 'AAPL'")
    (request,) = daemon.sensed("series_sync")
    assert partitions(platform) == ["AAPL:1h", "AAPL:1d", "SPY:1m"]
    assert ranges([request]) == [("2023-06-07|AAPL:1h", "2023-07-06|AAPL:1h")]
    daemon.execute(request, HISTORY_JOB)
    assert platform.count("ohlcv", "symbol = 'AAPL' and timeframe = '1h'") > 100


def test_partitions_that_a_command_made_do_not_hide_a_new_series(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1d")
    assert partitions(platform) == ["AAPL:1d"]
    assert len(histories(daemon.sensed("series_sync"))) == 1


def test_many_series_share_few_runs(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1m", "AAPL:1h", "AAPL:1d", "MSFT:1m", "MSFT:1h", "MSFT:1d", "SPY:1h", "SPY:1d")
    # The minutes of AAPL and MSFT are fetched for their hours anyway: they come along, in one run.
    assert ranges(daemon.sensed("series_sync")) == [("2023-06-07|AAPL:1m", "2023-07-06|SPY:1d")]


def test_a_history_that_did_not_come_is_asked_for_again_and_not_for_ever(
    platform: Platform, daemon: Daemon, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[Any] = []
    monkeypatch.setattr(series_module, "send", lambda alert, _webhook, **_: alerts.append(alert))
    platform.track("AAPL:1d", "MSFT:1d")
    platform.simulator.fail(FaultKind.SERVER_ERROR, ticker="MSFT")
    (request,) = histories(daemon.sensed("series_sync"))
    assert daemon.sensed("series_sync") == []  # what Dagster made of it may not show yet
    daemon.execute(request, HISTORY_JOB)
    clock.advance(minutes=5)
    assert [one for one in daemon.sensed("series_sync") if one.job_name == HISTORY_JOB] == []
    clock.advance(minutes=6)
    (request,) = histories(daemon.sensed("series_sync"))
    assert ranges([request]) == [("2023-06-07|MSFT:1d", "2023-07-06|MSFT:1d")]
    for _ in range(MAX_ATTEMPTS - 2):
        run = daemon.begin(request, HISTORY_JOB)
        clock.advance(days=1)
        assert daemon.sensed("series_sync") == []
        assert run.run_id in (daemon.skip_reason or "")
        daemon.cancel(run)
        clock.advance(hours=1)  # the pause doubles
        (request,) = histories(daemon.sensed("series_sync"))
    run = daemon.begin(request, HISTORY_JOB)
    clock.advance(days=1)
    assert daemon.sensed("series_sync") == []
    assert alerts == []
    daemon.cancel(run)
    for _ in range(2):
        clock.advance(days=30)
        assert daemon.sensed("series_sync") == []
        assert "the history of MSFT:1d was given up after 4 runs" in (daemon.skip_reason or "")
    (alert,) = alerts
    assert alert.facts == {"series": "MSFT:1d"}
    # Whoever deletes the row has it brought again, and would hear of it again.
    platform.execute("delete from initial_backfill where symbol = 'MSFT'")
    assert len(histories(daemon.sensed("series_sync"))) == 1


def test_the_pause_begins_with_the_end_of_the_run_and_its_retry_is_waited_for(
    platform: Platform, daemon: Daemon, clock: Clock
) -> None:
    platform.track("AAPL:1d")
    (request,) = histories(daemon.sensed("series_sync"))
    crashed = daemon.begin(request, HISTORY_JOB)
    daemon.fail(crashed)
    (record,) = platform.instance.get_run_records(RunsFilter(run_ids=[crashed.run_id]))
    assert ended_at(record) == clock.now
    platform.instance.add_run_tags(crashed.run_id, {"dagster/will_retry": "true"})
    clock.advance(hours=2)
    assert daemon.sensed("series_sync") == []
    assert crashed.run_id in (daemon.skip_reason or "")
    again = daemon.begin(request, HISTORY_JOB)
    platform.instance.add_run_tags(crashed.run_id, {"dagster/auto_retry_run_id": again.run_id})
    daemon.fail(again)
    clock.advance(minutes=9)
    assert daemon.sensed("series_sync") == []
    clock.advance(minutes=1)
    assert len(histories(daemon.sensed("series_sync"))) == 1


def test_a_series_that_comes_back_gets_what_it_missed(
    platform: Platform, daemon: Daemon, clock: Clock
) -> None:
    platform.track("AAPL:1d", "MSFT:1d")
    for request in histories(daemon.sensed("series_sync")):
        daemon.execute(request, HISTORY_JOB)
    daemon.sensed("series_sync")

    def leave_for(days: int) -> list[tuple[str, str]]:
        deactivate(platform.database, "MSFT")
        daemon.sensed("series_sync")
        assert partitions(platform) == ["AAPL:1d"]
        clock.advance(days=days)
        platform.execute("update tracked_symbols set active = true where symbol = 'MSFT'")
        requests = daemon.sensed("series_sync")
        assert partitions(platform) == ["AAPL:1d", "MSFT:1d"]
        for one in histories(requests):
            daemon.execute(one, HISTORY_JOB)
        daemon.sensed("series_sync")
        return ranges(requests)

    assert leave_for(days=2) == []
    assert leave_for(days=10) == [("2023-07-05|MSFT:1d", "2023-07-18|MSFT:1d")]
    assert leave_for(days=0) == []


def test_the_order_of_the_series_does_not_change_under_a_run(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1d", "MSFT:1d")
    (request,) = histories(daemon.sensed("series_sync"))
    run = daemon.begin(request, HISTORY_JOB)
    platform.execute("update tracked_symbols set timeframes = '{1h,1d}' where symbol = 'AAPL'")
    assert daemon.sensed("series_sync") == []
    assert run.run_id in (daemon.skip_reason or "")
    assert partitions(platform) == ["AAPL:1d", "MSFT:1d"]
    platform.execute("update tracked_symbols set timeframes = '{1d}' where symbol = 'AAPL'")
    platform.execute(
        "insert into tracked_symbols (symbol, asset_class, timeframes) values ('SPY', 'etf', '{1d}')"
    )
    # What comes behind the others disturbs nobody.
    assert len(histories(daemon.sensed("series_sync"))) == 1
    assert partitions(platform) == ["AAPL:1d", "MSFT:1d", "SPY:1d"]
    # A command that must have its series now gets them, behind the others.
    platform.execute("update tracked_symbols set timeframes = '{1h,1d}' where symbol = 'AAPL'")
    platform.execute("update tracked_symbols set active = false where symbol = 'MSFT'")
    assert sync_series(platform.instance, platform.database) == ["AAPL:1d", "MSFT:1d", "SPY:1d", "AAPL:1h"]
    assert partitions(platform) == ["AAPL:1d", "MSFT:1d", "SPY:1d", "AAPL:1h"]
    daemon.cancel(run)
    assert sync_series(platform.instance, platform.database) == ["AAPL:1h", "AAPL:1d", "SPY:1d"]
    platform.execute("update tracked_symbols set active = true where symbol = 'MSFT'")
    platform.execute("update tracked_symbols set active = false where symbol = 'AAPL'")
    daemon.sensed("series_sync")
    assert partitions(platform) == ["MSFT:1d", "SPY:1d"]


def test_a_command_that_was_killed_does_not_hold_the_partitions_up(
    platform: Platform, daemon: Daemon
) -> None:
    platform.track("AAPL:1d", "MSFT:1d")
    (request,) = histories(daemon.sensed("series_sync"))
    killed = {**request.tags, COMMAND_TAG: "00000000-0000-4000-8000-000000000002"}
    run = daemon.begin(RunRequest(run_config=request.run_config, tags=killed), HISTORY_JOB)
    deactivate(platform.database, "AAPL")
    daemon.sensed("series_sync")
    assert partitions(platform) == ["MSFT:1d"]
    left = platform.instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status is DagsterRunStatus.FAILURE


def lose_an_hour(platform: Platform, *keys: str, returns_after: int | None = None) -> None:
    """A week of bars in which each of the adjacent series ``keys`` lacks an hour, scanned."""
    platform.track(*keys)
    platform.simulator.set_faults(
        Fault(kind=FaultKind.LOST_HOURS, start=HOLE, end=HOLE + HOUR, returns_after=returns_after)
    )
    platform.run_range(date(2023, 6, 29), date(2023, 7, 5), keys[0], keys[-1])
    series = tuple(map(Series.parse, keys))
    scan_for_gaps(
        Runner(build_definitions(), platform.instance),
        [Rectangle(date(2023, 6, 29), date(2023, 7, 5), series)],
        repair=False,
    )


def repair(daemon: Daemon, request: RunRequest) -> None:
    """The run of ``request``: its check fails while the only bars that it is about are missing."""
    left = daemon.execute(request, GAPS_JOB, sound=None)
    assert left.asset_materializations_for_node("gap_report")


def gaps(platform: Platform) -> list[tuple[object, ...]]:
    return platform.database.read_frame(
        "select symbol, state, attempts, repairs from gap_report order by symbol, timeframe"
    ).rows()


def test_an_hour_that_was_lost_is_asked_for_and_comes(platform: Platform, daemon: Daemon) -> None:
    lose_an_hour(platform, "SPY:1m", "SPY:1h", returns_after=1)
    assert gaps(platform) == [("SPY", "open", 0, 0)] * 2
    (request,) = daemon.sensed("gap_repair")
    assert request.tags[PURPOSE_TAG] == "gap_repair"
    assert ranges([request], GAPS_JOB) == [("2023-07-05|SPY:1m", "2023-07-05|SPY:1h")]
    daemon.execute(request, GAPS_JOB)
    assert gaps(platform) == [("SPY", "filled", 1, 1)] * 2
    assert daemon.sensed("gap_repair") == []
    assert daemon.skip_reason == "no gap is open"


def test_an_hour_that_does_not_come_is_asked_for_twice_with_a_pause(
    platform: Platform, daemon: Daemon, clock: Clock
) -> None:
    lose_an_hour(platform, "SPY:1m")
    (request,) = daemon.sensed("gap_repair")
    before = len(platform.simulator.requests)
    repair(daemon, request)
    assert len(platform.simulator.requests) == before + 1
    assert gaps(platform) == [("SPY", "open", 1, 1)]
    assert daemon.sensed("gap_repair") == []
    assert daemon.skip_reason == "1 open gap, none due"
    clock.advance(minutes=59)
    assert daemon.sensed("gap_repair") == []
    clock.advance(minutes=1)
    (request,) = daemon.sensed("gap_repair")
    repair(daemon, request)
    assert gaps(platform) == [("SPY", "unfilled", 2, 2)]
    clock.advance(days=9)
    assert daemon.sensed("gap_repair") == []


def test_a_gap_whose_repair_waits_in_the_queue_is_not_asked_for_again(
    platform: Platform, daemon: Daemon, clock: Clock
) -> None:
    lose_an_hour(platform, "SPY:1m")
    (request,) = daemon.sensed("gap_repair")
    run = daemon.begin(request, GAPS_JOB)
    clock.advance(days=1)
    assert daemon.sensed("gap_repair") == []
    assert gaps(platform) == [("SPY", "open", 0, 1)]
    daemon.cancel(run)
    assert len(daemon.sensed("gap_repair")) == 1


def test_repairs_that_never_get_to_the_vendor_come_to_an_end(
    platform: Platform, daemon: Daemon, clock: Clock
) -> None:
    lose_an_hour(platform, "SPY:1m")
    requested = 0
    for _ in range(40):
        for request in daemon.sensed("gap_repair"):
            requested += 1
            daemon.cancel(daemon.begin(request, GAPS_JOB))
        clock.advance(hours=12)
    assert requested == MAX_REPAIRS
    assert gaps(platform) == [("SPY", "open", 0, MAX_REPAIRS)]


def test_repairs_keep_to_their_budget(
    platform: Platform, daemon: Daemon, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_an_hour(platform, "SPY:1m")
    # Too far apart to be worth one run.
    insert = (
        "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
        " select 'SPY', '1m', day, day + interval '15 hours', day + interval '16 hours', 60, 'open', 0, 'told' from"
        " unnest('{2010-03-01,2014-03-03,2018-03-01}'::date[]) as day"
    )
    platform.execute(insert)
    first, second = daemon.sensed("gap_repair")
    assert ranges([first, second], GAPS_JOB) == [
        ("2010-03-01|SPY:1m", "2010-03-01|SPY:1m"),
        ("2014-03-03|SPY:1m", "2014-03-03|SPY:1m"),
    ]
    runs = [daemon.begin(one, GAPS_JOB) for one in (first, second)]
    clock.advance(days=1)
    assert daemon.sensed("gap_repair") == []
    assert "MARKETDATA_REPAIR_RUNS" in (daemon.skip_reason or "")
    daemon.cancel(runs[0])
    assert len(daemon.sensed("gap_repair")) == 1
    monkeypatch.setenv("MARKETDATA_REPAIR_RUNS", "9")
    assert len(daemon.sensed("gap_repair")) > 1


def test_gaps_of_many_series_are_one_run_and_those_of_nobody_none(platform: Platform, daemon: Daemon) -> None:
    platform.track("AAPL:1d", "MSFT:1d", "QQQ:1d", "SPY:1d")
    platform.execute(
        "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
        " select symbol, '1d', '2023-07-05', '2023-07-05 04:00+00', '2023-07-06 04:00+00', 1, 'open', 0, 'told'"
        " from unnest('{AAPL,QQQ,SPY,DBB}'::text[]) as symbol"
    )
    platform.execute("update tracked_symbols set active = false where symbol = 'SPY'")
    assert ranges(daemon.sensed("gap_repair"), GAPS_JOB) == [("2023-07-05|AAPL:1d", "2023-07-05|QQQ:1d")]


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The alerts of failed runs, which go nowhere else."""
    sent: list[Any] = []
    monkeypatch.setattr(failures, "send", lambda alert, _webhook, **_: sent.append(alert))
    return sent


def tick(platform: Platform, daemon: Daemon, cursor: str | None) -> tuple[str | None, list[str]]:
    """A tick of ``run_failure``; the new cursor, and the errors that it ends with."""
    sensor = daemon.definitions.resolve_sensor_def("run_failure")
    with build_sensor_context(
        platform.instance, cursor=cursor, repository_def=daemon.definitions.get_repository_def()
    ) as context:
        data = sensor.evaluate_tick(context)
    errors = [one.error.to_string() for one in data.dagster_run_reactions or () if one.error]
    return data.cursor, errors


def fail_a_run(platform: Platform, **tags: str) -> str:
    """A run whose vendor fails; its id."""
    platform.simulator.fail(FaultKind.SERVER_ERROR)
    result = platform.run_range(date(2023, 7, 5), date(2023, 7, 5), "AAPL:1d", sound=False)
    platform.instance.add_run_tags(result.run_id, tags)
    return result.run_id


def test_a_run_that_has_failed_for_good_is_told_once(
    platform: Platform, daemon: Daemon, alerts: list[Any]
) -> None:
    platform.track("AAPL:1d")
    cursor, _ = tick(platform, daemon, None)
    fail_a_run(platform, **{"dagster/will_retry": "true"})
    failed = fail_a_run(platform, **{"dagster/will_retry": "false", PURPOSE_TAG: "daily_bars"})
    for _ in range(4):
        cursor, errors = tick(platform, daemon, cursor)
        assert errors == []
    (alert,) = alerts
    assert alert.facts == {
        "run_id": failed,
        "job": BARS_JOB,
        "purpose": "daily_bars",
        "partitions": "2023-07-05|AAPL:1d to 2023-07-05|AAPL:1d",
    }
    assert alert.line.startswith("run of bars failed (2023-07-05|AAPL:1d to 2023-07-05|AAPL:1d): AAPL failed")
    assert "\n" not in alert.line


def test_a_repair_that_leaves_the_gap_is_told_by_its_check_alone(
    platform: Platform, daemon: Daemon, alerts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor, _ = tick(platform, daemon, None)
    lose_an_hour(platform, "SPY:1m")
    (request,) = daemon.sensed("gap_repair")
    repair(daemon, request)
    (run,) = platform.instance.get_runs(RunsFilter(tags={PURPOSE_TAG: "gap_repair"}))
    assert run.status is DagsterRunStatus.FAILURE
    for _ in range(3):
        cursor, errors = tick(platform, daemon, cursor)
        assert errors == []
    assert alerts == []
    # An instance in memory keeps no schedules.
    monkeypatch.setattr(runs_module, "running_schedules", lambda _: {})
    now = datetime.now(UTC)
    runs = runs_module.runs_of(platform.instance, now)
    (repaired,) = (one for one in runs.latest if one.job == GAPS_JOB)
    assert (repaired.status, repaired.gap_stays) == ("FAILURE", True)
    assert Topic.FAILED_RUN not in {one.topic for one in concerns(Vitals(VendorUse(1), runs=runs), now)}


@pytest.mark.parametrize(("tags", "gap_stays"), [(Command("1", "gaps").tags, True), ({}, False)])
def test_a_look_that_finds_gaps_is_excused_when_a_command_tells_of_them(
    platform: Platform, tags: dict[str, str], *, gap_stays: bool
) -> None:
    lose_an_hour(platform, "SPY:1m")
    day = Rectangle(HOLE.date(), HOLE.date(), (Series.parse("SPY:1m"),))
    scan_for_gaps(Runner(build_definitions(), platform.instance, tags), [day], repair=False)
    (run,) = platform.instance.get_runs(RunsFilter(job_name=GAPS_JOB), limit=1)
    assert run.status is DagsterRunStatus.FAILURE
    assert runs_module.is_a_gap_that_stays(platform.instance, run) is gap_stays


def test_a_dead_webhook_does_not_keep_later_failures_from_being_told(
    platform: Platform, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def send(alert: Any, _webhook: object, *, within: timedelta, **_: object) -> None:  # noqa: ANN401 - as it came
        # Dagster hands five runs to a tick at most, and ends it after a minute.
        assert 5 * within < timedelta(minutes=1)
        sent.append(alert.facts["run_id"])
        if len(sent) == 1:
            message = "the webhook cannot be reached"
            raise AlertError(message, answered=False)

    monkeypatch.setattr(failures, "send", send)
    platform.track("AAPL:1d")
    cursor, _ = tick(platform, daemon, None)
    failed = [fail_a_run(platform), fail_a_run(platform)]
    outcomes = []
    for _ in range(3):
        cursor, errors = tick(platform, daemon, cursor)
        outcomes.append(len(errors))
    assert sent == failed
    assert outcomes == [1, 0, 0]
