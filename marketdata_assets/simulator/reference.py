"""The reference endpoints: splits, dividends, tickers and the market's status.

Rows are filtered by ``field``, ``field.gt``, ``.gte``, ``.lt``, ``.lte`` and ``.any_of``, sorted, and paged
by an opaque cursor that repeats the whole query (docs/vendor.md, "Corporate actions").
"""

from __future__ import annotations

import hashlib
import math
import operator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator.aggregates import decode_cursor, encode_cursor
from marketdata_assets.simulator.answers import bad_request, ticker_not_found
from marketdata_assets.simulator.instruments import draw_fraction, hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from marketdata_assets.simulator.source import BarSource

Row = dict[str, Any]

_PAGING = frozenset({"limit", "sort", "order", "cursor", "offset", "apiKey", "reverse_split", "search"})
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_HOLIDAYS = {
    2: "Washington's Birthday", 3: "Good Friday", 4: "Good Friday", 5: "Memorial Day", 6: "Juneteenth",
    7: "Independence Day", 9: "Labor Day", 11: "Thanksgiving", 12: "Christmas",
}  # fmt: skip
_NEW_YEAR_LATEST = 3


@dataclass(frozen=True, slots=True)
class Listing:
    """A paged endpoint: its limits, and its default order."""

    default_limit: int
    max_limit: int
    default_sort: str
    descending: bool = True


SPLITS_V3 = Listing(10, 1_000, "execution_date")
DIVIDENDS_V3 = Listing(10, 1_000, "ex_dividend_date")
SPLITS_V1 = Listing(100, 5_000, "execution_date")
DIVIDENDS_V1 = Listing(100, 5_000, "ticker", descending=False)
EARNINGS_V1 = Listing(100, 50_000, "last_updated")
TICKERS_V3 = Listing(100, 1_000, "ticker", descending=False)


@dataclass(frozen=True, slots=True)
class ReferencePage:
    """The rows of one answer and the cursor of the next, if any."""

    rows: Sequence[Row]
    cursor: str | None


def page_of(rows: Sequence[Row], listing: Listing, params: Mapping[str, str]) -> ReferencePage:
    """Return the page of ``rows`` that ``params`` request. Raises a 400 refusal for parameters out of bounds."""
    if "cursor" in params:
        params = decode_cursor(params["cursor"])
    limit_text, offset_text = params.get("limit", str(listing.default_limit)), params.get("offset", "0")
    if (
        not limit_text.isdecimal()
        or not 0 < int(limit_text) <= listing.max_limit
        or not offset_text.isdecimal()
    ):
        error = f"The parameter 'limit' must be a number from 1 to {listing.max_limit}"
        raise bad_request(error)
    limit, offset = int(limit_text), int(offset_text)
    chosen = [row for row in rows if _matches(row, params)]
    for column, descending in reversed(_order(listing, params)):
        if chosen and column not in chosen[0]:
            error = f"The parameter 'sort' names no column: '{column}'"
            raise bad_request(error)
        chosen.sort(key=operator.itemgetter(column), reverse=descending)
    more = offset + limit < len(chosen)
    state = {name: value for name, value in params.items() if name not in ("apiKey", "cursor")}
    cursor = encode_cursor({**state, "limit": str(limit), "offset": str(offset + limit)}) if more else None
    return ReferencePage(chosen[offset : offset + limit], cursor)


def _order(listing: Listing, params: Mapping[str, str]) -> list[tuple[str, bool]]:
    sort = params.get("sort")
    if not sort:
        descending = params["order"] == "desc" if "order" in params else listing.descending
        return [(listing.default_sort, descending)]
    order = []
    for part in sort.split(","):
        column, _, direction = part.partition(".")
        order.append((column, (direction or params.get("order", "asc")) == "desc"))
    return order


def _matches(row: Row, params: Mapping[str, str]) -> bool:
    if "reverse_split" in params and (row["split_from"] > row["split_to"]) != (
        params["reverse_split"] == "true"
    ):
        return False
    for name, text in params.items():
        column, _, comparison = name.partition(".")
        if name in _PAGING or column not in row:
            continue
        value = row[column]
        if comparison == "any_of":
            if str(value) not in text.split(","):
                return False
        elif comparison not in _COMPARISONS or not _COMPARISONS[comparison](
            value, _read_as(value, column, text)
        ):
            return False
    return True


