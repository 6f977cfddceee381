"""What rows are made into, and what statements are given."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.locks import MIGRATIONS, LockSpace
from marketdata_assets.storage.rows import by_series, columns, grouped, key_columns

APPLE, BITCOIN = Series("AAPL", Timeframe.H1), Series("BTC-USD", Timeframe.D1)


class Pair(NamedTuple):
    bars: int
    reason: str | None


def test_a_row_that_begins_with_a_key_becomes_a_series_and_what_is_made_of_the_rest() -> None:
    assert Series.of("AAPL", "1h") == APPLE
    assert by_series(Pair)("AAPL", "1h", 3, None) == (APPLE, Pair(3, None))
    assert by_series(int)("BTC-USD", "1d", 7) == (BITCOIN, 7)


def test_a_row_with_another_number_of_columns_is_an_error() -> None:
    with pytest.raises(TypeError):
        by_series(Pair)("AAPL", "1h", 3)


def test_pairs_are_grouped_in_their_order() -> None:
    assert grouped([(APPLE, 2), (BITCOIN, 1), (APPLE, 1)]) == {APPLE: [2, 1], BITCOIN: [1]}


def test_rows_turn_into_one_array_for_each_column() -> None:
    assert columns([("a", 1), ("b", 2)]) == [["a", "b"], [1, 2]]
    assert key_columns([APPLE, BITCOIN]) == [["AAPL", "BTC-USD"], ["1h", "1d"]]
    assert key_columns([]) == [[], []]


def test_the_numbers_of_locks_stay_so_that_an_older_process_waits_for_the_same() -> None:
    assert {space.name: space.value for space in LockSpace} == {
        "STORE": 0x6D64, "GAP_SCANS": 0x6D67, "COMMANDS": 0x6D62, "LISTS": 0,
    }  # fmt: skip
    assert MIGRATIONS == 0x6D64_6D69_6772_6174
