"""A vendor's page of bars: bytes in, a Polars frame and the envelope's facts out.

Rows are never touched one by one in Python unless a page holds a value of the wrong type. Whether a bar is
valid is not decided here: a missing value becomes null, a value that its column cannot hold becomes null and leaves
the name of a rule, and the domain's rules set the row aside.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl

from marketdata_assets.domain.bars import LARGEST_COUNT, UTC_TIME, VENDOR_SCHEMA
from marketdata_assets.polygon.errors import MalformedPageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_ROWS: Final = 200_000
"""Rows in one page above which it is not the vendor's: four times the largest page that is ever asked for."""

_FIELDS = {
    "t": "time",
    "o": "open",
    "h": "high",
    "l": "low",
    "c": "close",
    "v": "volume",
    "vw": "vwap",
    "n": "transactions",
}
_TICKER = {"T": "ticker"}
# Whole numbers are read as floating ones, too: Polars would cut their fractions off without a word.
_JSON_SCHEMA = pl.Schema(dict.fromkeys(_FIELDS, pl.Float64))
# A time outside these is no bar's, and Python's datetimes could not hold the furthest: it becomes null.
_TIMES = (0, 4_102_444_800_000)  # 1970 to 2100, in milliseconds
_TIME = (
    # In microseconds, so that a fraction of a millisecond stays one and is off the grid.
    (pl.when(pl.col("t").is_between(*_TIMES)).then("t") * 1_000)
    .round()
    .cast(pl.Int64)
    .cast(UTC_TIME)
    .alias("time")
)
_TRANSACTIONS = (
    pl.when((pl.col("n") == pl.col("n").floor()) & (pl.col("n").abs() <= LARGEST_COUNT))
    .then("n")
    .cast(pl.Int64)
    .alias("transactions")
)
_VALUES = tuple(pl.col(key).alias(name) for key, name in _FIELDS.items() if key not in ("t", "n"))
# A text or a cursor that is longer is not one of the vendor's.
_LONGEST_FACT = 16_384
_LONGEST_NUMBER = 400


class _Envelope(msgspec.Struct):
    # Kept as bytes: a fact that is not what it should be costs nothing, and the rows are Polars' to parse.
    status: msgspec.Raw = msgspec.Raw(b"")
    request_id: msgspec.Raw = msgspec.Raw(b"")
    ticker: msgspec.Raw = msgspec.Raw(b"")
    adjusted: msgspec.Raw = msgspec.Raw(b"")
    next_url: msgspec.Raw = msgspec.Raw(b"")
    query_count: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="queryCount")
    results_count: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="resultsCount")
    count: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")
    results: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a body says about itself. Texts are the vendor's, unscrubbed.

    ``base_bars`` is the vendor's ``queryCount``: stored base bars read, not bars returned. ``rows`` are its
    ``resultsCount`` and ``count``, those of them that it gives. ``problem`` is its ``error`` or ``message``.
    """

    status: str | None
    request_id: str | None
    ticker: str | None
    is_adjusted: bool
    next_url: str | None
    base_bars: int | None
    rows: tuple[int, ...]
    problem: str | None


@dataclass(frozen=True, slots=True)
class PageRows:
    """The rows of a page as the vendor wrote them.

    Attributes:
        results: The list of rows, in the bytes that arrived.
        faults: By position, the rule (``READING_RULES``) that a row broke while it was read.
    """

    results: bytes = b""
    faults: Mapping[int, str] = field(default_factory=dict)

    def texts(self, positions: Sequence[int]) -> list[str | None]:
        """The vendor's text of the rows at ``positions``; None where there is none that is JSON in UTF-8."""
        if not positions or not self.results:
            return [None] * len(positions)
        try:
            rows = msgspec.json.decode(self.results, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, RecursionError):
            return [None] * len(positions)
        return [_json_text(bytes(rows[at])) if at < len(rows) else None for at in positions]


def _json_text(row: bytes) -> str | None:
    try:
        text = row.decode()
        json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return None
    return text


@dataclass(frozen=True, slots=True)
class Page:
    """One page of bars: ``frame`` has the domain's ``VENDOR_SCHEMA``, in the vendor's order.

    A page of many tickers has the column ``ticker`` before them, null where a row names none.
    """

    envelope: Envelope
    frame: pl.DataFrame
    rows: PageRows = field(default_factory=PageRows)


def parse_page(body: bytes) -> Page:
    """The page of bars in ``body``; raises :class:`MalformedPageError` when it is cut short or not JSON."""
    return _page(body, of_many=False)


def parse_day(body: bytes) -> Page:
    """The page of one day of many tickers in ``body``; raises :class:`MalformedPageError` as :func:`parse_page`."""
    return _page(body, of_many=True)


def _page(body: bytes, *, of_many: bool) -> Page:
    envelope, results = decode(body)
    try:
        frame, faults = _bars(results, of_many=of_many)
    except (ValueError, RecursionError) as error:
        raise unreadable(body, error) from None
    return Page(envelope, frame, PageRows(results, faults))


def parse_envelope(body: bytes) -> Envelope:
    """The facts around the results, whatever the results hold; raises :class:`MalformedPageError`."""
    return decode(body)[0]


def decode(body: bytes) -> tuple[Envelope, bytes]:
    """The envelope of ``body`` and its results as JSON, empty when absent; raises :class:`MalformedPageError`."""
    try:
        if not body.isascii():
            body.decode()
        raw = _DECODER.decode(body)
        return _envelope_of(raw), bytes(raw.results)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(body, error) from None


