"""Frames as bytes: JSON, CSV, Arrow and Parquet, their compression and their entity tags."""

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
"""Compressions, the cheapest first."""

_WORTH_COMPRESSING: Final = 1_000
_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 1
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%S%.fZ"


@dataclass(frozen=True, slots=True)
class Table:
    """What is to be answered.

    Attributes:
        rows: The rows, of any schema.
        facts: What JSON says beside ``data``.
        following: The cursor of the next page; None on the last.
        max_age: For how many seconds a client need not ask again.
        headers: Headers of this answer in every format.
    """

    rows: pl.DataFrame
    facts: Mapping[str, object] = field(default_factory=dict)
    following: str | None = None
    max_age: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer ready to be sent. ``body`` is None when the client has it already."""

    body: bytes | None
    media_type: str
    encoding: str | None
    etag: str
    rows: int
    following: str | None
    max_age: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body or b"")


def encode(table: Table, media_type: str, encoding: str | None, known: frozenset[str]) -> Encoded:
    """``table`` as ``media_type``; without a body when its tag is one of ``known``.

    The tag is strong: a hash of the bytes, so that no clock and no order of commits can make it wrong.
    """
    body = _WRITERS[media_type](table)
    # Parquet is compressed inside.
    if media_type == PARQUET or len(body) < _WORTH_COMPRESSING:
        encoding = None
    digest = hashlib.blake2b(body, digest_size=16)
    digest.update((table.following or "").encode())
    etag = f'"{digest.hexdigest()}{f"-{encoding}" if encoding else ""}"'
    found = etag in known or "*" in known
    return Encoded(
        None if found else _compressed(body, encoding),
        media_type,
        encoding,
        etag,
        table.rows.height,
        table.following,
        table.max_age,
        table.headers,
    )


def _compressed(body: bytes, encoding: str | None) -> bytes:
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    if encoding == "gzip":
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    return body


def _json(table: Table) -> bytes:
    head = msgspec.json.encode({**table.facts, "next_cursor": table.following})
    rows = BytesIO()
    _with_texts(table.rows).write_json(rows)
    return b"".join((head[:-1], b',"data":', rows.getbuffer(), b"}"))


def _csv(table: Table) -> bytes:
    rows = BytesIO()
    _with_texts(table.rows).write_csv(rows)
    return rows.getvalue()


def _with_texts(rows: pl.DataFrame) -> pl.DataFrame:
    """``rows`` with their times in RFC 3339; numbers keep every digit that tells them from their neighbours."""
    times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
    return rows.with_columns(pl.col(times).dt.strftime(_RFC_3339)) if times else rows


def _arrow(table: Table) -> bytes:
    rows = BytesIO()
    # String views, which Polars would write, are unknown to many readers.
    table.rows.write_ipc_stream(rows, compat_level=pl.CompatLevel.oldest())
    return rows.getvalue()


def _parquet(table: Table) -> bytes:
    rows = BytesIO()
    table.rows.write_parquet(rows, compression="zstd", statistics=False)
    return rows.getvalue()


_WRITERS: Final[dict[str, Callable[[Table], bytes]]] = {
    JSON: _json,
    ARROW: _arrow,
    PARQUET: _parquet,
    CSV: _csv,
}

MEDIA_TYPES: Final = tuple(_WRITERS)
"""Formats; the first is what a client gets that does not mind."""


def content(schema: pl.Schema, facts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI description of tables of ``schema`` in every format, ``facts`` beside the rows of JSON."""
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
            "next_cursor": {"type": ["string", "null"], "description": "What to give as `cursor` next."},
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