def _read_as(value: object, column: str, text: str) -> object:
    """Return ``text`` as the type of ``value``."""
    try:
        if isinstance(value, bool):
            return text.lower() == "true"
        if isinstance(value, int | float):
            return float(text)
        if column.endswith("_date"):
            return date.fromisoformat(text).isoformat()
    except ValueError:
        error = f"The parameter '{column}' cannot be read: '{text}'"
        raise bad_request(error) from None
    return text


def split_rows_v3(source: BarSource, *, duplicated: bool) -> list[Row]:
    """Return the rows of ``/v3/reference/splits``."""
    rows: list[Row] = [
        {
            "id": _id("split", split.ticker, split.execution_date),
            "ticker": split.ticker,
            "execution_date": split.execution_date.isoformat(),
            "split_from": split.split_from,
            "split_to": split.split_to,
        }
        for split in source.splits()
    ]
    return [copy for row in rows for copy in ([row, {**row, "id": row["id"] + "2"}] if duplicated else [row])]


def split_rows_v1(source: BarSource, *, duplicated: bool) -> list[Row]:
    """Return the rows of ``/stocks/v1/splits``. The vendor rounds its factor to six decimals."""
    rows = split_rows_v3(source, duplicated=duplicated)
    for row in rows:
        forward = row["split_to"] > row["split_from"]
        day = date.fromisoformat(row["execution_date"])
        row["adjustment_type"] = "forward_split" if forward else "reverse_split"
        row["historical_adjustment_factor"] = round(_factor(source, row["ticker"], day), 6)
    return rows


def dividend_rows_v3(source: BarSource, ticker: str | None) -> list[Row]:
    """Return the rows of ``/v3/reference/dividends``."""
    return [
        {
            "id": _id("dividend", dividend.ticker, dividend.ex_dividend_date),
            "ticker": dividend.ticker,
            "cash_amount": dividend.cash_amount,
            "currency": "USD",
            "declaration_date": (dividend.ex_dividend_date - timedelta(days=11)).isoformat(),
            "dividend_type": "CD",
            "ex_dividend_date": dividend.ex_dividend_date.isoformat(),
            "frequency": dividend.frequency,
            "pay_date": (dividend.ex_dividend_date + timedelta(days=10)).isoformat(),
            "record_date": (dividend.ex_dividend_date + timedelta(days=1)).isoformat(),
        }
        for dividend in source.dividends(ticker)
    ]


def dividend_rows_v1(source: BarSource, ticker: str | None) -> list[Row]:
    """Return the rows of ``/stocks/v1/dividends``, without the vendor's cumulative factor, which needs prices."""
    rows = dividend_rows_v3(source, ticker)
    for row in rows:
        del row["dividend_type"]
        row["distribution_type"] = "recurring"
        later = date.fromisoformat(row["ex_dividend_date"]) + timedelta(days=1)
        row["split_adjusted_cash_amount"] = round(
            row["cash_amount"] * _factor(source, row["ticker"], later), 6
        )
    return rows


def earnings_rows(source: BarSource, today: date) -> list[Row]:
    """Return the rows of ``/benzinga/v1/earnings``, the next report included.

    Stocks report a quarter in the second month after it.
    """
    return [
        _earnings(ticker, year, quarter, today)
        for ticker in source.tickers()
        if source.asset_class(ticker) is AssetClass.STOCK
        for year in range(today.year - 3, today.year + 1)
        for quarter in range(4)
        if _report_date(ticker, year, quarter) <= today + timedelta(days=92)
    ]


def _report_date(ticker: str, year: int, quarter: int) -> date:
    month = 3 * quarter + 5
    day = 5 + hash_of("reported", ticker, year, quarter) % 20
    return date(year + (month > 12), (month - 1) % 12 + 1, day)  # noqa: PLR2004  # December


