"""Which series changed since they were scanned for gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marketdata_assets.domain.gaps import SETTLING
from marketdata_assets.domain.scans import NEVER_DUE, last_scan
from marketdata_assets.domain.series import Series, with_siblings
from marketdata_assets.domain.slots import expected_by_series
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.gaps import first_bars, read_requested
from marketdata_assets.storage.scans import changed_series, scanned_days

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.domain.slots import Slots
    from marketdata_assets.storage.connection import Database


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
    scanned = scanned_days(database, windows, hull)
    requested = read_requested(database, widened) if widened else {}
    since = {
        one: last_scan(
            _requested_or_inside(slots[one], wide[one], window, requested.get(one, ())), scanned.get(one, {})
        )
        for one, window in windows.items()
    }
    new = {one for one, scan in since.items() if scan is None}
    known = {one: scan for one, scan in since.items() if scan is not None and scan != NEVER_DUE}
    return set(with_siblings(new | changed_series(database, wide, known), windows))


def _requested_or_inside(slots: Slots, wide: Window, window: Window, requested: Sequence[Window]) -> Slots:
    """Return the ``slots`` of ``window``, and those of the ``wide`` one that were ``requested`` for."""
    chosen = slots.within(wide.start, wide.end)
    return chosen.requested_in([*requested, window], np.zeros(len(chosen), dtype=np.bool_))
