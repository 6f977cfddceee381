"""Routes of bars and features."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response

from marketdata_assets.api import cursors
from marketdata_assets.api.formats import Table, content
from marketdata_assets.api.guard import READ, GuardedRoute
from marketdata_assets.api.parameters import BarsQuery, CandlesQuery, SeriesQuery, Symbol, arguments_of
from marketdata_assets.api.problems import Problem, responses
from marketdata_assets.api.service import answer
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of, microseconds, moment_of
from marketdata_assets.domain.coverage import CORRECTION_SESSIONS
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA
from marketdata_assets.domain.holes import LostGaps
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.queries import (
    BarPage,
    BarQuestion,
    parse_edge,
    read_bars,
    read_features,
    window_of,
)

if TYPE_CHECKING:
    import polars as pl

    from marketdata_assets.domain.holes import Holes
    from marketdata_assets.domain.series import AssetClass, Series
    from marketdata_assets.domain.windows import Window
    from marketdata_assets.storage.connection import Database

router = APIRouter(prefix="/api/v1", route_class=GuardedRoute)

_DEFAULT_RANGE: Final = timedelta(days=30)
_MAX_INTRADAY: Final = timedelta(days=5 * 366)
_MAX_DAILY: Final = timedelta(days=100 * 366)
_MICROSECOND: Final = timedelta(microseconds=1)

_CLOSED_SECONDS: Final = 300
"""The age of closed bars: repairs, longer histories, retention and new splits still change what daily runs no longer do."""
_OPEN_SECONDS: Final = {
    Timeframe.M1: 5,
    Timeframe.M5: 15,
    Timeframe.M15: 30,
    Timeframe.M30: 60,
    Timeframe.H1: 60,
    Timeframe.H4: 300,
    Timeframe.D1: 300,
    Timeframe.W1: 300,
}

_SERIES_FACTS: Final[dict[str, Any]] = {
    "symbol": {"type": "string"},
    "timeframe": {"type": "string", "enum": [timeframe.value for timeframe in Timeframe]},
}
_BAR_FACTS: Final[dict[str, Any]] = {
    **_SERIES_FACTS,
    "adjusted": {"type": "boolean", "description": "Whether the prices are on the scale of `as_of`."},
    "as_of": {"type": ["string", "null"], "format": "date"},
}
_OK: Final = "One page, sorted by time"

INCOMPLETE: Final = "Marketdata-Incomplete"
_INCOMPLETE: Final[dict[str, Any]] = {
    INCOMPLETE: {
        "description": (
            "Present only when bars are missing that may be fetched: `never-fetched` days, days `removed` by retention,"
            " or `lost` bars. A list (RFC 9651) with `first`, `last`, counts, and in `do` the command for the server's"
            " operator."
        ),
        "schema": {"type": "string"},
    }
}

_SymbolPath = Annotated[Symbol, Path(description="`AAPL`, `BRK.B`, `BTC-USD`.")]


@router.get(
    "/historical/{symbol}",
    summary="Bars of a range",
    response_model=None,
    responses={
        200: {"description": _OK, "headers": _INCOMPLETE, "content": content(BAR_SCHEMA, _BAR_FACTS)},
        304: {"description": "The client has it already"},
        **responses(404, 406, 409, 422),
    },
    openapi_extra=READ,
)
async def historical(request: Request, symbol: _SymbolPath, query: Annotated[BarsQuery, Query()]) -> Response:
    """Return the stored bars that open between `start` and `end`, sorted by time, as `bars()` does in Python."""
    fingerprint = cursors.query_fingerprint("historical", {"of": symbol, **arguments_of(query)})
    start, end, cursor = _range(query, fingerprint)
    scale = query.as_of if cursor is None else cursor.scale
    _check_scale(query)
    requested = BarQuestion(
        symbol,
        query.timeframe,
        start,
        end,
        query.adjusted,
        scale,
        regular_hours=query.regular_hours,
    )

    def work(database: Database) -> Table:
        page = read_bars(database, requested, limit=query.limit + 1)
        _require_within(query, cursor, page.asset_class)
        splits = _splits_fingerprint(page)
        if cursor is not None and cursor.splits != splits:
            raise Problem(
                409,
                "scale-changed",
                f"the splits of {page.series.symbol} have changed since the earlier pages, whose prices are now on"
                " another scale: start again without a cursor",
            )
        next_cursor = _next_cursor(
            page.bars, page.window, query.limit, fingerprint, scale=page.scale, splits=splits
        )
        return Table(
            page.bars.head(query.limit),
            _bar_facts(page.series, page.scale),
            next_cursor,
            _max_age(page.bars.head(query.limit), page.window, page.asset_class, page.series, next_cursor),
            incomplete_header(page.holes),
        )

    return await answer(request, work, max_rows=query.limit)


@router.get(
    "/assets/{symbol}/candles",
    summary="The latest bars",
    response_model=None,
    responses={
        200: {
            "description": "Sorted by time, the latest bar last",
            "headers": _INCOMPLETE,
            "content": content(BAR_SCHEMA, _BAR_FACTS),
        },
        304: {"description": "The client has it already"},
        **responses(404, 406, 409, 422),
    },
    openapi_extra=READ,
)
async def candles(request: Request, symbol: _SymbolPath, query: Annotated[CandlesQuery, Query()]) -> Response:
    """Return the last `limit` stored bars, however long ago they opened."""
    now = datetime.now(UTC)
    _check_scale(query)
    requested = BarQuestion(
        symbol,
        query.timeframe,
        None,
        now + timedelta(days=1),
        query.adjusted,
        query.as_of,
        regular_hours=query.regular_hours,
    )

    def work(database: Database) -> Table:
        page = read_bars(database, requested, limit=query.limit, newest=True)
        return Table(
            page.bars,
            _bar_facts(page.series, page.scale),
            max_age=_OPEN_SECONDS[page.series.timeframe],
            headers=incomplete_header(page.holes),
        )

    return await answer(request, work, max_rows=query.limit)


@router.get(
    "/features/{symbol}",
    summary="Features of a range",
    response_model=None,
    responses={
        200: {"description": _OK, "headers": _INCOMPLETE, "content": content(FEATURES_SCHEMA, _SERIES_FACTS)},
        304: {"description": "The client has it already"},
        **responses(404, 406, 422),
    },
    openapi_extra=READ,
)
async def features(request: Request, symbol: _SymbolPath, query: Annotated[SeriesQuery, Query()]) -> Response:
    """Return the stored features of the bars that open between `start` and `end`, as `features()` does in Python."""
    fingerprint = cursors.query_fingerprint("features", {"of": symbol, **arguments_of(query)})
    start, end, cursor = _range(query, fingerprint)
    requested = BarQuestion(symbol, query.timeframe, start, end, regular_hours=query.regular_hours)

    def work(database: Database) -> Table:
        page = read_features(database, requested, limit=query.limit + 1)
        _require_within(query, cursor, page.asset_class)
        next_cursor = _next_cursor(page.features, page.window, query.limit, fingerprint)
        rows = page.features.head(query.limit)
        return Table(
            rows,
            _series_facts(page.series),
            next_cursor,
            _max_age(rows, page.window, page.asset_class, page.series, next_cursor),
            incomplete_header(page.holes),
        )

    return await answer(request, work, max_rows=query.limit)


def _check_scale(query: BarsQuery | CandlesQuery) -> None:
    if query.as_of is not None and not query.adjusted:
        raise Problem(
            422,
            "invalid-argument",
            "`as_of` chooses the scale of adjusted prices: leave it out, or leave out `adjusted=false`",
        )


def incomplete_header(holes: Holes) -> dict[str, str]:
    """Return the header that names ``holes``; no header when there are none."""
    parts = []
    for name, hole in (
        ("never-fetched", holes.never_fetched),
        ("removed", holes.removed),
        ("lost", holes.lost),
    ):
        if hole is not None:
            counts = (
                f"bars={hole.bars};gaps={hole.gaps}" if isinstance(hole, LostGaps) else f"days={hole.count}"
            )
            parts.append(f'{name};first="{hole.first}";last="{hole.last}";{counts}')
    if not parts:
        return {}
    described = [f'{part};do="{command}"' for part, (_, command) in zip(parts, holes.remedies(), strict=True)]
    return {INCOMPLETE: ", ".join(described)}


def _splits_fingerprint(page: BarPage) -> str | None:
    """Return a hash of the splits of ``page``, equal on pages of one scale; None for prices as traded."""
    if page.splits is None or page.scale is None:
        return None
    return cursors.splits_fingerprint(page.splits.iter_rows(), page.scale)


def _range(
    query: SeriesQuery | BarsQuery, fingerprint: str
) -> tuple[date | datetime, date | datetime, cursors.SeriesCursor | None]:
    """Return the edges of the range that is left to read, and the cursor of ``query``, None on the first page."""
    if query.cursor is not None:
        cursor = cursors.decode(query.cursor, cursors.SeriesCursor, fingerprint)
        start, end = moment_of(cursor.last) + _MICROSECOND, moment_of(cursor.end)
        if start >= end:
            raise cursors.not_a_cursor()
        return start, end, cursor
    first, last = _edges(query, datetime.now(UTC))
    longest = _MAX_INTRADAY if query.timeframe.is_intraday else _MAX_DAILY
    if _day_of(last) - _day_of(first) > longest:
        raise Problem(
            422,
            "range-too-long",
            f"a range of {query.timeframe} bars may span {longest.days:,} days at most: request parts of it",
        )
    return first, last, None


def _edges(query: SeriesQuery | BarsQuery, now: datetime) -> tuple[date | datetime, date | datetime]:
    """Return the edges of the range of ``query``, defaults included."""
    last = now if query.end is None else parse_edge("end", query.end)
    return _default_start(last) if query.start is None else parse_edge("start", query.start), last


def _require_within(
    query: SeriesQuery | BarsQuery, cursor: cursors.SeriesCursor | None, asset_class: AssetClass
) -> None:
    """Raise :class:`Problem` for a ``cursor`` that leads out of the range of ``query``: such a cursor was forged."""
    if cursor is None:
        return
    # The end of the first page: "now" at that time, when the request has no end.
    end = moment_of(cursor.end)
    requested = window_of(*_edges(query, end), calendar_of(asset_class))
    if moment_of(cursor.last) < requested.start or end > requested.end:
        raise cursors.not_a_cursor()


def _default_start(last: date | datetime) -> date | datetime:
    try:
        return last - _DEFAULT_RANGE
    except OverflowError:
        raise Problem(422, "invalid-argument", f"no date lies before {last}: give a later end") from None


def _day_of(edge: date | datetime) -> date:
    return edge.date() if isinstance(edge, datetime) else edge


def _next_cursor(
    rows: pl.DataFrame,
    window: Window,
    limit: int,
    fingerprint: str,
    *,
    scale: date | None = None,
    splits: str | None = None,
) -> str | None:
    """Return the cursor after the first ``limit`` of ``rows``; None when there are no more rows."""
    if rows.height <= limit:
        return None
    last, end = microseconds(rows["time"][limit - 1]), microseconds(window.end)
    return cursors.encode(cursors.SeriesCursor(fingerprint, last, end, scale, splits))


def _max_age(
    rows: pl.DataFrame, window: Window, asset_class: AssetClass, series: Series, next_cursor: str | None
) -> int:
    """Return the seconds for which a client may reuse a page."""
    end = window.end if next_cursor is None else rows["time"][-1]
    final_before = calendar_of(asset_class).final_before(datetime.now(UTC), CORRECTION_SESSIONS)
    return _CLOSED_SECONDS if end <= final_before else _OPEN_SECONDS[series.timeframe]


def _series_facts(series: Series) -> dict[str, object]:
    return {"symbol": series.symbol, "timeframe": series.timeframe.value}


def _bar_facts(series: Series, scale: date | None) -> dict[str, object]:
    return {**_series_facts(series), "adjusted": scale is not None, "as_of": scale}
