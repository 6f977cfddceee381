"""The days on which series were scanned for gaps, and the changes since then."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.gaps import EVIDENCE
from marketdata_assets.domain.scans import (
    BEYOND,
    ScannedDay,
)
from marketdata_assets.storage.rows import by_series, grouped, series_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

_OVERLAP: Final = timedelta(seconds=10)
"""The age of bars at the start of a scan up to which they may have been committed too late to be visible to it."""

_SCANNED: Final = """
select symbol, timeframe, day, expected_bars, checked_at
from completeness_daily
where symbol = any(%s) and day between %s and %s
"""
_CHANGED: Final = """
with wanted as (
  select symbol, timeframe, base, since,
    least(lo, (select min(g.gap_start) from gap_report g where g.symbol = w.symbol and g.timeframe = w.timeframe
      and g.state <> 'filled' and g.gap_start < w.hi and g.gap_end > w.lo)) - evidence as lo, hi
  from unnest(%(symbol)s::text[], %(timeframe)s::text[], %(base)s::text[], %(lo)s::timestamptz[],
    %(hi)s::timestamptz[], %(evidence)s::interval[], %(since)s::timestamptz[])
    as w(symbol, timeframe, base, lo, hi, evidence, since)
)
select symbol, timeframe from wanted w
where since < (select max(applied_at) from schema_migrations)
  or exists (select from ohlcv o where o.symbol = w.symbol and o.timeframe = w.timeframe
    and o.time >= w.lo and o.time < w.hi and o.stored_at > w.since - %(overlap)s)
  or exists (select from ohlcv_quarantine q where q.symbol = w.symbol and q.time >= w.lo and q.time < w.hi
    and q.first_seen > w.since - %(overlap)s)
  or exists (select from fetch_log f where f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)
    and f.window_start < w.hi and f.window_end > w.lo and f.bars = 0
    and greatest(f.requested_at, f.finished_at) > w.since - %(overlap)s)
  or exists (select from fetch_log f where f.symbol = w.symbol and f.base = w.base and w.timeframe = any(f.timeframes)
    and f.window_start < w.lo and greatest(f.requested_at, f.finished_at) > w.since - %(overlap)s)
"""


def scanned_days(
    database: Database, windows: Mapping[Series, Window], hull: Window
) -> dict[Series, dict[date, ScannedDay]]:
    """Read the scanned days of each symbol of ``windows`` in ``hull``, a window around all of them, by series."""

    def scanned(day: date, expected: int, at: datetime) -> tuple[date, ScannedDay]:
        return day, ScannedDay(expected, at)

    rows = database.fetch(
        _SCANNED,
        [sorted({item.symbol for item in windows}), hull.start.date() - timedelta(days=1), hull.end.date()],
        row=by_series(scanned),
    )
    return {series: dict(days) for series, days in grouped(rows).items()}


def changed_series(
    database: Database, windows: Mapping[Series, Window], since: Mapping[Series, datetime]
) -> set[Series]:
    """Read which series have bars, quarantined rows or answers from ``since`` their scan, in or before their ``windows``."""
    if not since:
        return set()
    rows = {
        "symbol": [series.symbol for series in since],
        "timeframe": [series.timeframe.value for series in since],
        "base": [series.timeframe.base.value for series in since],
        "lo": [windows[series].start for series in since],
        "hi": [windows[series].end + BEYOND for series in since],
        "evidence": [EVIDENCE[series.timeframe.base] for series in since],
        "since": list(since.values()),
        "overlap": _OVERLAP,
    }
    return set(database.fetch(_CHANGED, rows, row=series_of))
