"""What was stored since series were scanned for gaps."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.scans import (
    BEYOND,
    EVIDENCE,
    ScannedDay,
)
from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

_OVERLAP: Final = timedelta(seconds=10)
"""Bars that were stored this long before a scan began to read may not have been visible to it: they are committed later."""

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
    """Read the scanned days of ``windows``, which lie in ``hull``, by series."""

    def read(connection: Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
        return connection.execute(
            "select symbol, timeframe, day, expected_bars, checked_at from completeness_daily"
            " where symbol = any(%s) and day between %s and %s",
            [sorted({one.symbol for one in windows}), hull.start.date() - timedelta(days=1), hull.end.date()],
        ).fetchall()

    found: dict[Series, dict[date, ScannedDay]] = {}
    for symbol, timeframe, day, expected, at in database.transaction(read):
        if isinstance(day, date) and isinstance(at, datetime):
            series = Series(str(symbol), Timeframe(str(timeframe)))
            found.setdefault(series, {})[day] = ScannedDay(int(str(expected)), at.astimezone(UTC))
    return found


def changed_series(
    database: Database, windows: Mapping[Series, Window], since: Mapping[Series, datetime]
) -> set[Series]:
    """Read which series have bars, quarantined rows or answers that came ``since`` their scan, in or before ``windows``."""
    if not since:
        return set()
    rows = {
        "symbol": [one.symbol for one in since],
        "timeframe": [one.timeframe.value for one in since],
        "base": [one.timeframe.base.value for one in since],
        "lo": [windows[one].start for one in since],
        "hi": [windows[one].end + BEYOND for one in since],
        "evidence": [EVIDENCE[one.timeframe.base] for one in since],
        "since": list(since.values()),
        "overlap": _OVERLAP,
    }

    def read(connection: Connection[tuple[object, ...]]) -> set[Series]:
        found = connection.execute(_CHANGED, rows).fetchall()
        return {Series(str(symbol), Timeframe(str(timeframe))) for symbol, timeframe in found}

    return database.transaction(read)
