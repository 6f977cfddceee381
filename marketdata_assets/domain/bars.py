"""Bars: the schema, the rules that a stored bar obeys, and the buckets of each timeframe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from marketdata_assets.domain.calendar import TradingCalendar
    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.windows import Window

UTC_TIME: Final[pl.DataType] = pl.Datetime("us", "UTC")

VENDOR_SCHEMA: Final = pl.Schema(
    {
        "time": UTC_TIME,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "vwap": pl.Float64(),
        "transactions": pl.Int64(),
    }
)
"""Bars of one ticker as the vendor sends them, before any rule.

``time`` is the bar's open. Prices and ``vwap`` are in the quote currency, unadjusted; ``volume`` is in shares
or coins. An index has null ``volume``, ``vwap`` and ``transactions``.
"""

BAR_SCHEMA: Final = pl.Schema(
    {"symbol": pl.String(), "timeframe": pl.String(), **VENDOR_SCHEMA, "base_bars": pl.Int32()}
)
"""Bars of any number of series, keyed by (symbol, timeframe, time).

``base_bars`` is how many fetched bars a bar is made of: 1 in a base timeframe.
"""

KEY: Final = ("symbol", "timeframe", "time")

QUARANTINE_SCHEMA: Final = pl.Schema({**BAR_SCHEMA, "rule": pl.String(), "vendor_row": pl.String()})
"""Rows that break a rule, each with the name of the first rule that it breaks and the vendor's own text of the row.

``vendor_row`` is null where that text is not available.
"""

PAGE_SCHEMA: Final = pl.Schema({**VENDOR_SCHEMA, "fault": pl.String(), "source": pl.UInt64()})
"""Rows of vendor pages: :data:`VENDOR_SCHEMA` with the fault that was found while reading each row, and its source.

``fault`` is the rule that a row broke while it was read (:data:`READING_RULES`), null for a row without such a fault.
``source`` is a number by which the caller finds the vendor's own text of the row.
"""

READING_RULES: Final = ("wrong_type", "transactions_not_whole", "transactions_too_large")
"""Rules about values that their column cannot hold. Such a value is null in the frame."""

LARGEST_PRICE: Final = 1e12
"""The largest price that is believed: a bitcoin in the cheapest currency costs a thousandth of this."""
LARGEST_COUNT: Final = 1e15
"""The largest volume or number of transactions of a fetched bar that is believed: the busiest coins trade about 1e14
units a day.

A rolled-up bar may have as much for each of its ``base_bars``.
"""
_LARGEST_ADJUSTMENT: Final = 1e12
"""More than the splits of a whole history multiply a price or a volume by: a reverse split every year comes to 1e10."""

RULES_WITHOUT_LOSS: Final = ("outside_window", "duplicate_time")
"""Rules whose quarantined row is not a lost bar: it was not requested, or another row of its time was kept."""


class Screened(NamedTuple):
    """A vendor frame divided into sound bars and quarantined rows."""

    bars: pl.DataFrame
    """:data:`BAR_SCHEMA`, sorted by time, one row per time."""
    quarantined: pl.DataFrame
    """:data:`QUARANTINE_SCHEMA`, in the vendor's order."""
    sources: pl.Series
    """The ``source`` of each quarantined row (:data:`PAGE_SCHEMA`), null where the vendor frame had none."""


def screen(
    vendor: pl.DataFrame,
    series: Series,
    window: Window,
    calendar: TradingCalendar,
    *,
    asset_class: AssetClass,
) -> Screened:
    """Divide ``vendor`` (:data:`PAGE_SCHEMA` or :data:`VENDOR_SCHEMA`) into bars of ``series`` and rows that break a rule.

    The rules, in the order in which they are named: ``time_missing``, ``outside_window``, ``off_grid``, those of
    :data:`READING_RULES`, ``price_not_positive`` (null, NaN and infinity included), ``price_too_large``,
    ``high_below_body``, ``low_above_body``, ``volume_missing`` (except of an index, which has none),
    ``volume_negative``, ``volume_too_large``, ``vwap_not_positive``, ``vwap_too_large``,
    ``transactions_negative``, ``transactions_too_large``, ``duplicate_time`` (the last of several rows for one
    time is kept: the vendor sends corrections after the rows that they correct; identical rows break no rule). A vwap
    outside [low, high] breaks no rule: the vendor's bars have such values.
    """
    labelled = _add_labels(vendor, series.timeframe).with_columns(symbol=pl.lit(series.symbol))
    rule = _first_broken_rule(series.timeframe, window, calendar, asset_class)
    return _divide(labelled.with_columns(rule=rule), "time")


