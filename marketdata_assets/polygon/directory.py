"""The parser of pages of the vendor's directory of tickers: from bytes to tickers and the envelope's facts."""

from __future__ import annotations

import json
from typing import Final

import polars as pl

from marketdata_assets.polygon.errors import MalformedPageError
from marketdata_assets.polygon.parser import Page, decode, unreadable_error

PATH: Final = "/v3/reference/tickers"
"""The path of the directory, which lists either the active tickers or the delisted ones."""


def parse_directory(body: bytes) -> Page:
    """Read the tickers of ``body`` into a frame with the column ``ticker``, in the vendor's order.

    Raises :class:`MalformedPageError` when the body is truncated, not JSON or not a list.
    """
    envelope, results = decode(body)
    try:
        listed = json.loads(results) if results else []
    except (ValueError, RecursionError) as error:
        raise unreadable_error(body, error) from None
    if listed is None:
        listed = []
    if not isinstance(listed, list):
        message = "the results of the page are not a list"
        raise MalformedPageError(message)
    tickers = [row.get("ticker") for row in listed if isinstance(row, dict)]
    named = [ticker for ticker in tickers if isinstance(ticker, str)]
    return Page(envelope, pl.DataFrame({"ticker": named}, schema={"ticker": pl.String()}))
