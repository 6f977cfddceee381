"""What needs attention, in which order, and when it is reported again."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.holes import LostGaps
from marketdata_assets.domain.monitoring import (
    QUIET,
    Concern,
    Disk,
    FailedFetch,
    JobRun,
    Runs,
    SlowQueries,
    SlowQuery,
    StaleSeries,
    TableSize,
    Topic,
    VendorUse,
    Vitals,
    concerns,
    episodes,
    headings,
)

NOW = datetime(2023, 7, 6, 12, tzinfo=UTC)
FINE = Vitals(VendorUse(150))
FAILED = FailedFetch("AAPL", NOW - timedelta(days=9), NOW - timedelta(days=2), "HTTP 503", NOW)


def vitals(**values: object) -> Vitals:
    return Vitals(**{"vendor": VendorUse(150), **values})  # type: ignore[arg-type]


def topics(given: Vitals) -> list[Topic]:
    return [concern.topic for concern in concerns(given, NOW)]


@pytest.mark.parametrize(
    ("bars", "text"), [(1, "1 bar is missing without"), (1_200, "1,200 bars are missing without")]
)
def test_missing_bars_are_counted_in_right_words(bars: int, text: str) -> None:
    day = date(2023, 1, 3)
    (concern,) = concerns(vitals(gaps=LostGaps(1, bars, day, day)), NOW)
    assert concern.text.startswith(text)


def test_nothing_needs_attention_where_all_is_well() -> None:
    assert topics(FINE) == []
    alive = Runs((JobRun("bars", "1", "SUCCESS", NOW),), daemon_seen=NOW - timedelta(minutes=4))
    assert topics(vitals(disk=Disk("/", 100, 80), runs=alive)) == []


def test_what_stops_everything_comes_first() -> None:
    found = vitals(
        vendor=VendorUse(150, requests_recent=100, refused_recent=6),
        stale=(StaleSeries("AAPL:1h", "newest bar 2023-07-01"),),
        slow=SlowQueries("pg_stat_activity", (SlowQuery("select 1", 501.0),)),
        disk=Disk("/data", 1000, 801),
        failed_fetches=(FAILED,),
        gaps=LostGaps(3, 40, date(2023, 1, 3), date(2023, 2, 1)),
        runs=Runs((JobRun("bars", "0123456789", "FAILURE", NOW),)),
    )
    assert topics(found) == list(Topic)
    by_topic = {heading.topic: heading for heading in headings(concerns(found, NOW))}
    assert by_topic[Topic.DISK].text == "/data: 80% in use, 0.0 GB free"
    assert by_topic[Topic.RATE_LIMIT].text == "6 of 100 requests in the last 15 minutes were refused with 429"
    assert by_topic[Topic.FAILED_RUN].text == "bars at 2023-07-06 12:00 UTC, run 01234567"
    assert by_topic[Topic.MINUTE_BACKFILL].text == "AAPL:1m from 2023-06-27 until 2023-07-04: HTTP 503"
    assert by_topic[Topic.SLOW_QUERY].title == "1 slow query"
    assert by_topic[Topic.GAPS].text.startswith("40 bars are missing")


@pytest.mark.parametrize(
    ("recent", "refused", "reported"), [(10, 2, []), (10, 3, [Topic.RATE_LIMIT]), (60, 3, [])]
)
def test_a_few_refusals_are_no_rate(recent: int, refused: int, reported: list[Topic]) -> None:
    assert topics(vitals(vendor=VendorUse(150, requests_recent=recent, refused_recent=refused))) == reported


def test_a_daemon_is_missed_after_five_minutes_and_where_it_never_was() -> None:
    assert topics(vitals(runs=Runs(daemon_seen=NOW - timedelta(minutes=6)))) == [Topic.DAEMON]
    (concern,) = concerns(vitals(runs=Runs()), NOW)
    assert "never ran" in concern.text


def test_failed_minutes_are_forgotten_after_a_day() -> None:
    old = FailedFetch(FAILED.symbol, FAILED.first, FAILED.end, FAILED.error, NOW - timedelta(hours=25))
    assert topics(vitals(failed_fetches=(FAILED, old))) == [Topic.MINUTE_BACKFILL]


@pytest.mark.parametrize(
    ("failed", "reported"),
    [
        ({}, [Topic.FAILED_RUN]),
        ({"gap_stays": True}, []),
        ({"by_hand": True}, [Topic.FAILED_RUN]),
        ({"by_hand": True, "ended": NOW - timedelta(days=8)}, []),
        ({"ended": NOW - timedelta(days=8)}, [Topic.FAILED_RUN]),
    ],
)
def test_a_failed_run_is_a_concern_unless_it_did_what_it_could_or_is_not_repeated(
    failed: dict[str, Any], reported: list[Topic]
) -> None:
    run = JobRun("gaps", "0123456789", "FAILURE", NOW - timedelta(days=8), **{"ended": NOW, **failed})
    assert topics(vitals(runs=Runs((run,), daemon_seen=NOW))) == reported


def test_a_heading_names_five_and_counts_the_rest() -> None:
    stale = tuple(StaleSeries(f"S{number}:1d", "late") for number in range(7))
    (heading,) = headings(concerns(vitals(stale=stale), NOW))
    assert heading.title == "7 series not fresh"
    assert heading.text == "S0:1d, S1:1d, S2:1d, S3:1d, S4:1d and 2 more: late"
    stale = tuple(StaleSeries(f"S{number}:1d", f"late by {number}") for number in range(7))
    (heading,) = headings(concerns(vitals(stale=stale), NOW))
    assert heading.text.count("late") == 5
    assert heading.text.endswith("; and 2 more")


def test_series_that_share_a_reason_are_named_together() -> None:
    stale = tuple(StaleSeries(f"S{number}:1d", "late") for number in range(3))
    other = StaleSeries("OTHER:1d", "silent")
    (heading,) = headings(concerns(vitals(stale=(*stale[:2], other, stale[2])), NOW))
    assert heading.text == "S0:1d, S1:1d, S2:1d: late; OTHER:1d: silent"


def test_an_episode_is_reported_once_and_again_after_it_was_over() -> None:
    concern = Concern(Topic.STALE, "AAPL:1h", "late")
    reported, known = episodes({}, [concern], NOW)
    assert reported == [concern]
    reported, known = episodes(known, [concern], NOW + timedelta(minutes=10))
    assert reported == []
    # Gone for a moment: the same episode.
    reported, known = episodes(known, [], NOW + timedelta(minutes=20))
    reported, known = episodes(known, [concern], NOW + timedelta(minutes=50))
    assert reported == []
    # Nothing was read for a day: it may have been there all the time.
    reported, known = episodes(known, [concern], NOW + timedelta(days=1))
    assert reported == []
    _, known = episodes(known, [], NOW + timedelta(days=1, minutes=10))
    _, known = episodes(known, [], NOW + timedelta(days=1, minutes=10) + QUIET)
    assert known == {}
    reported, _ = episodes(known, [concern], NOW + timedelta(days=2))
    assert reported == [concern]


@given(st.lists(st.sets(st.sampled_from("ABC")), max_size=30), st.integers(1, 90))
def test_a_concern_is_reported_if_and_only_if_it_was_gone_for_long(
    readings: list[set[str]], minutes: int
) -> None:
    known: dict[str, datetime | None] = {}
    gone: dict[str, datetime] = dict.fromkeys("ABC", NOW - QUIET)
    for index, subjects in enumerate(readings):
        now = NOW + index * timedelta(minutes=minutes)
        reported, known = episodes(
            known, [Concern(Topic.STALE, subject, "") for subject in sorted(subjects)], now
        )
        due = {subject for subject in subjects if subject in gone and now - gone[subject] >= QUIET}
        assert {concern.subject for concern in reported} == due
        gone = {subject: gone.get(subject, now) for subject in sorted(set("ABC") - subjects)}


def test_the_share_of_the_plan_is_of_the_day_so_far() -> None:
    assert VendorUse(100, requests_today=36_000).share_of_plan(NOW) == 0.5
    assert VendorUse(100, requests_today=50).share_of_plan(NOW.replace(hour=0)) == 0.5


def test_bytes_grow_by_the_rows_that_are_there() -> None:
    assert TableSize("ohlcv", 1000, 10, 3.0).bytes_a_day == 300
    assert TableSize("ohlcv", 1000, 0, 3.0).bytes_a_day is None
    assert TableSize("vendor", 1000, 1).bytes_a_day is None
