"""Gates: the faults of partitions, and whether they stop a whole run.

A *fault* is one kind of error in one partition. Each function here takes one kind of evidence and returns the faults
that it shows; a check reports them, and the steps after a blocking check leave the faulty partitions out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from marketdata_assets.domain.bars import KEY, UTC_TIME, broken_value_rule, bucket_open
from marketdata_assets.domain.calendar import WEEK, calendar_of
from marketdata_assets.domain.features.columns import FIRST_ROW
from marketdata_assets.domain.grid import grid_fault
from marketdata_assets.domain.outliers import Outlier, flag_outliers
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.slots import each_position, expected_slots, local_day

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.slots import Slots
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.domain.windows import Window

FAULT_SCHEMA: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "timeframe": pl.String(),
        "day": pl.Date(),
        "what": pl.String(),
        "rows": pl.Int64(),
        "score": pl.Float64(),
        "time": UTC_TIME,
        "example": pl.String(),
    }
)
"""One row for each partition and kind of fault.

``rows`` counts the bars (or missing bars) with the fault, and ``score`` ranks the faults of one check, the worst highest.
``time`` (UTC) and ``example`` are the open and the values of the worst of these bars, the earliest among equals.
"""

LOST_TO_QUARANTINE: Final = "lost_to_quarantine"
_PARTITION: Final = ("symbol", "timeframe", "day")


def stops_run(failing: int, partitions: int) -> bool:
    """Whether ``failing`` of the ``partitions`` of a run leave nothing for the steps after the check.

    A blocking check stops a whole run. One faulty partition of a thousand must not keep the others from the next
    steps: the check then names the faulty one, and the next steps leave it out.
    """
    return 0 < partitions <= failing


def find_invalid(
    bars: pl.DataFrame, quarantined: pl.DataFrame, timeframe: Timeframe, asset_class: AssetClass
) -> pl.DataFrame:
    """Find the partitions whose bars break a rule, or whose base bars mostly went to quarantine.

    Args:
        bars: ``BAR_SCHEMA``, of ``timeframe`` and ``asset_class``, whole partitions.
        quarantined: ``symbol, time, rule`` of the base bars of the same partitions that broke a rule, as
            :func:`select_buckets_within` selects them.
        timeframe: The timeframe of ``bars``.
        asset_class: The asset class of ``bars``: an index has no volume, vwap or transactions.

    Returns:
        :data:`FAULT_SCHEMA`.
    """
    calendar = calendar_of(asset_class)
    broken = broken_value_rule(has_volume=asset_class is not AssetClass.INDEX)
    if asset_class is AssetClass.INDEX:
        has_volume = ~pl.all_horizontal(pl.col("volume", "vwap", "transactions").is_null())
        broken = pl.coalesce(broken, pl.when(has_volume).then(pl.lit("index_has_volume")))
    rows = (
        bars.with_columns(what=broken)
        .filter(pl.col("what").is_not_null())
        .with_columns(score=pl.lit(1.0), example=_format_values("open", "high", "low", "close", "volume"))
    )
    faults = _scored_by_rows(rows, calendar)
    return pl.concat([faults, _find_lost_to_quarantine(bars, quarantined, timeframe, calendar)])


def find_off_grid(bars: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar) -> pl.DataFrame:
    """Find the partitions with a bar that :func:`~marketdata_assets.domain.grid.grid_fault` objects to, as :data:`FAULT_SCHEMA`.

    ``bars`` has the columns of ``BAR_SCHEMA``, and all of them are of ``timeframe`` and on ``calendar``.
    """
    if bars.is_empty():
        return FAULT_SCHEMA.to_frame()
    days = bars.select(local_day(pl.col("time"), calendar))["time"].unique().sort()
    rows = (
        bars.with_columns(what=grid_fault(timeframe, calendar, days[0], days[-1]))
        .filter(pl.col("what").is_not_null())
        .with_columns(score=pl.lit(1.0), example=_format_values("base_bars", "open", "close"))
    )
    return _scored_by_rows(rows, calendar)


def find_outlying(
    bars: pl.DataFrame, windows: Mapping[Series, Window], timeframe: Timeframe, asset_class: AssetClass
) -> pl.DataFrame:
    """Find the partitions with bars that obey every rule and still look wrong; ``what`` is an :class:`Outlier`.

    Args:
        bars: ``BAR_SCHEMA``, of ``timeframe`` and ``asset_class``, sorted by key, on one scale of prices, with the
            bars before each window that judging needs (``outliers.LOOKBACK``). Bars that break a rule are ignored.
        windows: The window to judge, by series.
        timeframe: The timeframe of ``bars``.
        asset_class: The asset class of ``bars``: only shares are split.

    Returns:
        :data:`FAULT_SCHEMA`.
    """
    sound = bars.filter(broken_value_rule(is_adjusted=True).is_null())
    flagged = flag_outliers(sound, timeframe, may_split=pl.lit(asset_class.can_split))
    volume = pl.col("outlier").is_in([Outlier.VOLUME_HIGH.value, Outlier.VOLUME_LOW.value])
    spread = pl.col("outlier") == Outlier.RANGE.value
    rows = select_within(flagged.with_columns(timeframe=pl.lit(timeframe.value)), windows).select(
        "symbol",
        "timeframe",
        "time",
        "score",
        what="outlier",
        example=pl.when(volume)
        .then(pl.format("volume {} times the usual", pl.col("size").round_sig_figs(3)))
        .when(spread)
        .then(pl.format("high {} % above low", (pl.col("size") * 100).round_sig_figs(3)))
        .otherwise(pl.format("close {} % from the close before", (pl.col("size") * 100).round_sig_figs(3))),
    )
    return _group_by_partition(rows, calendar_of(asset_class))


def find_incomplete(
    bars: pl.DataFrame, features: pl.DataFrame, rows_before: pl.DataFrame, calendar: TradingCalendar
) -> pl.DataFrame:
    """Find the partitions whose features are not those of their bars, as :data:`FAULT_SCHEMA`.

    ``no_features``: a bar without features; ``no_bar``: features without a bar; ``unexpected_null``: a null that neither
    the start of the history nor a gap explains.

    Args:
        bars: ``symbol, timeframe, time``, whole partitions of any series on ``calendar``, sorted by key.
        features: The key, the columns of ``FIRST_ROW`` and ``gap_in_window``, of the same partitions.
        rows_before: ``symbol, timeframe, before``: how many bars each series has before those; counting up to the
            largest of ``FIRST_ROW`` is enough.
        calendar: The calendar of every bar.
    """
    both = (
        bars.select(*KEY, pl.int_range(pl.len()).over("symbol", "timeframe").alias("_index"))
        .join(features.with_columns(_found=pl.lit(value=True)), on=KEY, how="full", coalesce=True)
        .join(rows_before, on=["symbol", "timeframe"], how="left")
    )
    index = pl.col("_index") + pl.col("before").fill_null(0)
    nulls = {
        name: pl.col(name).is_null() & (index >= first) & ~pl.col("gap_in_window")
        for name, first in FIRST_ROW.items()
    }
    what = (
        pl.when(pl.col("_found").is_null())
        .then(pl.lit("no_features"))
        .when(pl.col("_index").is_null())
        .then(pl.lit("no_bar"))
        .when(pl.any_horizontal(nulls.values()))
        .then(pl.lit("unexpected_null"))
    )
    named = pl.concat_str(
        [pl.when(is_null).then(pl.lit(name)) for name, is_null in nulls.items()],
        separator=", ",
        ignore_nulls=True,
    )
    rows = (
        both.with_columns(what=what, score=pl.lit(1.0), example=named)
        .filter(pl.col("what").is_not_null())
        .with_columns(pl.col("example").fill_null(""))
    )
    return _scored_by_rows(rows, calendar)


def find_gappy(
    gaps: pl.DataFrame, windows: Mapping[Series, Window], classes: Mapping[str, AssetClass]
) -> pl.DataFrame:
    """Find the partitions in ``windows`` that lack bars because of ``gaps``; ``what`` is the state of the gap.

    Args:
        gaps: ``KNOWN_GAP_SCHEMA``: gaps that count as loss. A long gap is a fault of every day that it reaches into.
        windows: The window of each series.
        classes: The asset class of each symbol.

    Returns:
        :data:`FAULT_SCHEMA`.
    """
    by_series = gaps.partition_by("symbol", "timeframe", as_dict=True)
    groups: dict[tuple[Timeframe, TradingCalendar, Window], list[pl.DataFrame]] = defaultdict(list)
    for series, window in windows.items():
        own = by_series.get((series.symbol, series.timeframe.value))
        if own is not None:
            groups[series.timeframe, calendar_of(classes[series.symbol]), window].append(own)
    faults = [FAULT_SCHEMA.to_frame()]
    for (timeframe, calendar, window), members in groups.items():
        # Gaps hold bars that have closed, so even the last slots of the window have to be expected.
        slots = expected_slots(timeframe, window, calendar, window.end + WEEK)
        faults.append(_count_gap_days(pl.concat(members), slots))
    return pl.concat(faults)


def select_within(rows: pl.DataFrame, windows: Mapping[Series, Window]) -> pl.DataFrame:
    """Return the ``rows`` (``symbol, timeframe, time`` and more) whose time lies in the window of their series."""
    edges = pl.DataFrame(
        [
            (series.symbol, series.timeframe.value, window.start, window.end)
            for series, window in windows.items()
        ],
        schema={"symbol": pl.String(), "timeframe": pl.String(), "_lo": UTC_TIME, "_hi": UTC_TIME},
        orient="row",
    )
    inside = rows.join(edges, on=["symbol", "timeframe"], maintain_order="left")
    time = pl.col("time")
    return inside.filter(time >= pl.col("_lo"), time < pl.col("_hi")).drop("_lo", "_hi")


def select_buckets_within(
    rows: pl.DataFrame, windows: Mapping[Series, Window], timeframe: Timeframe, calendar: TradingCalendar
) -> pl.DataFrame:
    """Return the base ``rows`` (``symbol, time`` and more) that belong to a bar of ``timeframe`` in the window of its series.

    A bar belongs to the partition in which it opens: the days of a week belong to the partition of its Sunday, so they
    may lie after the window of that week bar.
    """
    time = pl.col("time")
    opened = rows.with_columns(
        timeframe=pl.lit(timeframe.value), _time=time, time=bucket_open(time, timeframe, calendar)
    )
    return select_within(opened, windows).with_columns(time="_time").select(rows.columns)


def _find_lost_to_quarantine(
    bars: pl.DataFrame, quarantined: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar
) -> pl.DataFrame:
    if quarantined.is_empty():
        return FAULT_SCHEMA.to_frame()
    time = pl.col("time")
    broken = (
        quarantined.with_columns(
            timeframe=pl.lit(timeframe.value),
            day=local_day(bucket_open(time, timeframe, calendar), calendar),
            _slot=bucket_open(time, timeframe.base, calendar),
        )
        .sort("time")
        .group_by(_PARTITION)
        .agg(
            pl.col("time").first(),
            rows=pl.col("_slot").n_unique().cast(pl.Int64),
            _rule=pl.col("rule").first(),
        )
    )
    left = bars.group_by("symbol", "timeframe", day=local_day(time, calendar)).agg(
        left=pl.col("base_bars").sum().cast(pl.Int64)
    )
    return (
        broken.join(left, on=_PARTITION, how="left")
        .with_columns(pl.col("left").fill_null(0))
        # Some quarantined rows are usual with this vendor: only more of them than bars are a fault. Bars that come
        # in a sound form later are stored, and so end the fault.
        .filter(pl.col("rows") > pl.col("left"))
        .select(
            *_PARTITION,
            what=pl.lit(LOST_TO_QUARANTINE),
            rows="rows",
            score=pl.col("rows").cast(pl.Float64),
            time="time",
            example=pl.format("{}; {} base bars are left", "_rule", "left"),
        )
        .cast(FAULT_SCHEMA)
    )


def _count_gap_days(gaps: pl.DataFrame, slots: Slots) -> pl.DataFrame:
    """Count the slots of ``gaps``, all of which are empty and lie among ``slots``, by series and day: ``FAULT_SCHEMA``."""
    first, last = slots.positions(gaps)
    sizes = last - first
    gap = np.repeat(np.arange(gaps.height), sizes)
    positions = each_position(first, last)
    missing = pl.DataFrame({"gap": gap, "day": replace(slots, opens=slots.opens[positions]).days()})
    facts = gaps.with_columns(gap=pl.int_range(pl.len())).drop("day")
    return (
        missing.group_by("gap", "day")
        .agg(rows=pl.len().cast(pl.Int64))
        .join(facts, on="gap")
        .sort("missing_bars", "gap_start", descending=[True, False])
        .group_by("symbol", "timeframe", "day", what="state")
        .agg(
            pl.col("rows").sum(),
            score=pl.col("rows").sum().cast(pl.Float64),
            time=pl.col("gap_start").first(),
            example=pl.format(
                "until {}: {}", pl.col("gap_end").dt.to_string("%Y-%m-%d %H:%M"), pl.col("reason")
            ).first(),
        )
        .cast(FAULT_SCHEMA)
        .select(FAULT_SCHEMA.names())
    )


def _scored_by_rows(rows: pl.DataFrame, calendar: TradingCalendar) -> pl.DataFrame:
    return _group_by_partition(rows, calendar).with_columns(score=pl.col("rows").cast(pl.Float64))


def _group_by_partition(rows: pl.DataFrame, calendar: TradingCalendar) -> pl.DataFrame:
    """Faults from ``rows``: ``symbol, timeframe, time, what, score, example``, one for each broken bar."""
    return (
        rows.with_columns(day=local_day(pl.col("time"), calendar))
        .sort("score", "time", descending=[True, False])
        .group_by(*_PARTITION, "what", maintain_order=True)
        .agg(
            pl.col("score", "time", "example").first(),
            rows=pl.len().cast(pl.Int64),
        )
        .select(FAULT_SCHEMA.names())
        .cast(FAULT_SCHEMA)
    )


def _format_values(*columns: str) -> pl.Expr:
    texts = {name: pl.col(name).round_sig_figs(8).cast(pl.String).fill_null("null") for name in columns}
    return pl.concat_str([pl.format(f"{name} {{}}", text) for name, text in texts.items()], separator=", ")
