"""Frames as bytes: JSON, CSV, Arrow and Parquet, with their compression and their entity tags."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"
CSV: Final = "text/csv"

ENCODINGS: Final = ("zstd", "gzip")
"""The supported compressions, the cheapest first."""

_WORTH_COMPRESSING: Final = 1_000
_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 1
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%S%.fZ"


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a response.

    Attributes:
        rows: The rows, of any schema.
        facts: The fields that JSON has beside ``data``.
        next_cursor: The cursor of the next page; None on the last.
        max_age: The seconds for which a client may reuse the response.
        headers: The headers of this response in every format.
    """

    rows: pl.DataFrame
    facts: Mapping[str, object] = field(default_factory=dict)
    next_cursor: str | None = None
    max_age: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response ready to be sent. ``body`` is None when the client has it already."""

    body: bytes | None
    media_type: str
    encoding: str | None
    etag: str
    rows: int
    next_cursor: str | None
    max_age: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The bytes of the body."""
        return len(self.body or b"")


def encode(table: Table, media_type: str, encoding: str | None, known: frozenset[str]) -> Encoded:
    """Encode ``table`` as ``media_type``; without a body when its entity tag is one of ``known``.

    The tag is strong: it is a hash of the bytes, so that no clock and no order of commits can make it wrong.
    """
    body = _WRITERS[media_type](table)
    # Parquet files are compressed inside.
    if media_type == PARQUET or len(body) < _WORTH_COMPRESSING:
        encoding = None
    digest = hashlib.blake2b(body, digest_size=16)
    digest.update((table.next_cursor or "").encode())
    etag = f'"{digest.hexdigest()}{f"-{encoding}" if encoding else ""}"'
    found = etag in known or "*" in known
    return Encoded(
        None if found else _compress(body, encoding),
        media_type,
        encoding,
        etag,
        table.rows.height,
        table.next_cursor,
        table.max_age,
        table.headers,
    )


def _compress(body: bytes, encoding: str | None) -> bytes:
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    if encoding == "gzip":
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    return body


def _write_json(table: Table) -> bytes:
    head = msgspec.json.encode({**table.facts, "next_cursor": table.next_cursor})
    rows = BytesIO()
    _format_times(table.rows).write_json(rows)
    return b"".join((head[:-1], b',"data":', rows.getbuffer(), b"}"))


def _write_csv(table: Table) -> bytes:
    rows = BytesIO()
    _format_times(table.rows).write_csv(rows)
    return rows.getvalue()


def _format_times(rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``rows`` with their times as RFC 3339 text; numbers keep every digit that they need to be read back."""
    times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
    return rows.with_columns(pl.col(times).dt.strftime(_RFC_3339)) if times else rows


def _write_arrow(table: Table) -> bytes:
    rows = BytesIO()
    # Many readers do not know string views, which Polars writes by default.
    table.rows.write_ipc_stream(rows, compat_level=pl.CompatLevel.oldest())
    return rows.getvalue()


def _write_parquet(table: Table) -> bytes:
    rows = BytesIO()
    table.rows.write_parquet(rows, compression="zstd", statistics=False)
    return rows.getvalue()


_WRITERS: Final[dict[str, Callable[[Table], bytes]]] = {
    JSON: _write_json,
    ARROW: _write_arrow,
    PARQUET: _write_parquet,
    CSV: _write_csv,
}

MEDIA_TYPES: Final = tuple(_WRITERS)
"""The supported formats; a client without a preference gets the first."""


def content(schema: pl.Schema, facts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the OpenAPI description of tables of ``schema`` in every format; JSON has ``facts`` beside its rows."""
    row = {
        "type": "object",
        "required": schema.names(),
        "properties": {name: _json_schema(name, dtype) for name, dtype in schema.items()},
        "additionalProperties": False,
    }
    document = {
        "type": "object",
        "required": [*facts, "next_cursor", "data"],
        "properties": {
            **facts,
            "next_cursor": {"type": ["string", "null"], "description": "The `cursor` of the next page."},
            "data": {"type": "array", "items": row},
        },
        "additionalProperties": False,
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {JSON: {"schema": document}, ARROW: binary, PARQUET: binary, CSV: {"schema": {"type": "string"}}}


_REQUIRED: Final = ("symbol", "timeframe", "time")


def _json_schema(name: str, dtype: pl.DataType) -> dict[str, Any]:
    found: dict[str, Any]
    if isinstance(dtype, pl.Datetime):
        found = {"type": "string", "format": "date-time"}
    elif isinstance(dtype, pl.Date):
        found = {"type": "string", "format": "date"}
    elif dtype.is_integer():
        found = {"type": "integer"}
    elif dtype.is_float():
        found = {"type": "number"}
    elif isinstance(dtype, pl.Boolean):
        found = {"type": "boolean"}
    else:
        found = {"type": "string"}
    return found if name in _REQUIRED else {**found, "type": [found["type"], "null"]}
