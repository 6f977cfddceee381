"""The computation of features for the partitions of a run: some series and days at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.adjust import SplitError
from marketdata_assets.domain.bars import KEY
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.columns import LOOKBACK_BARS
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.features.plan import (
    Evidence,
    FeaturePlan,
    as_gaps,
    leave_out,
    lookback_size,
    lookback_window,
    slots_of,
    split_broken,
    windows_from_first_bar,
)
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.gates import select_within
from marketdata_assets.domain.series import Series, by_market
from marketdata_assets.domain.windows import Window
from marketdata_assets.pipeline.adjusted import read_adjusted, symbols_without_splits
from marketdata_assets.pipeline.feature_summary import CHART_BARS, CHARTED, FeatureSummary
from marketdata_assets.pipeline.gates import failing_partitions, whole_day_chunks
from marketdata_assets.storage.actions import stale_at
from marketdata_assets.storage.bars import series_with_bars
from marketdata_assets.storage.features import FeatureBatch, read_versions
from marketdata_assets.storage.gaps import list_gaps
from marketdata_assets.storage.partition_windows import partition_windows
from marketdata_assets.storage.symbols import asset_classes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime

    from marketdata_assets.storage.connection import Database

_GAP: Final = ("symbol", "timeframe", "gap_start", "gap_end")
_LOGGED: Final = 10
"""Partitions without features that a run's log names one by one."""


@dataclass(slots=True)
class FeatureReport:
    """What a run computed of ``plan``. ``notices`` are lines for the log of the run.

    ``blocked`` has the partitions that get no features, by key, each with the reason.
    """

    plan: FeaturePlan
    bars: int = 0
    unadjustable: set[Series] = field(default_factory=set)
    """The series whose splits contradict each other."""
    blocked: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    summary: FeatureSummary = field(default_factory=FeatureSummary)
    samples: dict[Series, pl.DataFrame] = field(default_factory=dict)
    """The latest rows of each computed series, with the columns ``CHARTED``, as many as fit in a chart."""

    def __post_init__(self) -> None:
        self.blocked |= self.plan.blocked
        self.notices += self.plan.notices

    @property
    def series_computed(self) -> int:
        """The number of series with bars that were computed."""
        return len(self.plan.computed - self.unadjustable)

    @property
    def series_up_to_date(self) -> int:
        """The number of series with bars that had nothing to compute."""
        return self.plan.up_to_date

    def blocked_lines(self) -> list[str]:
        """Return a line for each of the first partitions that get no features, and a line that counts the others."""
        lines = [f"{key} gets no features: {reason}" for key, reason in sorted(self.blocked.items())]
        more = [f"and {len(lines) - _LOGGED:,} more get none"] if len(lines) > _LOGGED else []
        return [*lines[:_LOGGED], *more]

    def add(self, bars: pl.DataFrame, features: pl.DataFrame) -> None:
        """Add the ``features`` of ``bars`` to the report."""
        self.bars += features.height
        self.summary.add(features)
        latest = features.group_by("symbol", "timeframe", maintain_order=True).tail(CHART_BARS)
        charted = latest.join(bars, on=KEY, how="left", maintain_order="left").select(
            "symbol", "timeframe", *CHARTED
        )
        for (symbol, timeframe), rows in charted.group_by("symbol", "timeframe", maintain_order=True):
            series = Series.of(str(symbol), str(timeframe))
            # The batches of a series arrive in the order of time.
            earlier = [self.samples[series]] if series in self.samples else []
            self.samples[series] = pl.concat([*earlier, rows.select(CHARTED)]).tail(CHART_BARS)


def plan_features(
    database: Database, keys: Sequence[str], *, now: datetime, earliest: date, force: bool
) -> FeaturePlan:
    """Read once what the plan depends on, and decide which features of the partitions ``keys`` are computed.

    ``earliest`` is the first day that is a partition. ``force`` also computes features that are not stale.
    """
    classes = asset_classes(database)
    windows = {
        series: Window(pieces[0].start, pieces[-1].end)
        for series, pieces in partition_windows(database, keys).items()
    }
    # Before the bars are read: a change in between gets another version. The marks are read before the versions, because
    # a split that takes effect today marks its series, and so changes their versions.
    stale = stale_at(database, now, windows)
    versions = read_versions(database, windows)
    evidence = Evidence(
        classes=classes,
        versions=versions,
        without_splits=symbols_without_splits(database, sorted(windows)),
        without_bars=set(windows) - series_with_bars(database, windows),
        failing=failing_partitions(database, windows),
    )
    since = None if force else {series: mark.since for series, mark in stale.items()}
    return FeaturePlan.decide(keys, windows, since, evidence, now=now, earliest=earliest)


def compute(database: Database, plan: FeaturePlan, report: FeatureReport) -> Iterator[FeatureBatch]:
    """Compute the features that replace the stored ones, some whole partitions at a time, and add them to ``report``."""
    for (timeframe, asset_class), members in by_market(plan.due, plan.classes).items():
        lookback = lookback_size(next(iter(members.values())), timeframe, calendar_of(asset_class))
        for chunk in whole_day_chunks(timeframe, asset_class, members, lookback):
            yield from _compute_chunk(database, plan, report, chunk)


def _compute_chunk(
    database: Database, plan: FeaturePlan, report: FeatureReport, chunk: Mapping[Series, Window]
) -> Iterator[FeatureBatch]:
    """Compute the features in ``chunk``, windows of one timeframe and asset class.

    Series are computed one by one when the splits of one of them contradict each other.
    """
    sample = next(iter(chunk))
    timeframe, asset_class = sample.timeframe, plan.classes[sample.symbol]
    calendar = calendar_of(asset_class)
    try:
        stored, refused = read_adjusted(
            database,
            {series: lookback_window(window, timeframe, calendar) for series, window in chunk.items()},
            asset_class,
            as_of=calendar.local_day(plan.now),
            lookback_bars=LOOKBACK_BARS,
        )
    except SplitError as error:
        if len(chunk) == 1:
            _block_unadjustable(plan, report, sample, error)
        else:
            for series, window in chunk.items():
                yield from _compute_chunk(database, plan, report, {series: window})
        return
    bars, broken = split_broken(stored, asset_class)
    unknown = slots_of(refused, timeframe)
    gaps = list_gaps(database, windows_from_first_bar(chunk, bars), LOSSES).select(_GAP)
    lost = pl.concat([gaps, *(as_gaps(slots, timeframe, calendar) for slots in (broken, unknown))])
    features = leave_out(select_within(compute_features(bars, calendar, lost), chunk), plan.failing, calendar)
    report.add(bars, features)
    refusals = plan.refuse(select_within(unknown, chunk), calendar)
    report.notices += refusals.notices
    report.blocked |= refusals.blocked
    yield FeatureBatch(
        features,
        chunk,
        {series: plan.versions[series] for series in chunk if series in plan.versions},
        refused=refusals.first,
        from_the_first={
            series for series, window in chunk.items() if plan.begins_with_first_partition(window, calendar)
        },
    )


def _block_unadjustable(plan: FeaturePlan, report: FeatureReport, series: Series, error: SplitError) -> None:
    """Block the partitions of ``series``, whose bars cannot be adjusted. The series stays marked as stale."""
    report.notices.append(f"{error}; no features until then")
    report.unadjustable.add(series)
    report.blocked |= dict.fromkeys(plan.keys_of([series]), f"without adjusted prices: {error}")
