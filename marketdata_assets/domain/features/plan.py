"""The plan of a run of ``features``: what is computed, and which partitions get none and why, before a bar is read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.bars import UTC_TIME, broken_value_rule, bucket_close
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.columns import LOOKBACK_BARS, lookback_start
from marketdata_assets.domain.partitions import key_of, parse_key
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.slots import local_day
from marketdata_assets.domain.weeks import refusal
from marketdata_assets.domain.windows import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import date

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.timeframe import Timeframe

_PARTITION: Final = ("symbol", "timeframe", "day")
_MEND: Final = (
    "repair the gaps or fetch the bars again (`marketdata gaps --repair`, `marketdata backfill --force`)"
)
_NO_BARS: Final = "the series has no bars: fetch some with `marketdata backfill`"
_NO_SPLITS: Final = "the splits of the symbol were never fetched: run `marketdata actions`"


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """What a run of ``features`` computes.

    Attributes:
        keys: The partitions of the run.
        now: When the run began: prices are on the scale of its day.
        earliest: The first day that is a partition.
        classes: The asset class of every symbol.
        due: What is computed, by series; of a series without a bar as well, whose rows and mark go.
        versions: The version of each series' latest change, read before its bars are.
        failing: ``symbol, timeframe, day`` of the partitions that a blocking check keeps from features.
        blocked: The partitions that get no features, by key, each with the reason.
        notices: Lines for the log of the run.
        computed: The series with bars that are computed.
        up_to_date: How many series with bars are not.
    """

    keys: Sequence[str]
    now: datetime
    earliest: date
    classes: Mapping[str, AssetClass]
    due: Mapping[Series, Window]
    versions: Mapping[Series, int]
    failing: pl.DataFrame
    blocked: Mapping[str, str]
    notices: Sequence[str]
    computed: frozenset[Series]
    up_to_date: int

    @classmethod
    def decide(
        cls,
        keys: Sequence[str],
        windows: Mapping[Series, Window],
        stale_since: Mapping[Series, datetime] | None,
        evidence: Evidence,
        *,
        now: datetime,
        earliest: date,
    ) -> FeaturePlan:
        """Decide what is computed of ``windows``, the hull of each series' partitions.

        Args:
            keys: The partitions of the run.
            windows: By series, whole local days.
            stale_since: From when on the features of a series are stale; None computes everything.
            evidence: What the store knows of the series.
            now: When the run began.
            earliest: The first day that is a partition.
        """
        unadjusted, barless = set(evidence.without_splits), evidence.without_bars
        wanted = windows if stale_since is None else stale_windows(windows, stale_since, evidence.classes)
        due = {series: window for series, window in wanted.items() if series.symbol not in unadjusted}
        known = {series for series in windows if series.symbol not in unadjusted and series not in barless}
        notices = []
        if unadjusted:
            notices.append(
                f"the splits of {', '.join(evidence.without_splits)} were never fetched, so their prices cannot be"
                " adjusted: run `marketdata actions`; no features until then"
            )
        return cls(
            keys,
            now,
            earliest,
            evidence.classes,
            due,
            evidence.versions,
            evidence.failing.select(_PARTITION).unique(),
            _reasons(keys, evidence),
            notices,
            frozenset(known & set(due)),
            len(known - set(due)),
        )

    def keys_of(self, series: Collection[Series]) -> list[str]:
        """Return the partitions of the run that are of ``series``."""
        return [key for key in self.keys if parse_key(key)[1] in series]

    def refuse(self, weeks: pl.DataFrame, calendar: TradingCalendar) -> Refusals:
        """Refuse ``weeks`` (``symbol, timeframe, time``), whose prices cannot be adjusted."""
        first: dict[Series, tuple[datetime, str]] = {}
        blocked: dict[str, str] = {}
        notices = []
        for (symbol, timeframe), own in weeks.group_by("symbol", "timeframe", maintain_order=True):
            series = Series.of(str(symbol), str(timeframe))
            opens = own["time"].to_list()
            why = refusal(series.symbol, opens, calendar)
            notices.append(f"{why}; {series} has no features there until then")
            keys = {key_of(calendar.local_day(opened), series) for opened in opens}
            blocked |= dict.fromkeys(keys & set(self.keys), f"without adjusted prices: {why}")
            first[series] = (opens[0].astimezone(UTC), why)
        return Refusals(first, blocked, notices)

    def begins_with_first_partition(self, window: Window, calendar: TradingCalendar) -> bool:
        """Whether no partition lies before ``window``."""
        return window.start <= calendar.day_start(self.earliest)


class Evidence(NamedTuple):
    """What the store knows of the series of a run.

    Attributes:
        classes: The asset class of every symbol.
        versions: The version of each series' latest change.
        without_splits: The symbols whose splits were never fetched: raw prices must not pass for adjusted ones.
        without_bars: The series without a bar.
        failing: ``symbol, timeframe, day, check`` of the partitions that fail a blocking check.
    """

    classes: Mapping[str, AssetClass]
    versions: Mapping[Series, int]
    without_splits: Sequence[str]
    without_bars: Collection[Series]
    failing: pl.DataFrame


class Refusals(NamedTuple):
    """Weeks that cannot be adjusted.

    Attributes:
        first: The first open of each series with the reason.
        blocked: The partitions of the run, each with the reason.
        notices: A line for each series.
    """

    first: Mapping[Series, tuple[datetime, str]]
    blocked: Mapping[str, str]
    notices: Sequence[str]


def stale_windows(
    windows: Mapping[Series, Window], since: Mapping[Series, datetime], classes: Mapping[str, AssetClass]
) -> dict[Series, Window]:
    """Return the whole local days of ``windows`` from which on the features of each series are stale."""
    stale = {}
    for series, window in windows.items():
        if series not in since or since[series] >= window.end:
            continue
        calendar = calendar_of(classes[series.symbol])
        start = calendar.day_start(calendar.local_day(since[series]))
        stale[series] = Window(max(window.start, start), window.end)
    return stale


def _reasons(keys: Iterable[str], evidence: Evidence) -> dict[str, str]:
    checks: dict[str, list[str]] = defaultdict(list)
    for symbol, timeframe, day, check in (
        evidence.failing.select(*_PARTITION, "check").unique().sort(pl.all()).iter_rows()
    ):
        checks[key_of(day, Series.of(symbol, timeframe))].append(check)
    reasons = {}
    without_splits = set(evidence.without_splits)
    for key in keys:
        _, series = parse_key(key)
        if series in evidence.without_bars:
            reasons[key] = _NO_BARS
        elif series.symbol in without_splits:
            reasons[key] = _NO_SPLITS
        elif key in checks:
            reasons[key] = f"blocked by {' and '.join(checks[key])}: {_MEND}"
    return reasons


def lookback_window(window: Window, timeframe: Timeframe, calendar: TradingCalendar) -> Window:
    """Return ``window``, whole local days, from the first moment on whose bars its features look back to."""
    return Window(lookback_start(calendar.local_day(window.start), timeframe, calendar), window.end)


def lookback_size(window: Window, timeframe: Timeframe, calendar: TradingCalendar) -> int:
    """Return how many bars before ``window`` its features need, at most."""
    sessions = window.start - lookback_window(window, timeframe, calendar).start
    return LOOKBACK_BARS + -(-sessions // timeframe.duration)


def windows_from_first_bar(windows: Mapping[Series, Window], bars: pl.DataFrame) -> dict[Series, Window]:
    """Return ``windows``, each from the first of the ``bars`` of its series on."""
    first = {
        Series.of(symbol, timeframe): opened.astimezone(UTC)
        for symbol, timeframe, opened in bars.group_by("symbol", "timeframe")
        .agg(pl.col("time").min())
        .iter_rows()
    }
    return {
        series: Window(min(window.start, first.get(series, window.start)), window.end)
        for series, window in windows.items()
    }


def split_broken(stored: pl.DataFrame, asset_class: AssetClass) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Divide ``stored``, adjusted bars, into those that obey every rule and those that break one.

    A broken bar is lost: it blocks its own partition, and must keep no other from its features.
    """
    has_volume = asset_class is not AssetClass.INDEX
    broken = broken_value_rule(has_volume=has_volume, is_adjusted=True).is_not_null()
    return stored.filter(~broken), stored.filter(broken)


