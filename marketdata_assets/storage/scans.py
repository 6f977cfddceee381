"""Which series changed since they were scanned for gaps."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from marketdata_assets.domain.gaps import SETTLING
from marketdata_assets.domain.scans import (
    BEYOND,
    EVIDENCE,
    NEVER_DUE,
    ScannedDay,
    last_scan,
)
from marketdata_assets.domain.series import Series, with_siblings
from marketdata_assets.domain.slots import expected_by_series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.gaps import first_bars, read_asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import Connection

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.slots import Slots
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


def series_to_scan(
    database: Database,
    windows: Mapping[Series, Window],
    classes: Mapping[str, AssetClass],
    now: datetime,
    *,
    widened: Mapping[Series, Window] | None = None,
) -> set[Series]:
    """Those of ``windows`` that a scan can find something new of, with the others of their symbol and base.

    These are series with a day that was not scanned, or was scanned before its last bar was due; and series of which bars,
    quarantined rows or empty answers came since, in the window or in the evidence before it; and series of which older
    history was fetched since, whose habits are evidence wherever they lie. A scan from before the
    latest migration does not count: an earlier version may have judged otherwise.

    ``widened`` holds the windows that a scan of ``windows`` covers, when they are wider. Days outside ``windows`` count as
    far as they were asked for: a scan expects nothing of the others.
    """
    if not windows:
        return set()
    wide = widened or windows
    hull = Window(min(one.start for one in wide.values()), max(one.end for one in wide.values()))
    slots = expected_by_series(
        {one: classes[one.symbol] for one in windows}, hull, now - SETTLING, first_bars(database, windows)
    )
    scanned = _scanned_days(database, windows, hull)
    asked = read_asked(database, widened) if widened else {}
    since = {
        one: last_scan(
            _asked_or_inside(slots[one], wide[one], window, asked.get(one, ())), scanned.get(one, {})
        )
        for one, window in windows.items()
    }
    new = {one for one, scan in since.items() if scan is None}
    known = {one: scan for one, scan in since.items() if scan is not None and scan != NEVER_DUE}
    return set(with_siblings(new | _changed(database, wide, known), windows))


def _asked_or_inside(slots: Slots, wide: Window, window: Window, asked: Sequence[Window]) -> Slots:
    """Return the ``slots`` of ``window``, and those of the ``wide`` one that were ``asked`` for."""
    chosen = slots.within(wide.start, wide.end)
    return chosen.asked_for([*asked, window], np.zeros(len(chosen), dtype=np.bool_))


def _scanned_days(
    database: Database, windows: Mapping[Series, Window], hull: Window
) -> dict[Series, dict[date, ScannedDay]]:
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


def _changed(
    database: Database, windows: Mapping[Series, Window], since: Mapping[Series, datetime]
) -> set[Series]:
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
