"""Computing features for the partitions of a run: some series and days at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.adjust import SplitError
from marketdata_assets.domain.bars import KEY, UTC_TIME, broken_value_rule, bucket_close
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.columns import LOOKBACK_BARS, lookback_start
from marketdata_assets.domain.features.compute import compute_features
from marketdata_assets.domain.gaps import LOSSES
from marketdata_assets.domain.gates import within
from marketdata_assets.domain.partitions import key_of, parse_key
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import local_day
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.weeks import refusal
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

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.storage.connection import Database
    from marketdata_assets.storage.features import Stale

_PARTITION = ("symbol", "timeframe", "day")
_GAP = ("symbol", "timeframe", "gap_start", "gap_end")
_LOGGED: Final = 10
"""Partitions without features that a run's log names one by one."""
_MEND: Final = "mend the bars (`marketdata gaps --repair`, `marketdata backfill --force`)"
_NO_BARS: Final = "of a series without a bar: bring some with `marketdata backfill`"
_NO_SPLITS: Final = "of a symbol whose splits were never asked for: run `marketdata actions`"


@dataclass(slots=True)
class FeatureReport:
    """What a run computed. ``notices`` are lines for its log.

    ``blocked`` has the partitions that get no features, by key, each with the reason.
    """

    bars: int = 0
    series_computed: int = 0
    series_up_to_date: int = 0
    blocked: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    summary: FeatureSummary = field(default_factory=FeatureSummary)
    samples: dict[Series, pl.DataFrame] = field(default_factory=dict)
    """The latest rows of each series that was computed, as ``CHARTED``, as many as fit in a chart."""

    def blocked_lines(self) -> list[str]:
        """Which partitions get no features, a line each for the first, and how many more there are."""
        lines = [f"{key} gets no features: {reason}" for key, reason in sorted(self.blocked.items())]
        more = [f"and {len(lines) - _LOGGED:,} more get none"] if len(lines) > _LOGGED else []
        return [*lines[:_LOGGED], *more]