def slots_of(refused: Mapping[str, Sequence[datetime]], timeframe: Timeframe) -> pl.DataFrame:
    """Return ``refused``, opens of bars by symbol, as ``symbol, timeframe, time``."""
    rows = [(symbol, timeframe.value, opened) for symbol, opens in refused.items() for opened in opens]
    return pl.DataFrame(
        rows, schema={"symbol": pl.String(), "timeframe": pl.String(), "time": UTC_TIME}, orient="row"
    )


def as_gaps(bars: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar) -> pl.DataFrame:
    """Return the slots of ``bars`` as gaps: ``symbol, timeframe, gap_start, gap_end``."""
    return bars.select(
        "symbol",
        "timeframe",
        gap_start=pl.col("time").cast(UTC_TIME),
        gap_end=bucket_close(pl.col("time").cast(UTC_TIME), timeframe, calendar),
    )


def leave_out(features: pl.DataFrame, blocked: pl.DataFrame, calendar: TradingCalendar) -> pl.DataFrame:
    """Return ``features`` without those of ``blocked`` partitions (``symbol, timeframe, day``)."""
    return (
        features.with_columns(day=local_day(pl.col("time"), calendar))
        .join(blocked, on=list(_PARTITION), how="anti", maintain_order="left")
        .drop("day")
    )
