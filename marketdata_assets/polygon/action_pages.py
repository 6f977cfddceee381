"""The parser of pages of corporate actions: from bytes to a Polars frame and the envelope's facts.

A missing value becomes null. A value whose type or form does not fit its column becomes null, too, and leaves a fault:
otherwise the null would silently replace a stored number. The parser does not decide whether a row makes sense: the
domain quarantines it.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.polygon.parser import Page, PageRows, decode, read_rows, unreadable_error

if TYPE_CHECKING:
    from collections.abc import Callable

_FIELDS: Final = {"symbol": "ticker", "vendor_id": "id"}
"""The vendor's names of the columns that have another name here; the id of earnings is named after its source."""
_INT32: Final = range(-(2**31), 2**31)
_SHOWN: Final = 40


def parse_actions(kind: ActionKind, body: bytes) -> Page:
    """Parse the page in ``body``, with a frame in the schema of ``kind`` and in the vendor's order.

    The faults of its rows name a field and the vendor's value. Raises :class:`MalformedPageError` when the body is
    truncated, not JSON or not a list.
    """
    envelope, results = decode(body)
    try:
        listed = read_rows(results) if results not in (b"", b"null") else []
    except (ValueError, RecursionError) as error:
        raise unreadable_error(body, error) from None
    rows = [row if isinstance(row, dict) else {} for row in listed]
    names = _FIELDS | ({"vendor_id": "benzinga_id"} if kind is ActionKind.EARNINGS else {})
    columns: dict[str, pl.Series] = {}
    faults: dict[int, str] = {}
    for name, dtype in SCHEMAS[kind].items():
        key = names.get(name, name)
        given = [row.get(key) for row in rows]
        values = [_READERS[dtype](value) for value in given]
        for at, (value, read) in enumerate(zip(given, values, strict=True)):
            if read is None and value not in (None, ""):
                faults.setdefault(at, f"{key} {_show(value)}")
        columns[name] = pl.Series(values, dtype=dtype)
    return Page(envelope, pl.DataFrame(columns), PageRows(results, faults))


def _show(value: Any) -> str:  # noqa: ANN401 - any JSON value, here and below
    # As JSON, on one line: quotes distinguish a text from a number.
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _text(value: Any) -> str | None:  # noqa: ANN401
    if isinstance(value, int) and not isinstance(value, bool):
        # The vendor numbers some of its requests; it may number rows.
        return str(value)
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


def _reader_of(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
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
    pl.Date(): _reader_of(date.fromisoformat),
    pl.Time(): _reader_of(time.fromisoformat),
    pl.Datetime("us", "UTC"): _reader_of(_moment),
}
