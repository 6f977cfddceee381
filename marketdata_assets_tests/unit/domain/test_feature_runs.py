"""Which runs compute what is out of date."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.ranges import feature_runs
from marketdata_assets.domain.series import Series

ORDERED = [f"{symbol}:{timeframe}" for symbol in ("AAPL", "MSFT", "SPY") for timeframe in ("1m", "1h", "1d")]
DAY = date(2024, 7, 1)


def days(**spans: tuple[int, int]) -> dict[Series, tuple[date, date]]:
    return {
        Series.parse(key.replace("_", ":")): (DAY - timedelta(days=first), DAY - timedelta(days=last))
        for key, (first, last) in spans.items()
    }


def test_series_that_are_stale_for_about_as_long_share_a_run() -> None:
    (run,) = feature_runs(ORDERED, days(AAPL_1m=(3, 0), AAPL_1h=(2, 0), AAPL_1d=(5, 1)))
    assert run == Rectangle(DAY - timedelta(days=5), DAY, tuple(map(Series.parse, ORDERED[:3])))


def test_a_long_history_does_not_drag_the_others_along() -> None:
    runs = feature_runs(ORDERED, days(AAPL_1d=(2000, 0), MSFT_1d=(3, 0), SPY_1d=(3, 0)))
    assert [(run.first, [member.key for member in run.series]) for run in runs] == [
        (DAY - timedelta(days=2000), ["AAPL:1d"]),
        (DAY - timedelta(days=3), ["MSFT:1d"]),
        (DAY - timedelta(days=3), ["SPY:1d"]),
    ]


def test_nothing_stale_makes_no_run() -> None:
    assert feature_runs(ORDERED, {}) == []


@given(st.dictionaries(st.sampled_from(ORDERED), st.tuples(st.integers(0, 3000), st.integers(0, 3000))))
def test_runs_hold_every_day_that_is_stale(spans: dict[str, tuple[int, int]]) -> None:
    wanted = {
        Series.parse(key): (DAY - timedelta(days=max(span)), DAY - timedelta(days=min(span)))
        for key, span in spans.items()
    }
    runs = feature_runs(ORDERED, wanted)
    for series, (first, last) in wanted.items():
        assert any(series in run.series and run.first <= first and last <= run.last for run in runs), series