def _envelope_of(raw: _Envelope) -> Envelope:
    return Envelope(
        status=_text(_fact(raw.status)),
        # The reference endpoints give an integer (docs/vendor.md, "Corporate actions").
        request_id=_text(_fact(raw.request_id)),
        ticker=_text(_fact(raw.ticker)),
        is_adjusted=_fact(raw.adjusted) in (True, "true"),
        next_url=_text(_fact(raw.next_url)),
        base_bars=_count(_fact(raw.query_count)),
        rows=tuple(
            count for one in (raw.results_count, raw.count) if (count := _count(_fact(one))) is not None
        ),
        problem=_text(_fact(raw.error)) or _text(_fact(raw.message)),
    )


_DECODER = msgspec.json.Decoder(_Envelope)


def unreadable(body: bytes, error: Exception) -> MalformedPageError:
    """What becomes of ``error``, which reading ``body`` raised."""
    if isinstance(error, RecursionError):
        what = "it is nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        what = f"byte {body[error.start : error.start + 1].hex() or '?'} is not UTF-8"
    else:
        what = str(error)
    return MalformedPageError(f"the body of {len(body):,} bytes is not a whole JSON page: {what}")


def _fact(raw: msgspec.Raw) -> Any:  # noqa: ANN401 - the vendor may send any JSON value here
    if not 0 < len(memoryview(raw)) <= _LONGEST_FACT:
        return None
    return msgspec.json.decode(raw)


def _text(value: Any) -> str | None:  # noqa: ANN401 - as above
    return str(value) if isinstance(value, str | int) and str(value) else None


def _count(value: Any) -> int | None:  # noqa: ANN401 - as above
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _bars(results: bytes, *, of_many: bool) -> tuple[pl.DataFrame, dict[int, str]]:
    """The rows of ``results``, each with its ticker when they are ``of_many``, and by position what reading them broke."""
    names = _TICKER if of_many else {}
    if results in (b"", b"null"):
        return pl.DataFrame(schema={**dict.fromkeys(names.values(), pl.String()), **VENDOR_SCHEMA}), {}
    _check_list(results)
    truths = results.count(b"true") + results.count(b"false")
    if truths and truths > results.count(b'"otc"'):
        # Polars would read a truth value as 0 or 1; "otc" is the only field that has one.
        rows, faults = _lenient(results, names)
    else:
        schema = pl.Schema({**dict.fromkeys(names, pl.String()), **_JSON_SCHEMA})
        try:
            # The fastest exact reader measured for 50,000 bars: 30 ms against 50 for dicts (benchmarks).
            rows, faults = pl.read_json(results, schema=schema), {}
        except pl.exceptions.PolarsError:
            rows, faults = _lenient(results, names)
    tickers = [pl.col(key).alias(name) for key, name in names.items()]
    frame = rows.select(*tickers, _TIME, *_VALUES, _TRANSACTIONS)
    if frame["transactions"].null_count() > rows["n"].null_count():
        lost = rows["n"].is_not_null() & frame["transactions"].is_null()
        for at in lost.arg_true():
            is_large = not abs(rows["n"][at]) <= LARGEST_COUNT
            faults.setdefault(at, "transactions_too_large" if is_large else "transactions_not_whole")
    return frame, faults


def _lenient(results: bytes, names: Mapping[str, str]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Rows in which some value has a type that no bar has: such a value becomes null, the row stays.

    The fields of ``names`` are texts.
    """
    # The standard library reads any number, where msgspec and Polars refuse one that is out of range.
    rows = [row if isinstance(row, dict) else {} for row in read_rows(results)]
    texts = {key: [text if isinstance(text := row.get(key), str) else None for row in rows] for key in names}
    frame = pl.DataFrame(
        {key: pl.Series(values, dtype=pl.String) for key, values in texts.items()}
        | {key: pl.Series([_number(row.get(key)) for row in rows], dtype=pl.Float64) for key in _JSON_SCHEMA}
    )
    faults = {
        at: "wrong_type"
        for at, row in enumerate(rows)
        if any(row.get(key) is not None and _number(row[key]) is None for key in _JSON_SCHEMA)
    }
    return frame, faults


def _check_list(results: bytes) -> None:
    if not results.startswith(b"["):
        message = "the results of the page are not a list"
        raise MalformedPageError(message)
    if (found := results.count(b"{")) > MOST_ROWS:
        raise _too_many(found)


def _too_many(rows: int) -> MalformedPageError:
    return MalformedPageError(f"the page holds {rows:,} rows, more than any that was asked for")


def read_rows(results: bytes) -> list[Any]:
    """The rows of ``results``, a list as JSON, as Python's values; raises :class:`MalformedPageError`.

    A body that is not JSON after all raises what the standard library raises (see :func:`unreadable`).
    """
    _check_list(results)
    rows: list[Any] = json.loads(results, parse_int=_parse_int)
    if len(rows) > MOST_ROWS:
        raise _too_many(len(rows))
    return rows


def _parse_int(digits: str) -> float:
    return (
        int(digits) if len(digits) <= _LONGEST_NUMBER else (-math.inf if digits.startswith("-") else math.inf)
    )


def _number(value: Any) -> float | None:  # noqa: ANN401 - any JSON value
    """``value`` as a floating number, infinite when it is beyond the largest; None when it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
