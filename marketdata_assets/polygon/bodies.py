"""The bodies of the vendor's answers, unpacked as they arrive and never larger than a page can be."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from marketdata_assets.polygon.errors import MalformedPageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

BODY_LIMIT: Final = 32 * 2**20
"""The largest unpacked body, in bytes. A full page of bars has 6 MB, a full page of earnings 25 MB."""

_PLAIN: Final = frozenset({"", "identity"})
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_SHOWN: Final = 40


async def read_body(chunks: AsyncIterable[bytes], encoding: str) -> bytes:
    """Return the body that arrives in ``chunks``, unpacked by ``encoding``, the answer's ``Content-Encoding``.

    Raises :class:`MalformedPageError` when the body is larger than :data:`BODY_LIMIT` or cannot be unpacked. Gzip can
    expand one byte to a thousand, so the size is measured during unpacking, not afterwards.
    """
    body = bytearray()
    if encoding in _PLAIN:
        async for chunk in chunks:
            body += chunk
            _check_size(body)
        return bytes(body)
    if encoding not in _GZIP:
        message = f"the body is in the encoding {encoding[:_SHOWN]!r}, which was not requested"
        raise MalformedPageError(message)
    unpacker = zlib.decompressobj(_GZIP_BITS)
    arrived = False
    try:
        async for chunk in chunks:
            arrived = arrived or bool(chunk)
            unpacker = _unpack(unpacker, chunk, body)
    except zlib.error as error:
        message = f"the compressed body cannot be unpacked: {error}"
        raise MalformedPageError(message) from None
    if arrived and not unpacker.eof:
        message = "the compressed body is truncated"
        raise MalformedPageError(message)
    return bytes(body)


def _unpack(unpacker: zlib._Decompress, chunk: bytes, body: bytearray) -> zlib._Decompress:
    """Append the unpacked ``chunk`` to ``body``, and return the unpacker for the next chunk."""
    while chunk:
        if unpacker.eof:
            # Another member of the same gzip file.
            unpacker = zlib.decompressobj(_GZIP_BITS)
        body += unpacker.decompress(chunk, BODY_LIMIT + 1 - len(body))
        _check_size(body)
        chunk = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    return unpacker


def _check_size(body: bytearray) -> None:
    if len(body) > BODY_LIMIT:
        message = f"the body is larger than {BODY_LIMIT:,} bytes, the largest size of a page"
        raise MalformedPageError(message)
