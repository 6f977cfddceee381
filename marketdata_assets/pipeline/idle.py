"""The work that is left to do for series and days, found in the store: runs that would do nothing are not started.

Nothing here imports Dagster, because its import alone takes longer than all of these queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.config import load_settings
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.partitions import SERIES
from marketdata_assets.domain.run_tags import COMMAND_TAG, UNFINISHED
from marketdata_assets.domain.scans import scan_windows
from marketdata_assets.domain.series import Instrument, with_siblings
from marketdata_assets.pipeline.scans import series_to_scan
from marketdata_assets.polygon.planner import plan_fetches
from marketdata_assets.storage.actions import stale_at
from marketdata_assets.storage.bars import covered_without_bars, read_coverage
from marketdata_assets.storage.completeness import MATRIX_SCHEMA, active_series, read_matrix, sum_matrix
from marketdata_assets.storage.dagster_tables import (
    are_dagsters_tables_here,
    has_unfinished_runs,
    is_recorded,
    series_partitions,
)
from marketdata_assets.storage.partition_windows import partition_windows_of
from marketdata_assets.storage.symbols import asset_classes, list_active_keys, list_symbols

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime

    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.storage.connection import Database


def bars_are_current(database: Database, rectangle: Rectangle, *, now: datetime) -> bool:
    """Whether a run of ``ohlcv`` over the partitions of ``rectangle`` would request and record nothing new."""
    symbols = {symbol.symbol: symbol for symbol in list_symbols(database)}
    wanted: dict[Instrument, list[Timeframe]] = {}
    for series in rectangle.series:
        if series.symbol not in symbols:
            return False
        wanted.setdefault(Instrument(series.symbol, symbols[series.symbol].asset_class), []).append(
            series.timeframe
        )
    days = rectangle.days
    coverage = read_coverage(database, [instrument.symbol for instrument in wanted])
    planned = plan_fetches(wanted, days, coverage, now=now)
    return (
        not planned.requests
        # The run finds out whether the vendor knows a symbol without a bar.
        and not covered_without_bars(database, wanted, coverage, days)
        and not planned.rollups
        and are_dagsters_tables_here(load_settings())
        and is_recorded(database, ["ohlcv"], rectangle.series, days)
    )


def stale_days(
    database: Database, series: Iterable[Series], earliest: date, *, now: datetime
) -> dict[Series, tuple[date, date]]:
    """Find the first and the last local day of the stale features of each of ``series``, not before ``earliest``.

    The last day is the one of the last bar. A series without stale features is left out.
    """
    classes = asset_classes(database)
    days = {}
    for member, stale in stale_at(database, now, list(series)).items():
        calendar = calendar_of(classes[member.symbol])
        last = calendar.local_day(max(stale.since, stale.last_bar or stale.since))
        if last >= earliest:
            days[member] = (max(earliest, calendar.local_day(stale.since)), last)
    return days


def scans_are_current(database: Database, rectangle: Rectangle, *, now: datetime) -> bool:
    """Whether a scan of the partitions of ``rectangle`` and of their siblings would only repeat an earlier scan."""
    first, last, series = rectangle.first, rectangle.last, rectangle.series
    classes = asset_classes(database)
    if any(member.symbol not in classes for member in series):
        return False
    siblings = with_siblings(series, active_series(database))
    windows = partition_windows_of(database, siblings, first, last)
    widened = scan_windows(dict.fromkeys(series, (first, last)), siblings, classes)
    return (
        are_dagsters_tables_here(load_settings())
        and not series_to_scan(database, windows, classes, now, widened=widened)
        and is_recorded(database, ["gap_report"], series, rectangle.days)
    )


def matrix_is_current(database: Database, today: date) -> bool:
    """Whether a run of ``completeness_matrix`` on ``today`` would write only what is already stored."""
    stored = read_matrix(database)
    sums = sum_matrix(database, today)
    columns = MATRIX_SCHEMA.names()
    return stored.select(columns).equals(sums.select(columns))


def is_instance_in_order(database: Database) -> bool:
    """Whether opening Dagster's instance would change nothing: partitions match the symbols, and no command left a run."""
    if not are_dagsters_tables_here(load_settings()):
        return False
    wanted = list_active_keys(database)
    return series_partitions(database, SERIES) == wanted and not has_unfinished_runs(
        database, COMMAND_TAG, UNFINISHED
    )
