from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl

from marketdata_assets.defs.runs.gaps import repair_runs
from marketdata_assets.domain.series import AssetClass


def test_a_gap_that_the_scan_found_outside_the_days_is_repaired_by_the_run_over_the_nearest_of_them() -> None:
    gap = pl.DataFrame(
        {
            "symbol": ["AAPL"],
            "timeframe": ["1d"],
            "state": ["open"],
            "day": [date(2026, 11, 27)],
            "gap_end": [datetime(2026, 11, 28, 5, tzinfo=UTC)],
        }
    )
    [run] = repair_runs(["AAPL:1d"], gap, {"AAPL": AssetClass.STOCK}, date(2026, 11, 8), date(2026, 11, 25))
    assert (run.first, run.last) == (date(2026, 11, 25), date(2026, 11, 25))
    [run] = repair_runs(["AAPL:1d"], gap, {"AAPL": AssetClass.STOCK}, date(2026, 11, 30), date(2026, 12, 4))
    assert (run.first, run.last) == (date(2026, 11, 30), date(2026, 11, 30))
