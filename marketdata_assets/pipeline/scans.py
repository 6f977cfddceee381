"""The series that changed since they were scanned for gaps."""

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
    """Return the series of ``windows`` in which a scan can find something new, and their siblings among ``windows``.

    These are series with a day that was not scanned, or was scanned before its last bar was due; series with bars,
    quarantined rows or empty responses that came after the scan, in the window or in the evidence before it; and series
    whose older history was fetched after the scan, because it is evidence wherever it lies. A scan from before the
    latest migration does not count: an earlier version may have judged otherwise.

    ``widened`` holds the windows that a scan of ``windows`` covers, when they are wider. Days outside ``windows`` count
    only if they were requested: a scan expects nothing of other days.
    """
    if not windows:
        return set()
    wide = widened or windows
    hull = Window(min(window.start for window in wide.values()), max(window.end for window in wide.values()))
    slots = expected_by_series(
        {series: classes[series.symbol] for series in windows},
        hull,
        now - SETTLING,
        first_bars(database, windows),
    )
    scanned = scanned_days(database, windows, hull)
    requested = read_requested(database, widened) if widened else {}
    since = {
        series: last_scan(
            _select_requested_or_inside(slots[series], wide[series], window, requested.get(series, ())),
            scanned.get(series, {}),
        )
        for series, window in windows.items()
    }
    new = {series for series, scan in since.items() if scan is None}
    known = {series: scan for series, scan in since.items() if scan is not None and scan != NEVER_DUE}
    return set(with_siblings(new | changed_series(database, wide, known), windows))


def _select_requested_or_inside(
    slots: Slots, wide: Window, window: Window, requested: Sequence[Window]
) -> Slots:
    """Return the ``slots`` in ``window``, and those in the window ``wide`` that were ``requested``."""
    chosen = slots.within(wide.start, wide.end)
    return chosen.requested_in([*requested, window], np.zeros(len(chosen), dtype=np.bool_))
