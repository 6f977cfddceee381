"""Rows with types: what a statement answers, as values of the class that is asked for.

A row is made by calling ``row`` with the columns of the statement, in their order: a class (``int``, a ``NamedTuple``,
a dataclass) or a function. A ``timestamptz`` arrives as an aware time in UTC.

Belongs here: the type of a session, running a statement, and making values of rows.
Does not belong here: statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

import psycopg
from psycopg.rows import TupleRow, args_row

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg.abc import QueryNoTemplate

Session: TypeAlias = psycopg.Connection[TupleRow]
"""A connection to the market database, as a transaction hands it to its work."""

T = TypeVar("T")
Key = TypeVar("Key")


def fetch(
    session: Session,
    statement: QueryNoTemplate,
    arguments: Sequence[object] | Mapping[str, object] | None = None,
    *,
    row: Callable[..., T],
    prepare: bool | None = None,
) -> list[T]:
    """Return every row that ``statement`` answers, each as what ``row`` makes of its columns."""
    with session.cursor(row_factory=args_row(row)) as cursor:
        return cursor.execute(statement, arguments, prepare=prepare).fetchall()


def fetch_one(
    session: Session,
    statement: QueryNoTemplate,
    arguments: Sequence[object] | Mapping[str, object] | None = None,
    *,
    row: Callable[..., T],
    prepare: bool | None = None,
) -> T | None:
    """Return the first row that ``statement`` answers as :func:`fetch` does; None when it answers none."""
    with session.cursor(row_factory=args_row(row)) as cursor:
        return cursor.execute(statement, arguments, prepare=prepare).fetchone()


def series_of(symbol: str, timeframe: str) -> Series:
    """Make the series of a row that begins with its key."""
    return Series(symbol, Timeframe(timeframe))


def by_series(row: Callable[..., T]) -> Callable[..., tuple[Series, T]]:
    """Make pairs of rows that begin with a series' key: the series, and what ``row`` makes of the other columns."""

    def make(symbol: str, timeframe: str, *others: object) -> tuple[Series, T]:
        return series_of(symbol, timeframe), row(*others)

    return make


def grouped(pairs: Iterable[tuple[Key, T]]) -> dict[Key, list[T]]:
    """Return the second halves of ``pairs`` by their first, in their order."""
    groups: dict[Key, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def moment(value: datetime) -> datetime:
    """Return a time that is never null, as it is."""
    return value


def moment_or_none(value: datetime | None) -> datetime | None:
    """Return a time that may be null, as it is."""
    return value


def key_columns(series: Iterable[Series]) -> list[list[str]]:
    """Return the symbols and the timeframes of ``series``, as two arrays that a statement unnests."""
    wanted = list(series)
    return [[item.symbol for item in wanted], [item.timeframe.value for item in wanted]]


def columns(rows: Iterable[Iterable[object]]) -> list[list[object]]:
    """Turn ``rows``, of which there is at least one, into one array for each column, for a statement to unnest."""
    return [list(column) for column in zip(*rows, strict=True)]
