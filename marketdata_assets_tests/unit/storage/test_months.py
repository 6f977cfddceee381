from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.storage.months import months_between, partition_name
from marketdata_assets_tests.unit.frames import at

moments = st.datetimes(datetime(1999, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive by Hypothesis' contract


@pytest.mark.parametrize(
    ("first", "last", "months"),
    [
        ("2024-07-02T14:00", "2024-07-02T14:00", ["2024_07", "2024_08"]),
        ("2024-07-31T23:59", "2024-08-01T00:00", ["2024_07", "2024_08", "2024_09"]),
        ("2024-11-30T00:00", "2025-01-01T00:00", ["2024_11", "2024_12", "2025_01", "2025_02"]),
        ("2024-12-31T23:59", "2024-12-31T23:59", ["2024_12", "2025_01"]),
    ],
)
def test_months_reach_one_beyond_the_last_bar(first: str, last: str, months: list[str]) -> None:
    found = months_between(at(first), at(last))
    assert [partition_name(month) for month in found] == [f"ohlcv_1m_{month}" for month in months]


@given(st.tuples(moments, moments).map(sorted))
def test_every_bar_has_its_month(pair: list[datetime]) -> None:
    first, last = pair
    months = months_between(first, last)
    assert months[0] <= first
    assert months[-2] <= last < months[-1]
    for earlier, later in pairwise(months):
        assert later == later.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        assert (later.year - earlier.year) * 12 + later.month - earlier.month == 1
    assert len({partition_name(month) for month in months}) == len(months)