def screen_day(vendor: pl.DataFrame, window: Window, calendar: TradingCalendar) -> Screened:
    """Divide day bars of many symbols, as :func:`screen` divides the bars of one symbol: ``vendor`` also has a ``symbol``.

    The symbols must not be indices.
    """
    rule = _first_broken_rule(Timeframe.D1, window, calendar, AssetClass.STOCK)
    return _divide(_add_labels(vendor, Timeframe.D1).with_columns(rule=rule), "symbol")


def _add_labels(vendor: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    missing = [
        pl.lit(None, dtype).alias(name) for name, dtype in PAGE_SCHEMA.items() if name not in vendor.columns
    ]
    return (
        vendor.with_columns(missing, vendor_row=pl.lit(None, pl.String))
        .with_row_index("_order")
        .with_columns(timeframe=pl.lit(timeframe.value), base_bars=pl.lit(1, pl.Int32))
    )


def _divide(labelled: pl.DataFrame, key: str) -> Screened:
    """Divide ``labelled`` by its ``rule``; ``key`` is the column that distinguishes its bars."""
    sound = labelled.filter(pl.col("rule").is_null())
    latest = sound.unique(key, keep="last", maintain_order=True).sort(key)
    superseded = pl.DataFrame(schema=labelled.schema)
    if latest.height != sound.height:
        columns = [name for name in BAR_SCHEMA if name != "timeframe"]
        superseded = sound.join(latest, on=columns, how="anti", nulls_equal=True).with_columns(
            rule=pl.lit("duplicate_time")
        )
    broken = pl.concat([labelled.filter(pl.col("rule").is_not_null()), superseded]).sort("_order")
    return Screened(
        bars=latest.select(BAR_SCHEMA.names()),
        quarantined=broken.select(QUARANTINE_SCHEMA.names()),
        sources=broken["source"],
    )


def _first_broken_rule(
    timeframe: Timeframe, window: Window, calendar: TradingCalendar, asset_class: AssetClass
) -> pl.Expr:
    time = pl.col("time")
    return _name_first_broken(
        [
            ("time_missing", time.is_null()),
            ("outside_window", (time < window.start) | (time >= window.end)),
            ("off_grid", time != bucket_open(time, timeframe, calendar)),
            *((name, (pl.col("fault") == name).fill_null(value=False)) for name in READING_RULES),
            *_value_rules(has_volume=asset_class is not AssetClass.INDEX),
        ]
    )


def broken_value_rule(*, has_volume: bool = False, is_adjusted: bool = False) -> pl.Expr:
    """Return the first rule that a bar's own values break, or null: those of :func:`screen` that do not depend on time.

    With ``has_volume``, which is right for all but indices, a bar without a volume breaks a rule. With ``is_adjusted``, prices
    and volumes may be as large as splits make them.
    """
    return _name_first_broken(
        _value_rules(has_volume=has_volume, adjustment=_LARGEST_ADJUSTMENT if is_adjusted else 1.0)
    )


def _value_rules(*, has_volume: bool = False, adjustment: float = 1.0) -> list[tuple[str, pl.Expr]]:
    """Return the rules of values; with ``has_volume``, a bar without a volume breaks a rule.

    ``adjustment`` is the largest factor by which splits multiply the vendor's prices and volumes.
    """
    largest_price = LARGEST_PRICE * adjustment
    largest_count = LARGEST_COUNT * pl.col("base_bars").cast(pl.Float64)
    prices = ("open", "high", "low", "close")
    volume, vwap, transactions = (pl.col(name) for name in ("volume", "vwap", "transactions"))
    sound_price = pl.all_horizontal(
        (pl.col(name).is_finite() & (pl.col(name) > 0)).fill_null(value=False) for name in prices
    )
    # The vendor may send a bar with a volume of 0 with the vwap 0.
    sound_vwap = vwap.is_finite() & ((vwap > 0) | ((vwap == 0) & (volume == 0)))
    missing = [("volume_missing", volume.is_null())] if has_volume else []
    optional = {
        "volume_negative": (volume < 0) | ~volume.is_finite(),
        "volume_too_large": volume > largest_count * adjustment,
        "vwap_not_positive": ~sound_vwap,
        "vwap_too_large": vwap > largest_price,
        "transactions_negative": transactions < 0,
        "transactions_too_large": transactions.cast(pl.Float64) > largest_count,
    }
    return [
        ("price_not_positive", ~sound_price),
        ("price_too_large", pl.max_horizontal(*prices) > largest_price),
        ("high_below_body", pl.col("high") < pl.max_horizontal("open", "close", "low")),
        ("low_above_body", pl.col("low") > pl.min_horizontal("open", "close")),
        *missing,
        *((name, broken.fill_null(value=False)) for name, broken in optional.items()),
    ]


def _name_first_broken(rules: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    return pl.coalesce(
        [pl.when(broken).then(pl.lit(name)) for name, broken in rules] + [pl.lit(None, pl.String)]
    )


def bucket_open(time: pl.Expr, timeframe: Timeframe, calendar: TradingCalendar) -> pl.Expr:
    """Return the open, in UTC, of the bar of ``timeframe`` that holds each ``time``.

    Buckets align to local midnight; a week opens on Sunday 00:00 local time.
    """
    zone = calendar.timezone.key
    if timeframe.duration <= Timeframe.H1.duration or zone == "UTC":
        # Offsets are whole hours: UTC and local buckets coincide, and UTC needs no conversion.
        every = "1d" if timeframe is Timeframe.W1 else _EVERY[timeframe]
        opened = time.dt.truncate(every)
        if timeframe is Timeframe.W1:
            opened -= pl.duration(days=opened.dt.weekday() % 7)
        return opened
    local = time.dt.convert_time_zone(zone).dt.replace_time_zone(None)
    opened = local.dt.truncate("1d" if timeframe is Timeframe.W1 else _EVERY[timeframe])
    if timeframe is Timeframe.W1:
        opened -= pl.duration(days=opened.dt.weekday() % 7)
    return opened.dt.replace_time_zone(zone, ambiguous="earliest").dt.convert_time_zone("UTC")


def bucket_close(opened: pl.Expr, timeframe: Timeframe, calendar: TradingCalendar) -> pl.Expr:
    """Return the moment, in UTC, at which the bar that opened at ``opened`` closes."""
    zone = calendar.timezone.key
    if timeframe.duration <= Timeframe.H1.duration or zone == "UTC":
        return opened + pl.duration(seconds=int(timeframe.duration.total_seconds()))
    local = opened.dt.convert_time_zone(zone).dt.replace_time_zone(None)
    closed = local + pl.duration(seconds=int(timeframe.duration.total_seconds()))
    return closed.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null").dt.convert_time_zone(
        "UTC"
    )


_EVERY: Final = {
    Timeframe.M1: "1m",
    Timeframe.M5: "5m",
    Timeframe.M15: "15m",
    Timeframe.M30: "30m",
    Timeframe.H1: "1h",
    Timeframe.H4: "4h",
    Timeframe.D1: "1d",
}


def keep_closed(
    bars: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar, now: datetime
) -> pl.DataFrame:
    """Return the rows of ``bars`` that have closed at ``now``; a bar that is still open is never stored.

    A day bar closes when the trading of its day ends: there is none in New York between 20:00 and midnight.
    """
    closed = bucket_close(pl.col("time"), timeframe, calendar)
    if timeframe is Timeframe.D1:
        closed -= pl.duration(seconds=int(calendar.idle_before_midnight.total_seconds()))
    return bars.filter(closed <= now)
