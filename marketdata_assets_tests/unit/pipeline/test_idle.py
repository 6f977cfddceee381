from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, cast

import polars as pl
import pytest

from marketdata_assets.defs.runs import backfill
from marketdata_assets.domain.errors import ClockError
from marketdata_assets.pipeline import idle
from marketdata_assets_tests.unit.matrix import matrix_of

if TYPE_CHECKING:
    from marketdata_assets.storage.connection import Database

NO_DATABASE = cast("Database", None)


def test_an_idle_backfill_is_refused_by_a_wrong_clock_before_it_asks_or_writes_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_database: object) -> None:
        message = "the clock is wrong"
        raise ClockError(message)

    monkeypatch.setattr(backfill, "require_right_clock", refuse)
    unused = cast("Any", None)
    with pytest.raises(ClockError):
        backfill.execute_idle(
            NO_DATABASE,
            unused,
            earliest=date(2023, 1, 1),
            progress=unused,
            now=datetime(2024, 1, 2, tzinfo=UTC),
        )


@pytest.mark.parametrize(
    ("change", "is_current"),
    [
        (pl.col("symbol"), True),
        (pl.col("completeness") * (1 - 1e-9), False),
        (pl.col("missing_bars") + 1, False),
        (pl.lit(None, pl.Date).alias("as_of"), False),
    ],
    ids=str,
)
def test_a_matrix_is_current_when_every_value_is_what_is_stored(
    monkeypatch: pytest.MonkeyPatch, change: pl.Expr, *, is_current: bool
) -> None:
    sums = matrix_of(2, ("1m", "1d"))
    assert sums["first_bar"].null_count()
    monkeypatch.setattr(idle, "read_matrix", lambda _database: sums.with_columns(change))
    monkeypatch.setattr(idle, "sum_matrix", lambda _database, _today: sums)
    assert idle.matrix_is_current(NO_DATABASE, date(2024, 7, 5)) is is_current
    monkeypatch.setattr(idle, "read_matrix", lambda _database: sums.head(1))
    assert not idle.matrix_is_current(NO_DATABASE, date(2024, 7, 5))
