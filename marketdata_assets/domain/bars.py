"""Bars: their schema, the rules that a stored bar obeys, and the buckets of each timeframe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

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

QUARANTINE_SCHEMA: Final = pl.Schema({**BAR_SCHEMA, "rule": pl.String()})
"""Rows that break a rule, with the name of the first rule that each breaks."""

RULES_WITHOUT_LOSS: Final = ("outside_window", "duplicate_time")
"""Rules whose broken row is no lost bar: nobody asked for it, or another row of its time was kept."""


class Screened(NamedTuple):
    """A vendor frame divided by the rules."""

    bars: pl.DataFrame
    """:data:`BAR_SCHEMA`, sorted by time, one row per time."""
    quarantined: pl.DataFrame
    """:data:`QUARANTINE_SCHEMA`, in the vendor's order."""


def empty_bars() -> pl.DataFrame:
    """No bars, in :data:`BAR_SCHEMA`."""
    return pl.DataFrame(schema=BAR_SCHEMA)


def screen(vendor: pl.DataFrame, series: Series, window: Window, calendar: TradingCalendar) -> Screened:
    """Divide ``vendor`` (:data:`VENDOR_SCHEMA`) into bars of ``series`` and rows that break a rule.

    The rules, in the order in which they are named: ``time_missing``, ``outside_window``, ``off_grid``,
    ``price_not_positive`` (null, NaN and infinity included), ``high_below_body``, ``low_above_body``,
    ``volume_negative``, ``duplicate_time`` (the last of several rows for one time is kept: the vendor sends
    corrections after what they correct; identical rows are not a violation). A vwap outside [low, high]
    breaks no rule: the vendor's own bars have it.
    """
    labelled = (
        vendor.with_row_index("_order")
        .with_columns(
            symbol=pl.lit(series.symbol),
            timeframe=pl.lit(series.timeframe.value),
            base_bars=pl.lit(1, pl.Int32),
        )
        .with_columns(rule=_first_broken_rule(series.timeframe, window, calendar))
    )
    sound = labelled.filter(pl.col("rule").is_null())
    latest = sound.unique("time", keep="last", maintain_order=True).sort("time")
    superseded = pl.DataFrame(schema=labelled.schema)
    if latest.height != sound.height:
        columns = [name for name in BAR_SCHEMA if name not in ("symbol", "timeframe")]
        superseded = sound.join(latest, on=columns, how="anti", nulls_equal=True).with_columns(
            rule=pl.lit("duplicate_time")
        )
    broken = pl.concat([labelled.filter(pl.col("rule").is_not_null()), superseded]).sort("_order")
    return Screened(
        bars=latest.select(BAR_SCHEMA.names()),
        quarantined=broken.select(QUARANTINE_SCHEMA.names()),
    )


def _first_broken_rule(timeframe: Timeframe, window: Window, calendar: TradingCalendar) -> pl.Expr:
    time = pl.col("time")
    return _first_of(
        [
            ("time_missing", time.is_null()),
            ("outside_window", (time < window.start) | (time >= window.end)),
            ("off_grid", time != bucket_open(time, timeframe, calendar)),
            *_value_rules(),
        ]
    )


def broken_value_rule() -> pl.Expr:
    """The first rule that a bar's own values break, or null: those of :func:`screen` that no time enters into."""
    return _first_of(_value_rules())


def _value_rules() -> list[tuple[str, pl.Expr]]:
    prices = ("open", "high", "low", "close")
    sound_price = pl.all_horizontal(
        (pl.col(name).is_finite() & (pl.col(name) > 0)).fill_null(value=False) for name in prices
    )
    return [
        ("price_not_positive", ~sound_price),
        ("high_below_body", pl.col("high") < pl.max_horizontal("open", "close", "low")),
        ("low_above_body", pl.col("low") > pl.min_horizontal("open", "close")),
        (
            "volume_negative",
            ((pl.col("volume") < 0) | ~pl.col("volume").is_finite()).fill_null(value=False),
        ),
    ]


def _first_of(rules: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    return pl.coalesce(
        [pl.when(broken).then(pl.lit(name)) for name, broken in rules] + [pl.lit(None, pl.String)]
    )


def bucket_open(time: pl.Expr, timeframe: Timeframe, calendar: TradingCalendar) -> pl.Expr:
    """The open, in UTC, of the bar of ``timeframe`` that holds each ``time``.

    Buckets align to local midnight; a week opens on Sunday 00:00 local time.
    """
    zone = calendar.timezone.key
    if timeframe.duration <= Timeframe.H1.duration or zone == "UTC":
        # Whole-hour offsets: UTC and local buckets coincide, and UTC needs no conversion.
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
    """The moment, in UTC, at which the bar that opened at ``opened`` is complete."""
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


def complete(
    bars: pl.DataFrame, timeframe: Timeframe, calendar: TradingCalendar, now: datetime
) -> pl.DataFrame:
    """The rows of ``bars`` whose interval has closed at ``now``; an unfinished bar is never stored.

    A day is closed when its trading has ended: nothing happens in New York between 20:00 and midnight.
    """
    closed = bucket_close(pl.col("time"), timeframe, calendar)
    if timeframe is Timeframe.D1:
        closed -= pl.duration(seconds=int(calendar.idle_before_midnight.total_seconds()))
    return bars.filter(closed <= now)
