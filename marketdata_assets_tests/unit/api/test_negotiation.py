"""What Accept and Accept-Encoding choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.api.negotiation import best_encoding, best_media_type

OFFERED = ("application/json", "application/vnd.apache.arrow.stream", "text/csv")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("Text/CSV; header=present", "text/csv"),
        ("application/json;q=0.5, text/csv", "text/csv"),
        ("text/*;q=0.9, application/json;q=0.8", "text/csv"),
        ("text/*, text/csv;q=0.1, application/json;q=0.5", "application/json"),
        ("*/*;q=0.1, application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("*/*, application/json;q=0", "application/vnd.apache.arrow.stream"),
        ("image/png", None),
        ("application/json;q=0", None),
        ("text/csv;q=nonsense", "application/json"),
    ],
)
def test_the_most_liked_format_is_chosen(accept: str, chosen: str | None) -> None:
    assert best_media_type(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.2", "gzip"),
        ("*", "zstd"),
        ("zstd;q=0, *;q=0.5", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("br", None),
    ],
)
def test_the_most_liked_compression_is_chosen(accepted: str, chosen: str | None) -> None:
    assert best_encoding(accepted, ("zstd", "gzip")) == chosen


@given(st.text())
def test_no_header_is_too_strange(header: str) -> None:
    assert best_media_type(header, OFFERED) in (*OFFERED, None)
    assert best_encoding(header, ("zstd", "gzip")) in ("zstd", "gzip", None)
