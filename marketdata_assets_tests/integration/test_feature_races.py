"""Two computations of one series at once, in every order of their steps, with and without a change between them."""

from __future__ import annotations

from datetime import date
from itertools import permutations
from typing import TYPE_CHECKING

import polars as pl
import pytest

from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.bars import BarBatch, read_rows, write_batch
from marketdata_assets.storage.features import FeatureBatch, read_stale, read_versions, write_features
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets.storage.tables import FEATURES, OHLCV
from marketdata_assets_tests.unit.domain.features.walks import XNYS, slots_of, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.storage.connection import Database

SERIES = Series("AAPL", Timeframe.D1)
SLOTS = slots_of(SERIES, date(2024, 1, 2), date(2024, 2, 15)).opens
EVER = Window(XNYS.day_start(date(2024, 1, 1)), XNYS.day_start(date(2024, 3, 1)))
STEPS = ("first reads", "first writes", "second reads", "second writes")


def orders(*more: str) -> list[tuple[str, ...]]:
    """Every order of the steps in which each computation reads before it writes."""
    return [
        order
        for order in permutations((*STEPS, *more))
        if all(order.index(f"{one} reads") < order.index(f"{one} writes") for one in ("first", "second"))
    ]


class Race:
    """A series whose features are stale, and the steps of two computations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._taken: dict[str, FeatureBatch] = {}
        self._changes = 0
        add_symbols(database, [TrackedSymbol("AAPL", AssetClass.STOCK)])
        self._bars = walk(SERIES, SLOTS).with_columns(
            base_bars=pl.lit(1, pl.Int32), transactions=pl.lit(7, pl.Int64)
        )

    def reset(self) -> None:
        """Make the whole series stale, with no features."""
        with_other_volume = self._bars.with_columns(pl.col("volume") + 1_000 * (self._changes + 1))
        self._changes += 1
        self._database.transaction(lambda connection: connection.execute("delete from features"))
        write_batch(self._database, BarBatch(with_other_volume))
        self._bars = with_other_volume

    def play(self, order: Sequence[str]) -> None:
        for step in order:
            who, _, what = step.partition(" ")
            if what == "reads":
                versions = read_versions(self._database, [SERIES])
                found = read_rows(self._database, OHLCV, {SERIES: [EVER]})
                self._taken[who] = FeatureBatch(compute_features(found, XNYS), {SERIES: EVER}, versions)
            elif what == "writes":
                write_features(self._database, self._taken[who])
            elif what == "unchanged":
                write_batch(self._database, BarBatch(self._bars))
            else:
                self.change()

    def change(self) -> None:
        self._changes += 1
        revised = self._bars.with_columns(
            pl.when(pl.int_range(pl.len()) == 5)
            .then(pl.col("close") * 1.001)
            .otherwise(pl.col("close"))
            .alias("close")
        )
        write_batch(self._database, BarBatch(revised))
        self._bars = revised

    def is_stale(self) -> bool:
        return SERIES in read_stale(self._database)

    def is_current(self) -> bool:
        """Whether the stored features are those of the stored bars."""
        found = read_rows(self._database, FEATURES, {SERIES: [EVER]})
        expected = compute_features(read_rows(self._database, OHLCV, {SERIES: [EVER]}), XNYS)
        return found["simple_return"].equals(expected["simple_return"])


def test_no_order_of_two_computations_leaves_a_series_falsely_stale(database: Database) -> None:
    race = Race(database)
    for order in orders("merge unchanged"):
        race.reset()
        assert race.is_stale()
        race.play(order)
        assert (race.is_stale(), race.is_current()) == (False, True), order


def test_a_change_at_any_moment_leaves_new_features_or_a_mark(database: Database) -> None:
    race = Race(database)
    for order in orders("bars change"):
        race.reset()
        race.play(order)
        last = max(order.index("first writes"), order.index("second writes"))
        reads_after = any(
            order.index(f"{one} reads") > order.index("bars change") for one in ("first", "second")
        )
        assert race.is_stale() or race.is_current(), order
        if not reads_after:
            assert race.is_stale(), order
        if order.index("bars change") < min(order.index("first reads"), order.index("second reads")):
            assert not race.is_stale(), (order, last)
        race.play(("first reads", "first writes"))
        assert (race.is_stale(), race.is_current()) == (False, True), order


@pytest.mark.parametrize("when", [0, 1])
def test_an_old_computation_does_not_replace_a_newer_one(database: Database, when: int) -> None:
    race = Race(database)
    race.reset()
    steps = ["first reads", "bars change", "second reads", "second writes"]
    if when:
        steps[1:1] = ["second reads", "second writes"]
    race.play([*steps, "first writes"])
    assert (race.is_stale(), race.is_current()) == (False, True)