class FeatureRun:
    """The features of partitions, computed as far as they are out of date.

    ``earliest`` is the first day that is a partition.
    """

    def __init__(
        self, database: Database, keys: Sequence[str], *, now: datetime, earliest: date, force: bool
    ) -> None:
        self.report = FeatureReport()
        self._database = database
        self._keys = keys
        self._now = now
        self._earliest = earliest
        self._classes = asset_classes(database)
        self._windows = {
            one: Window(windows[0].start, windows[-1].end)
            for one, windows in partition_windows(database, keys).items()
        }
        # Before the bars are read: a change in between gets another version.
        self._stale = stale_at(database, now, self._windows)
        self._versions = read_versions(database, self._windows)
        self._unadjusted = self._without_splits()
        self._aside: set[Series] = set()
        self._barless = set(self._windows) - series_with_bars(database, self._windows)
        due = self._windows if force else self._out_of_date(self._stale)
        self._due = {one: window for one, window in due.items() if one.symbol not in self._unadjusted}
        known = [
            one for one in self._windows if one.symbol not in self._unadjusted and one not in self._barless
        ]
        self.report.series_computed = sum(one in self._due for one in known)
        self.report.series_up_to_date = len(known) - self.report.series_computed

    def batches(self) -> Iterator[FeatureBatch]:
        """What is to stand in place of what is stored, some whole partitions at a time."""
        failing = failing_partitions(self._database, self._windows)
        held = failing.select(_PARTITION).unique()
        # What is held back must not be recorded, whether it is computed now or not.
        yield self._hold_back(self._reasons(failing))
        for timeframe, asset_class, members in self._groups():
            calendar = calendar_of(asset_class)
            window = next(iter(members.values()))
            sessions = window.start - _lookback(window, timeframe, calendar).start
            lookback = LOOKBACK_BARS + -(-sessions // timeframe.duration)
            for chunk in whole_day_chunks(timeframe, asset_class, members, lookback):
                yield from self._computed(chunk, timeframe, asset_class, held)

    def _out_of_date(self, stale: Mapping[Series, Stale]) -> dict[Series, Window]:
        due = {}
        for one, window in self._windows.items():
            if one not in stale or stale[one].since >= window.end:
                continue
            calendar = calendar_of(self._classes[one.symbol])
            since = calendar.day_start(calendar.local_day(stale[one].since))
            due[one] = Window(max(window.start, since), window.end)
        return due

    def _groups(self) -> Iterator[tuple[Timeframe, AssetClass, dict[Series, Window]]]:
        groups: dict[tuple[Timeframe, AssetClass], dict[Series, Window]] = defaultdict(dict)
        for one, window in self._due.items():
            groups[one.timeframe, self._classes[one.symbol]][one] = window
        for (timeframe, asset_class), members in groups.items():
            yield timeframe, asset_class, members

    def _computed(
        self,
        chunk: dict[Series, Window],
        timeframe: Timeframe,
        asset_class: AssetClass,
        held: pl.DataFrame,
    ) -> Iterator[FeatureBatch]:
        calendar = calendar_of(asset_class)
        try:
            stored, refused = read_adjusted(
                self._database,
                {one: _lookback(window, timeframe, calendar) for one, window in chunk.items()},
                asset_class,
                as_of=calendar.local_day(self._now),
                lookback_bars=LOOKBACK_BARS,
            )
        except SplitError as error:
            if len(chunk) == 1:
                yield self._set_aside(chunk, error)
            else:
                for one, window in chunk.items():
                    yield from self._computed({one: window}, timeframe, asset_class, held)
            return
        # A broken bar is lost: it holds its own partition back, and must keep no other from its features.
        has_volume = asset_class is not AssetClass.INDEX
        broken = broken_value_rule(has_volume=has_volume, is_adjusted=True).is_not_null()
        bars = stored.filter(~broken)
        gaps = list_gaps(self._database, _with_lookback(chunk, bars), LOSSES).select(_GAP)
        unknown = _slots_of(refused, timeframe)
        lost = pl.concat(
            [gaps, *(_as_gaps(slots, timeframe, calendar) for slots in (stored.filter(broken), unknown))]
        )
        features = within(compute_features(bars, calendar, lost), chunk)
        sound = (
            features.with_columns(day=local_day(pl.col("time"), calendar))
            .join(held, on=list(_PARTITION), how="anti", maintain_order="left")
            .drop("day")
        )
        self.report.bars += sound.height
        self.report.summary.add(sound)
        self._sample(bars, sound)
        opening = calendar.day_start(self._earliest)
        waiting, reasons = self._refused(within(unknown, chunk), calendar)
        yield FeatureBatch(
            sound,
            chunk,
            {one: self._versions[one] for one in chunk if one in self._versions},
            refused=waiting,
            blocked=reasons,
            from_the_first={one for one, window in chunk.items() if window.start <= opening},
        )

    def _refused(
        self, weeks: pl.DataFrame, calendar: TradingCalendar
    ) -> tuple[dict[Series, tuple[datetime, str]], dict[str, str]]:
        """Report the partitions of ``weeks``, which cannot be adjusted.

        Returns the first open of each series with the reason, and the partitions of the run, each with the reason.
        """
        first: dict[Series, tuple[datetime, str]] = {}
        reasons: dict[str, str] = {}
        for (symbol, timeframe), own in weeks.group_by("symbol", "timeframe", maintain_order=True):
            series = Series(str(symbol), Timeframe(str(timeframe)))
            opens = own["time"].to_list()
            why = refusal(series.symbol, opens, calendar)
            self.report.notices.append(f"{why}; {series} has no features there until then")
            keys = {key_of(calendar.local_day(opened), series) for opened in opens}
            reasons |= dict.fromkeys(keys & set(self._keys), f"without adjusted prices: {why}")
            first[series] = (opens[0].astimezone(UTC), why)
        self.report.blocked |= reasons
        return first, reasons

    def _set_aside(self, chunk: Mapping[Series, Window], error: SplitError) -> FeatureBatch:
        """No features for the partitions of ``chunk``: its bars cannot be adjusted. The mark stays."""
        self.report.notices.append(f"{error}; no features until then")
        self.report.series_computed -= len(set(chunk) - self._aside - self._barless)
        self._aside |= set(chunk)
        return self._hold_back(
            {key: f"without adjusted prices: {error}" for key in self._keys if parse_key(key)[1] in chunk}
        )

    def _hold_back(self, reasons: Mapping[str, str]) -> FeatureBatch:
        self.report.blocked |= reasons
        return FeatureBatch(blocked=reasons)

    def _reasons(self, failing: pl.DataFrame) -> dict[str, str]:
        """Why partitions of the run get no features (``failing``: ``GATE_SCHEMA``), by key."""
        checks: dict[str, list[str]] = defaultdict(list)
        for symbol, timeframe, day, check in (
            failing.select(*_PARTITION, "check").unique().sort(pl.all()).iter_rows()
        ):
            checks[key_of(day, Series(symbol, Timeframe(timeframe)))].append(check)
        reasons = {}
        for key in self._keys:
            _, series = parse_key(key)
            if series in self._barless:
                reasons[key] = _NO_BARS
            elif series.symbol in self._unadjusted:
                reasons[key] = _NO_SPLITS
            elif key in checks:
                reasons[key] = f"held back by {' and '.join(checks[key])}: {_MEND}"
        return reasons

    def _sample(self, bars: pl.DataFrame, features: pl.DataFrame) -> None:
        latest = features.group_by("symbol", "timeframe", maintain_order=True).tail(CHART_BARS)
        charted = latest.join(bars, on=KEY, how="left", maintain_order="left").select(
            "symbol", "timeframe", *CHARTED
        )
        for (symbol, timeframe), rows in charted.group_by("symbol", "timeframe", maintain_order=True):
            one = Series(str(symbol), Timeframe(str(timeframe)))
            # A series comes in the order of its time.
            earlier = [self.report.samples[one]] if one in self.report.samples else []
            self.report.samples[one] = pl.concat([*earlier, rows.select(CHARTED)]).tail(CHART_BARS)

    def _without_splits(self) -> set[str]:
        """The symbols whose splits were never asked for: raw prices must not pass for adjusted ones."""
        unchecked = symbols_without_splits(self._database, sorted(self._windows))
        if unchecked:
            self.report.notices.append(
                f"the splits of {', '.join(unchecked)} were never asked for, so their prices cannot be adjusted: run"
                " `marketdata actions`; no features until then"
            )
        return set(unchecked)


def _lookback(window: Window, timeframe: Timeframe, calendar: TradingCalendar) -> Window:
    """``window``, whole local days, from the first moment on whose bars its features look back to."""
    return Window(lookback_start(calendar.local_day(window.start), timeframe, calendar), window.end)


def _slots_of(refused: Mapping[str, list[datetime]], timeframe: Timeframe) -> pl.DataFrame:
    """``refused``, opens of bars by symbol, as ``symbol, timeframe, time``."""
    rows = [(symbol, timeframe.value, opened) for symbol, opens in refused.items() for opened in opens]
    return pl.DataFrame(
        rows, schema={"symbol": pl.String(), "timeframe": pl.String(), "time": UTC_TIME}, orient="row"
    )


def _as_gaps(bars: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar) -> pl.DataFrame:
    """The slots of ``bars`` as gaps."""
    return bars.select(
        "symbol",
        "timeframe",
        gap_start=pl.col("time").cast(UTC_TIME),
        gap_end=bucket_close(pl.col("time").cast(UTC_TIME), timeframe, calendar),
    )


def _with_lookback(windows: Mapping[Series, Window], bars: pl.DataFrame) -> dict[Series, Window]:
    """The windows from the first of the ``bars`` of each series on."""
    first = {
        Series(symbol, Timeframe(timeframe)): opened.astimezone(UTC)
        for symbol, timeframe, opened in bars.group_by("symbol", "timeframe")
        .agg(pl.col("time").min())
        .iter_rows()
    }
    return {
        one: Window(min(window.start, first.get(one, window.start)), window.end)
        for one, window in windows.items()
    }
