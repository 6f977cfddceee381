from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.clock import CLOCK_TOLERANCE, require_not_before, require_same_time
from marketdata_assets.domain.errors import ClockError

NOW = datetime(2026, 11, 28, 1, 10, tzinfo=UTC)


@given(st.timedeltas(timedelta(days=-4_000), timedelta(days=4_000)))
def test_clocks_that_lie_apart_by_more_than_the_tolerance_are_refused(away: timedelta) -> None:
    if abs(away) <= CLOCK_TOLERANCE:
        require_same_time(NOW + away, NOW, "the database")
        return
    with pytest.raises(ClockError) as caught:
        require_same_time(NOW + away, NOW, "the database")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@given(st.timedeltas(timedelta(days=-4_000), timedelta(days=4_000)))
def test_a_clock_before_the_newest_request_is_refused_and_one_long_after_it_is_not(away: timedelta) -> None:
    if away >= -CLOCK_TOLERANCE:
        require_not_before(NOW + away, NOW)
        return
    with pytest.raises(ClockError, match="`marketdata doctor --repair`"):
        require_not_before(NOW + away, NOW)


def test_a_store_without_a_request_proves_nothing() -> None:
    require_not_before(NOW, None)


@pytest.mark.parametrize(
    ("away", "text"),
    [
        (timedelta(days=365), "says 2027-11-28 01:10 UTC and that of X 2026-11-28 01:10 UTC, 365 days:"),
        (timedelta(hours=-30), "30 h 0 min:"),
        (timedelta(minutes=16), ", 16 min:"),
    ],
)
def test_the_message_has_both_times(away: timedelta, text: str) -> None:
    with pytest.raises(ClockError, match=text):
        require_same_time(NOW + away, NOW, "X")
