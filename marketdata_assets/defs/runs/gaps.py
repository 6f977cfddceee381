"""Scans for gaps: range runs of ``gap_report``, one after the other in this process."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from marketdata_assets.defs.run_totals import BarTotals
from marketdata_assets.defs.runs.execution import reason_of, run_metadata
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.gaps import GapState
from marketdata_assets.domain.ranges import range_runs
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    import polars as pl

    from marketdata_assets.defs.runs.bars import BarsOutcome
    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.domain.series import AssetClass


def scan_for_gaps(
    runner: Runner, runs: Sequence[Rectangle], *, repair: bool, bars: BarsOutcome | None = None
) -> None:
    """Execute ``runs`` of ``gap_report`` in order, with ``repair`` also refetching what is missing.

    Adds the rows that were fetched to ``bars``.

    Raises:
        ConfigurationError: A setting is wrong.
        MarketDataError: A run failed; the runs before it are recorded.
    """
    from marketdata_assets.domain.jobs import GAPS_JOB

    for run in runs:
        runner.on_run(run)
        result = runner.execute(GAPS_JOB, run, config={"gap_report": {"repair": repair}})
        # A check that failed afterwards is not a failure of the scan: reporting gaps is its purpose.
        recorded = run_metadata(result)
        if not recorded:
            message = (
                f"the scan for gaps of {run.series[0]} … {run.series[-1]}, {run.first} to {run.last}, failed:"
                f" {reason_of(result)}"
            )
            raise MarketDataError(message)
        if bars is not None:
            bars.totals += BarTotals.from_metadata(recorded)


def repair_runs(
    ordered: Sequence[str],
    gaps: pl.DataFrame,
    classes: Mapping[str, AssetClass],
    first: date,
    last: date,
) -> list[Rectangle]:
    """Plan the runs that refetch the open gaps of ``gaps`` within the days ``first`` to ``last``.

    ``gaps`` has symbol, timeframe, state, day (the local date of the start) and gap_end; ``classes`` has the asset
    class by symbol. A gap outside these days is refetched by the run over the nearest of them, which scans whole weeks.
    The runs cover one rectangle over every series and day with an open gap: they read the bars in between, and
    request only the gaps.
    """
    open_gaps = gaps.filter(state=GapState.OPEN.value)
    if open_gaps.is_empty():
        return []
    series: dict[Series, None] = {}
    days: list[date] = []
    for symbol, timeframe, day, end in open_gaps.select("symbol", "timeframe", "day", "gap_end").iter_rows():
        series[Series(symbol, Timeframe(timeframe))] = None
        closed = end.astimezone(UTC) - timedelta(microseconds=1)
        days += [day, calendar_of(classes[symbol]).local_day(closed)]
    inside = [min(max(day, first), last) for day in days]
    return range_runs(ordered, list(series), min(inside), max(inside))
