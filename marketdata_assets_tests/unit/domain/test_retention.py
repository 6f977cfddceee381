from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.retention import (
    DEFAULT_RETENTION,
    SHORTEST_DAYS,
    first_kept_days,
    kept_days,
    parse_retention,
)
from marketdata_assets.domain.timeframe import Timeframe


def test_minutes_are_kept_for_thirty_days_and_nothing_else_is_pruned() -> None:
    assert dict(DEFAULT_RETENTION) == {Timeframe.M1: 30}


def test_days_are_given_by_timeframe() -> None:
    assert parse_retention("1m:30, 5m:365") == {Timeframe.M1: 30, Timeframe.M5: 365}
    assert parse_retention("1d:400,1w:400") == {Timeframe.D1: 400, Timeframe.W1: 400}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30", "write TIMEFRAME:DAYS"),
        ("1m:many", "write TIMEFRAME:DAYS"),
        ("1m:-30", "write TIMEFRAME:DAYS"),
        ("2m:30", "unknown timeframe"),
        ("1m:30,1m:60", "twice"),
        ("1m:0", "too few"),
        ("1m:1000000", "more than any history"),
        ("1d:365", "keep 1d bars as long as 1w bars"),
        ("1d:365,1w:400", "keep 1d bars as long as 1w bars"),
        (" , ", "no timeframe given"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_retention(text)


def test_the_sessions_that_are_asked_for_again_are_always_kept() -> None:
    assert kept_days(SHORTEST_DAYS) == SHORTEST_DAYS
    with pytest.raises(ConfigurationError, match="14 or more"):
        kept_days(SHORTEST_DAYS - 1)


def test_the_first_day_that_stays_is_counted_from_today_in_utc() -> None:
    now = datetime(2024, 3, 31, 23, 59, tzinfo=UTC)
    assert first_kept_days({Timeframe.M1: 30}, now) == {Timeframe.M1: date(2024, 3, 1)}
