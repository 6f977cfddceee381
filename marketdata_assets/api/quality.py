"""Routes of gaps and completeness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from marketdata_assets.api import cursors
from marketdata_assets.api.formats import Table, content
from marketdata_assets.api.guard import READ, GuardedRoute
from marketdata_assets.api.parameters import CompletenessQuery, GapsQuery, arguments_of
from marketdata_assets.api.problems import responses
from marketdata_assets.api.service import answer
from marketdata_assets.domain.calendar import microseconds, moment_of
from marketdata_assets.queries import read_completeness, read_gaps
from marketdata_assets.storage.completeness import MATRIX_SCHEMA
from marketdata_assets.storage.gaps import LISTED_SCHEMA

if TYPE_CHECKING:
    from marketdata_assets.storage.connection import Database


class _ListRoute(GuardedRoute):
    repeatable = frozenset({"symbol", "timeframe", "state"})


router = APIRouter(prefix="/api/v1", route_class=_ListRoute)

_SECONDS: Final = 60


@router.get(
    "/gaps",
    summary="Missing bars, and why they are missing",
    response_model=None,
    responses={
        200: {
            "description": "One page, sorted by symbol, timeframe and gap_start",
            "content": content(LISTED_SCHEMA, {}),
        },
        304: {"description": "The client has it already"},
        **responses(404, 406, 422),
    },
    openapi_extra=READ,
)
async def gaps(request: Request, query: Annotated[GapsQuery, Query()]) -> Response:
    """Return the known gaps that reach into a range, as `gaps()` does in Python."""
    fingerprint = cursors.query_fingerprint("gaps", arguments_of(query))
    after = None
    if query.cursor is not None:
        cursor = cursors.decode(query.cursor, cursors.GapCursor, fingerprint)
        after = (cursor.symbol, cursor.timeframe, moment_of(cursor.start))

    def work(database: Database) -> Table:
        rows = read_gaps(
            database,
            query.symbol,
            query.timeframe,
            query.start,
            query.end,
            states=[state.value for state in query.state],
            after=after,
            limit=query.limit + 1,
        )
        next_cursor = None
        if rows.height > query.limit:
            last = rows.row(query.limit - 1, named=True)
            key = (last["symbol"], last["timeframe"], microseconds(last["gap_start"]))
            next_cursor = cursors.encode(cursors.GapCursor(fingerprint, *key))
        return Table(rows.head(query.limit), {}, next_cursor, _SECONDS)

    return await answer(request, work, max_rows=query.limit)


@router.get(
    "/completeness",
    summary="How complete each series is",
    response_model=None,
    responses={
        200: {
            "description": "One row for each series, in the order of the symbols",
            "content": content(MATRIX_SCHEMA, {}),
        },
        304: {"description": "The client has it already"},
        **responses(404, 406, 422),
    },
    openapi_extra=READ,
)
async def completeness(request: Request, query: Annotated[CompletenessQuery, Query()]) -> Response:
    """Return how complete each active series was when the matrix was last updated: what `completeness()` returns in Python."""
    return await answer(
        request,
        lambda database: Table(read_completeness(database, query.symbol, query.timeframe), max_age=_SECONDS),
    )
