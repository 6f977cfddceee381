"""Gap detection without a database: expected slots, the set difference, the judgement, in one process."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.figures import Figure, Stopwatch
from marketdata_assets.domain.gaps import find_gaps, judge
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import StoredBars, expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from marketdata_assets.domain.slots import Slots

_SERIES = 60
_THIN = 20
_YEARS = Window(datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
_QUARTER = Window(_YEARS.start, datetime(2023, 4, 1, tzinfo=UTC))
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(_: str, *, quick: bool) -> list[Figure]:
    """Seconds for all series, in the order in which they are needed."""
    series = {Series(f"S{number:02d}", Timeframe.M1): AssetClass.STOCK for number in range(_SERIES)}
    window = _QUARTER if quick else _YEARS
    # The calendar's own tables are made once in a process.
    expected_by_series(series, window, _NOW)
    expecting, finding, floor, judging, thin = (Stopwatch() for _ in range(5))
    with expecting.running():
        expected = expected_by_series(series, window, _NOW)
    dense_bars = {one: _bars(slots, number, 0.999) for number, (one, slots) in enumerate(expected.items())}
    thin_bars = {one: _bars(expected[one], number, 0.2) for number, one in enumerate(list(series)[:_THIN])}
    with floor.running():
        for one, slots in expected.items():
            np.setdiff1d(slots.opens, dense_bars[one].times, assume_unique=True)
    with finding.running():
        gaps = find_gaps(dense_bars, expected)
    with judging.running():
        judge(gaps, dense_bars, expected)
    with thin.running():
        some = {one: expected[one] for one in thin_bars}
        judge(find_gaps(thin_bars, some), thin_bars, some)
    slots_in_all = f"{sum(map(len, expected.values())):,} slots of {_SERIES} series, "
    return [
        Figure(slots_in_all + "expect", expecting.seconds, "s", best=min),
        Figure(
            slots_in_all + f"find {gaps.height:,} gaps",
            finding.seconds,
            "s",
            "< 1.00",
            {"floor: np.setdiff1d": floor.seconds},
            best=min,
        ),
        Figure(slots_in_all + "judge them", judging.seconds, "s", best=min),
        Figure(f"{_THIN} series that trade in 20 %, find and judge", thin.seconds, "s", best=min),
    ]


def _bars(slots: Slots, seed: int, density: float) -> StoredBars:
    generator = np.random.default_rng(seed)
    return StoredBars(slots.opens[generator.random(len(slots)) < density], None)
