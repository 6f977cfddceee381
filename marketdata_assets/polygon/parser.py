"""The parser of pages of bars: from bytes to a Polars frame and the envelope's facts.

The parser does not loop over rows in Python unless a page contains a value of the wrong type, and does not decide
whether a bar is valid: a missing value becomes null, a value that does not fit its column becomes null and leaves the
name of a rule, and the domain quarantines the row.
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
"""The number of rows above which a page is malformed: four times the largest page that is ever requested."""

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
# Integers are read as floats, too: Polars would silently cut off a fraction.
_JSON_SCHEMA = pl.Schema(dict.fromkeys(_FIELDS, pl.Float64))
# A time outside these bounds becomes null: it is not of a bar, and may not fit in a Python datetime.
_TIMES = (0, 4_102_444_800_000)  # 1970 to 2100, in milliseconds
_TIME = (
    # In microseconds, so that a fraction of a millisecond is kept and is off the grid.
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
# The vendor sends no longer texts or cursors.
_LONGEST_FACT = 16_384
_LONGEST_NUMBER = 400


class _Envelope(msgspec.Struct):
    # Kept as bytes: a fact of a wrong type then does no harm, and Polars parses the rows.
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
    """The facts of a body. Texts are as the vendor wrote them, and may contain the key.

    ``base_bars`` is the vendor's ``queryCount``: the number of base bars read, not of bars returned. ``rows`` are
    ``resultsCount`` and ``count``, as far as the vendor gives them. ``problem`` is ``error`` or ``message``.
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
        results: The list of rows, as the bytes that arrived.
        faults: The rule (``READING_RULES``) that a row broke when it was read, by position.
    """

    results: bytes = b""
    faults: Mapping[int, str] = field(default_factory=dict)

    def texts(self, positions: Sequence[int]) -> list[str | None]:
        """Return the vendor's text of the rows at ``positions``; None for a row that is absent or not JSON in UTF-8."""
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

    The frame of a page of many tickers begins with the column ``ticker``, null for a row without a ticker.
    """

    envelope: Envelope
    frame: pl.DataFrame
    rows: PageRows = field(default_factory=PageRows)


def parse_page(body: bytes) -> Page:
    """Parse the page of bars in ``body``. Raises :class:`MalformedPageError` when it is truncated or not JSON."""
    return _parse(body, of_many=False)


def parse_day(body: bytes) -> Page:
    """Parse the page of one day of many tickers in ``body``. Raises :class:`MalformedPageError` as :func:`parse_page`."""
    return _parse(body, of_many=True)


def _parse(body: bytes, *, of_many: bool) -> Page:
    envelope, results = decode(body)
    try:
        frame, faults = _parse_rows(results, of_many=of_many)
    except (ValueError, RecursionError) as error:
        raise unreadable_error(body, error) from None
    return Page(envelope, frame, PageRows(results, faults))


def parse_envelope(body: bytes) -> Envelope:
    """Parse the facts around the results, whatever the results contain. Raises :class:`MalformedPageError`."""
    return decode(body)[0]


def decode(body: bytes) -> tuple[Envelope, bytes]:
    """Return the envelope of ``body``, and its results as JSON, empty when absent. Raises :class:`MalformedPageError`."""
    try:
        if not body.isascii():
            body.decode()
        raw = _DECODER.decode(body)
        return _envelope_of(raw), bytes(raw.results)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable_error(body, error) from None


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
            count for fact in (raw.results_count, raw.count) if (count := _count(_fact(fact))) is not None
        ),
        problem=_text(_fact(raw.error)) or _text(_fact(raw.message)),
    )


_DECODER = msgspec.json.Decoder(_Envelope)


def unreadable_error(body: bytes, error: Exception) -> MalformedPageError:
    """Return the error that replaces ``error``, which was raised while ``body`` was read."""
    if isinstance(error, RecursionError):
        what = "it is nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        what = f"byte {body[error.start : error.start + 1].hex() or '?'} is not UTF-8"
    else:
        what = str(error)
    return MalformedPageError(f"the body of {len(body):,} bytes is not a complete JSON page: {what}")


def _fact(raw: msgspec.Raw) -> Any:  # noqa: ANN401 - the vendor may send any JSON value here
    if not 0 < len(memoryview(raw)) <= _LONGEST_FACT:
        return None
    return msgspec.json.decode(raw)


def _text(value: Any) -> str | None:  # noqa: ANN401 - as above
    return str(value) if isinstance(value, str | int) and str(value) else None


def _count(value: Any) -> int | None:  # noqa: ANN401 - as above
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _parse_rows(results: bytes, *, of_many: bool) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return the rows of ``results``, with their tickers when ``of_many``, and the rules that they broke by position."""
    names = _TICKER if of_many else {}
    if results in (b"", b"null"):
        return pl.DataFrame(schema={**dict.fromkeys(names.values(), pl.String()), **VENDOR_SCHEMA}), {}
    _check_list(results)
    truths = results.count(b"true") + results.count(b"false")
    if truths and truths > results.count(b'"otc"'):
        # Polars would read a boolean as 0 or 1; "otc" is the only boolean field.
        rows, faults = _read_leniently(results, names)
    else:
        schema = pl.Schema({**dict.fromkeys(names, pl.String()), **_JSON_SCHEMA})
        try:
            # The fastest exact reader measured for 50,000 bars: 30 ms against 50 for dicts (benchmarks).
            rows, faults = pl.read_json(results, schema=schema), {}
        except pl.exceptions.PolarsError:
            rows, faults = _read_leniently(results, names)
    tickers = [pl.col(key).alias(name) for key, name in names.items()]
    frame = rows.select(*tickers, _TIME, *_VALUES, _TRANSACTIONS)
    if frame["transactions"].null_count() > rows["n"].null_count():
        lost = rows["n"].is_not_null() & frame["transactions"].is_null()
        for at in lost.arg_true():
            is_large = not abs(rows["n"][at]) <= LARGEST_COUNT
            faults.setdefault(at, "transactions_too_large" if is_large else "transactions_not_whole")
    return frame, faults


def _read_leniently(results: bytes, names: Mapping[str, str]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read rows with a value of a wrong type: such a value becomes null, the row is kept.

    The fields of ``names`` are texts.
    """
    # The standard library reads any number; msgspec and Polars reject one that is out of range.
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
        raise _too_many_rows_error(found)


def _too_many_rows_error(rows: int) -> MalformedPageError:
    return MalformedPageError(f"the page has {rows:,} rows, more than any page that was requested")


def read_rows(results: bytes) -> list[Any]:
    """Read the rows of ``results``, a JSON list, as Python values. Raises :class:`MalformedPageError`.

    Invalid JSON raises the standard library's errors (see :func:`unreadable_error`).
    """
    _check_list(results)
    rows: list[Any] = json.loads(results, parse_int=_parse_int)
    if len(rows) > MOST_ROWS:
        raise _too_many_rows_error(len(rows))
    return rows


def _parse_int(digits: str) -> float:
    return (
        int(digits) if len(digits) <= _LONGEST_NUMBER else (-math.inf if digits.startswith("-") else math.inf)
    )


def _number(value: Any) -> float | None:  # noqa: ANN401 - any JSON value
    """Return ``value`` as a float, infinite when it is too large for a float; None when it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
