"""A vendor's page of corporate actions: bytes in, a Polars frame and the envelope's facts out.

A value that is missing, or of a type or a form that its column has not, becomes null. Whether a row makes sense is
not decided here: the domain sets it aside.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.polygon.errors import MalformedPageError
from marketdata_assets.polygon.parser import Page, decode

if TYPE_CHECKING:
    from collections.abc import Callable

_FIELDS: Final = {"symbol": "ticker", "vendor_id": "id"}
"""The vendor's names of the columns that have others here; earnings name their id after their source."""
_INT32: Final = range(-(2**31), 2**31)


def parse_actions(kind: ActionKind, body: bytes) -> Page:
    """The page of ``body``, its frame in the schema of ``kind`` and in the vendor's order.

    Raises :class:`MalformedPageError` when it is cut short, not JSON or no list.
    """
    envelope, results = decode(body)
    listed = json.loads(results) if results else []
    if listed is None:
        listed = []
    if not isinstance(listed, list):
        message = "the results of the page are not a list"
        raise MalformedPageError(message)
    rows = [row if isinstance(row, dict) else {} for row in listed]
    fields = _FIELDS | ({"vendor_id": "benzinga_id"} if kind is ActionKind.EARNINGS else {})
    return Page(
        envelope,
        pl.DataFrame(
            {
                name: pl.Series(
                    [_READERS[dtype](row.get(fields.get(name, name))) for row in rows], dtype=dtype
                )
                for name, dtype in SCHEMAS[kind].items()
            }
        ),
    )


def _text(value: Any) -> str | None:  # noqa: ANN401 - any JSON value, here and below
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:  # noqa: ANN401
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and int(number) in _INT32 else None


def _read(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:  # noqa: ANN401
        try:
            return parse(value) if isinstance(value, str) else None
        except ValueError:
            return None

    return read


def _moment(text: str) -> datetime | None:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo is not None else None


_READERS: Final[dict[pl.DataType, Callable[[Any], Any]]] = {
    pl.String(): _text,
    pl.Float64(): _number,
    pl.Int32(): _whole,
    pl.Date(): _read(date.fromisoformat),
    pl.Time(): _read(time.fromisoformat),
    pl.Datetime("us", "UTC"): _read(_moment),
}
