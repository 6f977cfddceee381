"""Freshness, on fixed clocks: what is due when, and what a late or a quiet series is taken for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of, microseconds, moment_of
from marketdata_assets.domain.freshness import (
    GRACE,
    Freshness,
    Known,
    Verdict,
    due,
    evidence_window,
    judge_freshness,
    last_daily_run,
)
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import StoredBars, expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

XNYS, ALWAYS = calendar_of(AssetClass.STOCK), calendar_of(AssetClass.CRYPTO)
MOMENTS = st.datetimes(datetime(2023, 1, 1), datetime(2024, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due_day(timeframe: str, now: str, asset_class: AssetClass = AssetClass.STOCK) -> date:
    found = due(Timeframe(timeframe), calendar_of(asset_class), utc(now))
    assert found is not None
    return found.day


@pytest.mark.parametrize(
    ("now", "day"),
    [
        # Tuesday's session, fetched by the run of Wednesday 02:00, is due at 08:00 and not before.
        ("2024-05-15 07:59", date(2024, 5, 13)),
        ("2024-05-15 08:00", date(2024, 5, 14)),
        # Wednesday's own session is not missed while it lasts, nor in the evening.
        ("2024-05-15 17:00", date(2024, 5, 14)),
        ("2024-05-16 03:00", date(2024, 5, 14)),
        # A weekend, and Monday until Monday's session is due on Tuesday.
        ("2024-05-18 12:00", date(2024, 5, 17)),
        ("2024-05-19 12:00", date(2024, 5, 17)),
        ("2024-05-20 23:00", date(2024, 5, 17)),
        ("2024-05-21 09:00", date(2024, 5, 20)),
        # Memorial Day makes a long weekend.
        ("2024-05-28 12:00", date(2024, 5, 24)),
        ("2024-05-29 12:00", date(2024, 5, 28)),
        # Half a day before Independence Day.
        ("2024-07-04 12:00", date(2024, 7, 3)),
        ("2024-07-05 12:00", date(2024, 7, 3)),
        # The weekends on which the clocks change.
        ("2024-03-11 09:00", date(2024, 3, 8)),
        ("2024-03-12 09:00", date(2024, 3, 11)),
        ("2024-11-04 09:00", date(2024, 11, 1)),
    ],
)
def test_minutes_of_a_stock_are_due_on_the_morning_after_their_session(now: str, day: date) -> None:
    for timeframe in ("1m", "15m", "4h"):
        assert due_day(timeframe, now) == day


def test_the_last_due_minute_is_that_before_the_close() -> None:
    half_day = due(Timeframe.M1, XNYS, utc("2024-07-04 12:00"))
    assert half_day is not None
    assert (half_day.opens, half_day.closes) == (utc("2024-07-03 16:59"), utc("2024-07-03 17:00"))
    summer = due(Timeframe.H1, XNYS, utc("2024-05-15 08:00"))
    assert summer is not None
    assert (summer.opens, summer.closes) == (utc("2024-05-14 19:00"), utc("2024-05-14 20:00"))


def test_crypto_is_due_on_every_day() -> None:
    assert due_day("1m", "2024-05-19 07:59", AssetClass.CRYPTO) == date(2024, 5, 17)
    assert due_day("1m", "2024-05-19 08:00", AssetClass.CRYPTO) == date(2024, 5, 18)
    assert due_day("1d", "2024-05-19 08:00", AssetClass.CRYPTO) == date(2024, 5, 18)


def test_a_day_bar_of_new_york_closes_with_its_trading_and_comes_the_same_night() -> None:
    assert due_day("1d", "2024-05-15 07:00") == date(2024, 5, 13)
    assert due_day("1d", "2024-05-15 08:00") == date(2024, 5, 14)
    assert due_day("1d", "2024-05-19 12:00") == date(2024, 5, 17)


@pytest.mark.parametrize(
    ("now", "asset_class", "sunday"),
    [
        ("2024-05-19 12:00", AssetClass.STOCK, date(2024, 5, 5)),
        ("2024-05-20 08:00", AssetClass.STOCK, date(2024, 5, 12)),
        ("2024-05-24 23:00", AssetClass.STOCK, date(2024, 5, 12)),
        ("2024-05-19 08:00", AssetClass.CRYPTO, date(2024, 5, 12)),
        ("2024-05-19 07:00", AssetClass.CRYPTO, date(2024, 5, 5)),
    ],
)
def test_a_week_is_due_once_it_is_over(now: str, asset_class: AssetClass, sunday: date) -> None:
    assert due_day("1w", now, asset_class) == sunday


def test_the_longest_closures_are_no_lateness() -> None:
    assert due_day("1m", "2001-09-17 12:00") == date(2001, 9, 10)
    assert due_day("1w", "2001-09-21 12:00") == date(2001, 9, 9)


@given(MOMENTS, st.sampled_from(list(Timeframe)), st.sampled_from([XNYS, ALWAYS]))
def test_what_is_due_had_closed_before_a_run_that_had_its_time(
    now: datetime, timeframe: Timeframe, calendar: object
) -> None:
    chosen = XNYS if calendar is XNYS else ALWAYS
    found, run = due(timeframe, chosen, now), last_daily_run(now)
    assert found is not None
    assert run + GRACE <= now < run + GRACE + timedelta(days=1)
    session = chosen.session(found.day)
    closed = found.closes if session is None else min(found.closes, max(session.regular.end, found.opens))
    assert (closed if timeframe.is_intraday else found.closes) <= run
    later = due(timeframe, chosen, now + timedelta(hours=5))
    assert later is not None
    assert later.opens >= found.opens


def verdict(
    series: str,
    now: str,
    known: Known,
    stored: list[int] | None = None,
    calendar: object = XNYS,
    *,
    requested: list[Window] | None = None,
) -> Verdict:
    member, moment = Series.parse(series), utc(now)
    chosen = XNYS if calendar is XNYS else ALWAYS
    last = due(member.timeframe, chosen, moment)
    assert last is not None
    bars = (
        None
        if stored is None
        else StoredBars(np.array(stored, dtype=np.int64), np.ones(len(stored), dtype=np.int64))
    )
    return judge_freshness(member, chosen, last, known, stored=bars, now=moment, requested=requested)


def minutes(now: str, *, every: int = 1, until: str | None = None) -> list[int]:
    """Minutes of a stock that trades once in ``every``."""
    window = evidence_window(Timeframe.M1, XNYS, utc(now))
    opens = expected_slots(Timeframe.M1, window, XNYS, window.end).opens.tolist()
    end = microseconds(window.end if until is None else utc(until))
    return [moment for index, moment in enumerate(opens) if index % every == 0 and moment < end]


NOW = "2024-05-15 12:00"
"""A Wednesday: Tuesday's session is due."""


