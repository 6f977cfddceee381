"""The tables into which frames are written, and the exact schema of each.

Binary COPY checks no types: a frame is cast to its table's schema before a byte is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import BAR_SCHEMA, KEY
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POSTGRES_TYPES: Final[dict[pl.DataType, str]] = {
    pl.String(): "text",
    pl.Float64(): "double precision",
    pl.Int64(): "bigint",
    pl.Int32(): "integer",
    pl.Int16(): "smallint",
    pl.Boolean(): "boolean",
    pl.Datetime("us", "UTC"): "timestamptz",
}


class FrameError(MarketDataError):
    """A frame does not fit its table."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of series, keyed by (symbol, timeframe, time).

    Attributes:
        name: The table's name in schema ``public``.
        schema: The columns of a frame for the table, in the order in which they are sent.
        descriptions: A description of each column, with units, for people.
        revisions: The table that keeps the old values of a changed row, or None.
        weight: A column that never decreases: a row with a smaller value than the stored one changes nothing.
        nullable: The columns that may be null; None for all outside the key.
        kept: The columns that Postgres fills by itself, with their type and description.
    """

    name: str
    schema: pl.Schema
    descriptions: Mapping[str, str]
    revisions: str | None = None
    weight: str | None = None
    nullable: frozenset[str] | None = None
    kept: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The names of the columns of a frame for the table."""
        return self.schema.names()

    @property
    def values(self) -> list[str]:
        """The columns outside the key."""
        return [name for name in self.columns if name not in KEY]

    @property
    def required(self) -> list[str]:
        """The columns that are never null."""
        return [name for name in self.columns if name in KEY or name not in (self.nullable or self.values)]

    def column_types(self) -> list[tuple[str, str]]:
        """Return each column with its Postgres type."""
        return [(name, _POSTGRES_TYPES[dtype]) for name, dtype in self.schema.items()]

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return ``frame`` in the table's exact schema, sorted by key.

        Raises:
            FrameError: A column is missing or of a type that does not cast without loss, a key is null, or
                two rows share a key.
        """
        missing = [name for name in self.columns if name not in frame.columns]
        if missing:
            message = f"a frame for {self.name} lacks {', '.join(missing)}: nothing was written"
            raise FrameError(message)
        unfit = [
            f"{name} is {frame.schema[name]}, not {dtype}"
            for name, dtype in self.schema.items()
            if not _casts_without_loss(frame.schema[name], dtype)
        ]
        if unfit:
            message = (
                f"a frame for {self.name} does not cast to the table's types ({'; '.join(unfit)}):"
                " nothing was written"
            )
            raise FrameError(message)
        try:
            conformed = frame.select(self.columns).cast(self.schema, strict=True)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            message = (
                f"a frame for {self.name} does not cast to the table's types ({reason}): nothing was written"
            )
            raise FrameError(message) from error
        if conformed.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
            message = f"a frame for {self.name} has a null in its key ({', '.join(KEY)}): nothing was written"
            raise FrameError(message)
        conformed = conformed.sort(KEY)
        if conformed.height > 1 and conformed.select(_repeats_previous_key()).item():
            message = f"a frame for {self.name} has two rows for one ({', '.join(KEY)}): nothing was written"
            raise FrameError(message)
        return conformed

    def selection(self, columns: Sequence[str] | None) -> list[str]:
        """Return ``columns`` in the given order, or all; raise :class:`FrameError` for a column that does not exist."""
        unknown = [name for name in columns or () if name not in self.schema]
        if unknown:
            message = f"{self.name} has no column {unknown[0]!r}: it has {', '.join(self.columns)}"
            raise FrameError(message)
        return list(columns) if columns else self.columns


def _casts_without_loss(given: pl.DataType, wanted: pl.DataType) -> bool:
    # Polars' strict cast raises for values that do not fit, but turns 1.5 into 1, a number into a time, and a
    # naive time into one in UTC.
    if given == pl.Null:
        return True
    if wanted.is_float():
        return given.is_numeric()
    if wanted.is_integer():
        return given.is_integer()
    if isinstance(wanted, pl.Datetime):
        return isinstance(given, pl.Datetime) and given.time_zone is not None
    return given == wanted


def _repeats_previous_key() -> pl.Expr:
    return pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in KEY).any()


OHLCV: Final = Table(
    name="ohlcv",
    schema=BAR_SCHEMA,
    descriptions={
        "symbol": "AAPL, BRK.B, BTC-USD",
        "timeframe": "1m 5m 15m 30m 1h 4h 1d 1w",
        "time": "The bar's open, UTC",
        "open": "First price, quote currency, unadjusted",
        "high": "Highest price",
        "low": "Lowest price",
        "close": "Last price",
        "volume": "Shares or coins traded; null for an index",
        "vwap": "Volume-weighted mean price; null for an index and without volume",
        "transactions": "Trades; null for an index",
        "base_bars": "Number of base bars (1m or 1d) in the bar",
    },
    revisions="ohlcv_revision",
    # A bar of fewer base bars comes from an incomplete answer: the store keeps the more complete bar.
    weight="base_bars",
    nullable=frozenset({"volume", "vwap", "transactions"}),
)
"""The table of bars; the old values of bars that the vendor changes go to ``ohlcv_revision``."""

FEATURES: Final = Table(
    name="features",
    # Postgres does not have an integer of one byte.
    schema=pl.Schema({**FEATURES_SCHEMA, "trend": pl.Int16()}),
    descriptions={
        **{name: OHLCV.descriptions[name] for name in KEY},
        "simple_return": "Close over the previous close, less 1",
        "log_return": "Natural logarithm of close over the previous close",
        "true_range": "Largest of high - low and the distances of both from the previous close",
        "atr_14": "Wilder's mean of the true range over 14 bars",
        "natr_14": "atr_14 in per cent of the close",
        "rsi_14": "Wilder's relative strength index over 14 bars, 0 to 100",
        "ema_20": "Exponential mean of the close over 20 bars",
        "sma_20": "Mean of the close over 20 bars",
        "ema_spread_12_26": "Exponential mean of 12 bars over that of 26, less 1",
        "macd": "Exponential mean of 12 bars less that of 26",
        "macd_signal": "Exponential mean of macd over 9 bars",
        "adx_14": "Wilder's average directional index over 14 bars, 0 to 100",
        "bb_upper_20": "sma_20 plus two standard deviations",
        "bb_lower_20": "sma_20 less two standard deviations",
        "slope_14": "Least-squares slope of the close over 14 bars, currency per bar",
        "volatility_20": "Standard deviation of 20 log returns, annualised; intraday without overnight moves",
        "parkinson_20": "Parkinson's volatility of 20 bars, annualised",
        "garman_klass_20": "Garman and Klass's volatility of 20 bars, annualised",
        "rogers_satchell_20": "Rogers and Satchell's volatility of 20 bars, annualised",
        "yang_zhang_20": "Yang and Zhang's volatility of 20 bars, annualised; intraday without overnight moves",
        "vwap_session": "Volume-weighted mean price since the session's first bar",
        "dollar_volume": "Close times volume, in currency",
        "relative_volume_20": "Volume over the mean of the 20 sessions before, at the same time of day",
        "trend": "1 up, -1 down, 0 neither: close against ema_20, and the sign of ema_spread_12_26",
        "gap_in_window": "Bars are lost in the look-back of some column",
    },
    kept={"computed_at": ("timestamptz", "When the row was last computed")},
)
"""The table of features, on split-adjusted prices; docs/features.md defines them."""

TABLES: Final = {table.name: table for table in (OHLCV, FEATURES)}
"""The tables by the name of the asset that owns each."""