def _earnings(ticker: str, year: int, quarter: int, today: date) -> Row:
    day = _report_date(ticker, year, quarter)
    expected = round(0.5 + 3 * draw_fraction("eps", ticker) + quarter / 10, 2)
    revenue = round(1e9 + 9e10 * draw_fraction("revenue", ticker))
    row: Row = {
        "benzinga_id": _id("earnings", ticker, year, quarter)[:25],
        "company_name": ticker,
        "currency": "USD",
        "date": day.isoformat(),
        "date_status": "confirmed" if day <= today else "projected",
        "eps_method": "GAAP",
        "estimated_eps": expected,
        "estimated_revenue": revenue,
        "fiscal_period": f"Q{quarter + 1}",
        "fiscal_year": year,
        "importance": 3,
        "last_updated": f"{min(day, today)}T12:00:00Z",
        "previous_eps": round(expected * 0.9, 2),
        "previous_revenue": round(revenue * 0.95),
        "revenue_method": "GAAP",
        "ticker": ticker,
        "time": "20:30:00",
    }
    if day <= today:
        beat = 0.9 + 0.2 * draw_fraction("beat", ticker, year, quarter)
        row |= {"actual_eps": round(expected * beat, 2), "actual_revenue": round(revenue * beat)}
    return row


def _factor(source: BarSource, ticker: str, since: date) -> float:
    """Return the factor of a price before ``since`` for the splits from that date on."""
    return math.prod(
        split.split_from / split.split_to
        for split in source.splits()
        if split.ticker == ticker and split.execution_date >= since
    )


def _id(*parts: object) -> str:
    return "E" + hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


_MARKETS = {
    AssetClass.STOCK: ("stocks", "CS"),
    AssetClass.ETF: ("stocks", "ETF"),
    AssetClass.CRYPTO: ("crypto", None),
    AssetClass.INDEX: ("indices", None),
}


def ticker_rows(source: BarSource, ticker: str | None = None) -> list[Row]:
    """Return the rows of ``/v3/reference/tickers``: of ``ticker``, if it is listed, or of every listed ticker."""
    if ticker is None:
        return [ticker_row(source, listed) for listed in source.tickers()]
    return [ticker_row(source, ticker)] if source.asset_class(ticker) is not None else []


def ticker_row(source: BarSource, ticker: str) -> Row:
    """Return a ticker's row. Raises a 404 refusal when the ticker is not listed."""
    asset_class = source.asset_class(ticker)
    if asset_class is None:
        raise ticker_not_found()
    market, kind = _MARKETS[asset_class]
    row: Row = {"ticker": ticker, "name": ticker, "market": market, "locale": "us", "active": True}
    if kind is not None:
        row |= {"type": kind, "primary_exchange": "XNYS", "currency_name": "usd"}
    return row


def market_now(now: datetime) -> Row:
    """Return the body of ``/v1/marketstatus/now``."""
    calendar = calendar_of(AssetClass.STOCK)
    local = now.astimezone(calendar.timezone)
    session = calendar.session(local.date())
    regular = session is not None and session.regular.contains(now)
    extended = session is not None and session.extended.contains(now) and not regular
    market = "open" if regular else "extended-hours" if extended else "closed"
    return {
        "market": market,
        "earlyHours": extended and session is not None and now < session.regular.start,
        "afterHours": extended and session is not None and now >= session.regular.end,
        "serverTime": local.isoformat(timespec="seconds"),
        "exchanges": {"nyse": market, "nasdaq": market, "otc": market},
        "currencies": {"fx": "open" if local.weekday() < 5 else "closed", "crypto": "open"},  # noqa: PLR2004  # Saturday
    }


def market_upcoming(now: datetime) -> list[Row]:
    """Return the rows of ``/v1/marketstatus/upcoming``: the year's holidays and half days, one row per exchange."""
    calendar = calendar_of(AssetClass.STOCK)
    today = now.astimezone(calendar.timezone).date()
    rows: list[Row] = []
    for day in (today + timedelta(days=n) for n in range(1, 366)):
        session = calendar.session(day)
        if day.weekday() >= 5 or (session and session.regular.duration > timedelta(hours=6)):  # noqa: PLR2004  # Saturday
            continue
        row: Row = {"name": _holiday(day), "date": day.isoformat(), "status": "closed"}
        if session:
            row |= {
                "status": "early-close",
                "open": f"{session.regular.start:%Y-%m-%dT%H:%M:%S.000Z}",
                "close": f"{session.regular.end:%Y-%m-%dT%H:%M:%S.000Z}",
            }
        rows += [{"exchange": exchange, **row} for exchange in ("NYSE", "NASDAQ")]
    return rows


def _holiday(day: date) -> str:
    if day.month == 1:
        return "New Years Day" if day.day <= _NEW_YEAR_LATEST else "Martin Luther King, Jr. Day"
    return _HOLIDAYS.get(day.month, "Holiday")
