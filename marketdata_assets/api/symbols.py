"""Routes of the tracked symbols: readers list them, admins change them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from marketdata_assets.api.guard import READ, WRITE, GuardedRoute
from marketdata_assets.api.parameters import (
    NewSymbol,
    StoredSeries,
    Symbol,
    SymbolDetails,
    SymbolFacts,
    Symbols,
    SymbolsQuery,
    Timeframes,
)
from marketdata_assets.api.problems import responses
from marketdata_assets.api.service import service_of
from marketdata_assets.domain.series import parse_symbol
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.bars import bars_by_series
from marketdata_assets.storage.symbols import (
    Outcome,
    TrackedSymbol,
    WantedSymbol,
    add_symbols,
    deactivate,
    find_symbol,
    list_symbols,
    set_timeframes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from marketdata_assets.storage.connection import Database

router = APIRouter(prefix="/api/v1", route_class=GuardedRoute)

_SymbolPath = Annotated[Symbol, Path(description="`AAPL`, `BRK.B`, `BTC-USD`.")]


@router.get(
    "/symbols",
    summary="The tracked symbols",
    response_model=Symbols,
    responses=responses(422),
    openapi_extra=READ,
)
async def list_(request: Request, query: Annotated[SymbolsQuery, Query()]) -> Symbols:
    """Return the tracked symbols in the order in which they were added."""
    tracked = await service_of(request).run(
        request, lambda database: list_symbols(database, active_only=query.active)
    )
    return Symbols(data=[SymbolFacts(**symbol.facts) for symbol in tracked])


@router.post(
    "/symbols",
    summary="Collect a symbol",
    response_model=SymbolFacts,
    responses={
        201: {"model": SymbolFacts, "description": "The symbol was not tracked before"},
        **responses(400, 403, 409, 413, 422),
    },
    openapi_extra=WRITE,
)
async def add(request: Request, response: Response, wanted: Annotated[NewSymbol, Body()]) -> SymbolFacts:
    """Start collecting a symbol, or resume a deactivated one, as `marketdata symbols add` does."""
    tracked, is_new = await service_of(request).run(request, lambda database: _add(database, wanted))
    response.status_code = 201 if is_new else 200
    return SymbolFacts(**tracked.facts)


@router.get(
    "/admin/symbols/{symbol}",
    summary="A symbol, and how many of its bars are stored",
    response_model=SymbolDetails,
    responses=responses(404, 422),
    openapi_extra=READ,
)
async def details(request: Request, symbol: _SymbolPath) -> SymbolDetails:
    """Return how a symbol is collected, and how many of its bars are stored in each timeframe."""
    return await service_of(request).run(request, lambda database: _details(database, parse_symbol(symbol)))


@router.put(
    "/admin/symbols/{symbol}/timeframes",
    summary="Change the timeframes of a symbol",
    response_model=SymbolFacts,
    responses=responses(400, 403, 404, 413, 422),
    openapi_extra=WRITE,
)
async def put_timeframes(
    request: Request, symbol: _SymbolPath, wanted: Annotated[Timeframes, Body()]
) -> SymbolFacts:
    """Change the timeframes in which a symbol is collected, as `marketdata symbols set-timeframes` does. Bars stay."""

    def work(database: Database) -> TrackedSymbol:
        return set_timeframes(database, parse_symbol(symbol), _sort_timeframes(wanted.timeframes))

    return SymbolFacts.model_validate((await service_of(request).run(request, work)).facts)


@router.delete(
    "/admin/symbols/{symbol}",
    summary="Stop collecting a symbol",
    response_model=SymbolFacts,
    responses=responses(403, 404, 422),
    openapi_extra=WRITE,
)
async def remove(request: Request, symbol: _SymbolPath) -> SymbolFacts:
    """Deactivate a symbol, as `marketdata symbols deactivate` does. Its bars stay; POST resumes collecting."""

    def work(database: Database) -> TrackedSymbol:
        (stopped,) = deactivate(database, parse_symbol(symbol))
        return stopped

    return SymbolFacts.model_validate((await service_of(request).run(request, work)).facts)


def _add(database: Database, requested: NewSymbol) -> tuple[TrackedSymbol, bool]:
    wanted = WantedSymbol(
        parse_symbol(requested.symbol),
        requested.asset_class,
        requested.name,
        _sort_timeframes(requested.timeframes) if requested.timeframes else None,
    )
    ((tracked, outcome),) = add_symbols(database, [wanted], is_careful=not requested.confirmed)
    return tracked, outcome is Outcome.NEW


def _details(database: Database, name: str) -> SymbolDetails:
    tracked = find_symbol(database, name)
    counts = bars_by_series(database)
    stored = [
        StoredSeries(timeframe=series.timeframe, bars=bars)
        for series, bars in sorted(counts.items(), key=lambda item: item[0].timeframe.duration)
        if series.symbol == tracked.symbol and bars
    ]
    return SymbolDetails(**tracked.facts, stored=stored)


def _sort_timeframes(timeframes: Iterable[Timeframe]) -> tuple[Timeframe, ...]:
    chosen = set(timeframes)
    return tuple(timeframe for timeframe in Timeframe if timeframe in chosen)
