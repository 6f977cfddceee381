"""The types of parameters and bodies, as strict as the OpenAPI document describes them."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from marketdata_assets.domain.gaps import LOSSES, GapState
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe

MAX_ROWS: Final = 100_000
"""The most rows of one page: a year of a stock's regular minutes fits."""
_PAGE_ROWS: Final = 10_000
_MAX_CANDLES: Final = 10_000
_MAX_SYMBOLS: Final = 500

_DAY: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_MOMENT: Final = _DAY + r"(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+\-][0-9]{2}:[0-9]{2}))?"
_WHOLE_DAY: Final = re.compile(_DAY)


def _parse_day(text: object) -> object:
    if not isinstance(text, str) or not _WHOLE_DAY.fullmatch(text):
        message = "is not a date: write YYYY-MM-DD"
        raise ValueError(message)
    try:
        return date.fromisoformat(text)
    except ValueError:
        message = "is not a day of the calendar: write YYYY-MM-DD"
        raise ValueError(message) from None


def _parse_boolean(text: object) -> object:
    if text not in ("true", "false", True, False):
        message = "is neither true nor false"
        raise ValueError(message)
    return text in ("true", True)


def _parse_integer(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch("-?[0-9]{1,18}", text):
        message = "is not a whole number"
        raise ValueError(message)
    return text


Symbol = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-]{0,19}$"),
    Field(description="`AAPL`, `BRK.B`, `BTC-USD`.", examples=["AAPL"]),
]
Moment = Annotated[str, StringConstraints(pattern=f"^{_MOMENT}$")]
Day = Annotated[date, BeforeValidator(_parse_day), WithJsonSchema({"type": "string", "format": "date"})]
Boolean = Annotated[bool, BeforeValidator(_parse_boolean)]
Integer = Annotated[int, BeforeValidator(_parse_integer)]
Cursor = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,400}$")]

_START: Final = (
    "The first local day (New York's for stocks, ETFs and indices, UTC's for crypto), or a moment with its offset from"
    " UTC. Default: 30 days before `end`."
)
_END: Final = "The last local day, inclusive, or a moment, exclusive. Default: now."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Page(_Strict):
    limit: Integer = Field(_PAGE_ROWS, ge=1, le=MAX_ROWS, description="The most rows of a page.")
    cursor: Cursor | SkipJsonSchema[None] = Field(
        None, description="`next_cursor` of the previous page; repeat all other parameters unchanged."
    )


class _Range(_Strict):
    timeframe: Timeframe = Field(description="The length of a bar.")
    start: Moment | SkipJsonSchema[None] = Field(None, description=_START)
    end: Moment | SkipJsonSchema[None] = Field(None, description=_END)


class _Hours(_Strict):
    regular_hours: Boolean = Field(
        default=False,
        description=(
            "Only intraday bars that overlap the regular hours, 09:30 to 16:00 in New York. Refused for `1d`, `1w` and"
            " crypto."
        ),
    )


class _Scale(_Strict):
    adjusted: Boolean = Field(
        default=True, description="Split-adjusted prices; false returns them as traded."
    )
    as_of: Day | SkipJsonSchema[None] = Field(
        None, description="The local date whose scale adjusted prices are on. Default: today."
    )


# Fields come in the order of the bases, the last base first.
class SeriesQuery(_Page, _Hours, _Range):
    """The parameters of a range of one series."""


class BarsQuery(_Page, _Hours, _Scale, _Range):
    """The parameters of a range of bars."""


class CandlesQuery(_Hours, _Scale):
    """The parameters of the latest bars."""

    timeframe: Timeframe = Field(Timeframe.D1, description="The length of a bar.")
    limit: Integer = Field(100, ge=1, le=_MAX_CANDLES, description="The most bars to return.")


class _Selection(_Strict):
    symbol: list[Symbol] | SkipJsonSchema[None] = Field(
        None, max_length=_MAX_SYMBOLS, description="Symbols, repeatable. Default: every active one."
    )
    timeframe: list[Timeframe] | SkipJsonSchema[None] = Field(
        None,
        max_length=len(Timeframe),
        description="Timeframes, repeatable. Default: all that are collected.",
    )


class GapsQuery(_Page, _Selection):
    """The choice of gaps."""

    start: Moment | SkipJsonSchema[None] = Field(
        None, description="A gap must end after it. Default: no limit."
    )
    end: Moment | SkipJsonSchema[None] = Field(
        None, description="A gap must begin before it. Default: no limit."
    )
    state: list[GapState] = Field(
        [GapState(state) for state in LOSSES],
        max_length=len(GapState),
        description="States, repeatable. Default: those of gaps without an explanation.",
    )


class CompletenessQuery(_Selection):
    """The choice of series."""


class SymbolsQuery(_Strict):
    """The choice of symbols."""

    active: Boolean = Field(default=True, description="Only collected symbols; false lists all.")


class Timeframes(_Strict):
    """The timeframes that a symbol is collected in."""

    timeframes: list[Timeframe] = Field(min_length=1, max_length=len(Timeframe))


class NewSymbol(_Strict):
    """A symbol to collect."""

    symbol: Symbol
    asset_class: AssetClass | None = Field(
        None,
        description="Default: unchanged for a known symbol; otherwise `crypto` for BASE-QUOTE and `stock` for all others.",
    )
    name: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"),
        ]
        | None
    ) = Field(None, description="The name of the company, fund, pair or index.")
    timeframes: Annotated[list[Timeframe], Field(min_length=1, max_length=len(Timeframe))] | None = Field(
        None, description="Default: unchanged for a known symbol; otherwise `1h` and `1d`."
    )
    confirmed: bool = Field(
        default=False,
        description="Accept a new symbol that is not spelt as the vendor spells such an instrument; otherwise it is refused"
        " with the code `doubtful-symbol`.",
    )


class SymbolFacts(_Strict):
    """A tracked symbol."""

    symbol: str
    asset_class: AssetClass
    name: str | None
    timeframes: list[Timeframe]
    vendor_ticker: str
    calendar: str
    active: bool


class StoredSeries(_Strict):
    """The number of stored bars of a series."""

    timeframe: Timeframe
    bars: int


class SymbolDetails(SymbolFacts):
    """A tracked symbol and its stored bars."""

    stored: list[StoredSeries]


class Symbols(_Strict):
    """The tracked symbols."""

    data: list[SymbolFacts]


class Health(_Strict):
    """The answer of a server whose database answers."""

    status: Literal["ok"]


def arguments_of(query: BaseModel) -> dict[str, Any]:
    """Return the arguments of ``query``, defaults included, to which a cursor is bound."""
    return query.model_dump(mode="json")
