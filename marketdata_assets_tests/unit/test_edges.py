from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.queries import MAX_DAYS, _Edges


@pytest.mark.parametrize("days", [5, np.int64(5), np.uint8(5)], ids=repr)
def test_days_are_any_whole_number(days: object) -> None:
    edges = _Edges.of(None, None, days)
    assert edges.days == 5
    assert type(edges.days) is int


@pytest.mark.parametrize(
    "days",
    [
        True,
        np.True_,
        2.5,
        5.0,
        np.float64(5),
        Decimal(5),
        "5",
        0,
        -1,
        np.int64(0),
        MAX_DAYS + 1,
        [5],
        np.array([5, 6]),
    ],
    ids=repr,
)
def test_days_that_are_no_whole_number_in_range_are_refused(days: object) -> None:
    with pytest.raises(ConfigurationError, match="days must be a whole number from 1 to"):
        _Edges.of(None, None, days)