def test_the_last_due_bar_is_enough() -> None:
    for answered in (False, True):
        known = Known(utc("2024-05-14 19:59"), answered, "HTTP 500")
        assert verdict("AAPL:1m", NOW, known).state is Freshness.FRESH


def test_a_backfill_of_an_old_day_does_not_make_a_series_fresh() -> None:
    found = verdict("AAPL:1m", NOW, Known(utc("2024-05-09 19:59"), answered=False, failure=None))
    assert (found.state, found.late) == (Freshness.NOT_ASKED, 3)
    assert "2024-05-09 19:59" in found.reason


def test_a_session_that_was_collected_in_part_is_late() -> None:
    found = verdict("AAPL:1m", NOW, Known(utc("2024-05-14 15:00"), answered=False, failure=None))
    assert (found.state, found.late) == (Freshness.NOT_ASKED, 1)


def test_a_failed_request_is_told_with_its_reason() -> None:
    found = verdict("AAPL:1d", NOW, Known(utc("2024-05-10 04:00"), answered=False, failure="HTTP 500"))
    assert found.state is Freshness.FAILED
    assert found.late == 2
    assert "HTTP 500" in found.reason


def test_a_thin_fund_is_fresh_without_its_last_minutes_and_a_dense_stock_is_not() -> None:
    newest = "2024-05-14 19:00"
    stored = minutes(NOW, every=5, until="2024-05-14 19:01")
    thin = verdict("DBB:1m", NOW, Known(utc("2024-05-14 18:58"), answered=True, failure=None), stored)
    assert thin.state is Freshness.FRESH
    assert "usual" in thin.reason
    stored = minutes(NOW, until="2024-05-14 19:01")
    dense = verdict("AAPL:1m", NOW, Known(utc(newest), answered=True, failure=None), stored)
    assert (dense.state, dense.late) == (Freshness.SILENT, 1)
    assert "59 minutes without a trade" in dense.reason


def test_a_minute_without_a_trade_at_the_close_is_not_a_fault() -> None:
    stored = minutes(NOW, until="2024-05-14 19:55")
    found = verdict("AAPL:1m", NOW, Known(utc("2024-05-14 19:54"), answered=True, failure=None), stored)
    assert found.state is Freshness.FRESH


def test_a_series_that_stopped_is_silent_however_often_it_is_asked_for() -> None:
    window = evidence_window(Timeframe.D1, XNYS, utc(NOW))
    opens = expected_slots(Timeframe.D1, window, XNYS, window.end).opens.tolist()[:-4]
    newest = datetime.fromtimestamp(opens[-1] / 1e6, UTC)
    found = verdict("GONE:1d", NOW, Known(newest, answered=True, failure=None), opens)
    assert (found.state, found.late) == (Freshness.SILENT, 4)
    assert found.reason.endswith("4 sessions without a trade, where none is usual")


def test_days_that_were_never_fetched_are_no_evidence_of_silence() -> None:
    """Two sessions of a month ago and the last three were fetched; the last one stops two hours early."""
    stretches = [
        Window(utc(f"{first} 04:00"), utc(f"{end} 04:00"))
        for first, end in (("2024-04-08", "2024-04-10"), ("2024-05-10", "2024-05-15"))
    ]
    stored = [
        moment
        for moment in minutes(NOW, until="2024-05-14 18:00")
        if any(window.contains(moment_of(moment)) for window in stretches)
    ]
    known = Known(utc("2024-05-14 17:59"), answered=True, failure=None)
    assert verdict("AAPL:1m", NOW, known, stored, requested=stretches).state is Freshness.SILENT


def test_a_series_without_any_bar() -> None:
    assert verdict("NEW:1h", NOW, Known(None, answered=False, failure=None)) == (
        Freshness.NOT_ASKED,
        None,
        "no bar is stored; no request to the vendor since 2024-05-14 20:00 UTC",
    )
    assert verdict("NEW:1h", NOW, Known(None, answered=True, failure=None)).state is Freshness.SILENT
