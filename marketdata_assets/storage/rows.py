"""Typed rows: the result of a statement as values of a given class.

Each row is the result of calling ``row`` with the columns of the statement, in their order. ``row`` is a class (``int``,
a ``NamedTuple``, a dataclass) or a function. A ``timestamptz`` arrives as an aware time in UTC.

Belongs here: the type of a session, running a statement, and turning rows into values.
Does not belong here: statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

import psycopg
from psycopg.rows import TupleRow, args_row

from marketdata_assets.domain.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg.abc import QueryNoTemplate

Session: TypeAlias = psycopg.Connection[TupleRow]
"""A connection to the market database, as a transaction passes it to its work."""

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
    """Return every row of ``statement``, each as the value that ``row`` makes of its columns."""
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
    """Return the first row of ``statement`` as :func:`fetch` does; None when the result is empty."""
    with session.cursor(row_factory=args_row(row)) as cursor:
        return cursor.execute(statement, arguments, prepare=prepare).fetchone()


def by_series(row: Callable[..., T]) -> Callable[..., tuple[Series, T]]:
    """Return a function that makes pairs of rows that begin with a series' key.

    A pair is the series and the value that ``row`` makes of the other columns.
    """

    def make(symbol: str, timeframe: str, *others: object) -> tuple[Series, T]:
        return Series.of(symbol, timeframe), row(*others)

    return make


def grouped(pairs: Iterable[tuple[Key, T]]) -> dict[Key, list[T]]:
    """Return the values of ``pairs`` by key, in the order of ``pairs``."""
    groups: dict[Key, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def moment(value: datetime) -> datetime:
    """Return ``value`` unchanged: the ``row`` of a time that is never null."""
    return value


def moment_or_none(value: datetime | None) -> datetime | None:
    """Return ``value`` unchanged: the ``row`` of a time that may be null."""
    return value


def key_columns(series: Iterable[Series]) -> list[list[str]]:
    """Return the symbols and the timeframes of ``series``, as two arrays that a statement unnests."""
    wanted = list(series)
    return [[item.symbol for item in wanted], [item.timeframe.value for item in wanted]]


def columns(rows: Iterable[Iterable[object]]) -> list[list[object]]:
    """Turn ``rows``, at least one, into an array for each column, for a statement to unnest."""
    return [list(column) for column in zip(*rows, strict=True)]
