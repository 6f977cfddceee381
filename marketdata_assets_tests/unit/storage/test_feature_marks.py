"""The order in which series are marked as stale."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast
from unittest.mock import Mock

from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.features import mark_stale

if TYPE_CHECKING:
    from marketdata_assets.storage.rows import Session

MOMENT = datetime(2024, 7, 1, tzinfo=UTC)
SERIES = [Series(symbol, timeframe) for symbol in ("AAPL", "BTC-USD", "SPY") for timeframe in Timeframe]


@given(st.permutations(SERIES))
def test_rows_are_locked_in_one_order_whatever_the_order_of_the_series(series: list[Series]) -> None:
    connection = Mock()
    mark_stale(cast("Session", connection), dict.fromkeys(series, MOMENT), "a bar changed")
    for call in connection.execute.call_args_list:
        symbols, timeframes, *_ = call.args[1]
        keys = list(zip(symbols, timeframes, strict=True))
        assert keys == sorted(keys)
        assert len(keys) == len(SERIES)
    assert connection.execute.call_count == 2
