"""Tables as bytes, and back to the bit."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from io import BytesIO

import msgspec
import polars as pl
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.api.formats import ARROW, CSV, JSON, MEDIA_TYPES, PARQUET, Encoded, Table, encode
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets_tests.decoding import decoded

NONE: frozenset[str] = frozenset()
BARS = st.lists(
    st.fixed_dictionaries(
        {
            "symbol": st.just("BRK.B"),
            "timeframe": st.just("1m"),
            "time": st.datetimes(
                datetime.fromisoformat("1970-01-01"),
                datetime.fromisoformat("2100-01-01"),
                timezones=st.just(UTC),
            ),
            **dict.fromkeys(("open", "high", "low", "close"), st.floats(1e-300, 1e300)),
            **dict.fromkeys(("volume", "vwap"), st.none() | st.floats(0, allow_infinity=False)),
            "transactions": st.none() | st.integers(0, 2**62),
            "base_bars": st.integers(1, 1440),
        }
    ),
    max_size=6,
).map(lambda rows: pl.DataFrame(rows, schema=BAR_SCHEMA, orient="row"))


def body_of(answer: Encoded) -> bytes:
    assert answer.body is not None
    return answer.body


@given(BARS, st.sampled_from(MEDIA_TYPES))
def test_every_format_gives_the_frame_back_to_the_bit(bars: pl.DataFrame, media_type: str) -> None:
    back = decoded(body_of(encode(Table(bars), media_type, None, NONE)), media_type, BAR_SCHEMA)
    assert back.schema == bars.schema
    assert_frame_equal(back, bars, check_exact=True)


LONG = pl.DataFrame({"number": range(2000)})


@pytest.mark.parametrize("media_type", [JSON, CSV, ARROW])
def test_compression_is_undone_by_its_name(media_type: str) -> None:
    plain = body_of(encode(Table(LONG), media_type, None, NONE))
    assert gzip.decompress(body_of(encode(Table(LONG), media_type, "gzip", NONE))) == plain
    assert (
        zstandard.ZstdDecompressor().decompress(body_of(encode(Table(LONG), media_type, "zstd", NONE)))
        == plain
    )


def test_what_would_not_shrink_is_sent_as_it_is() -> None:
    assert encode(Table(LONG.head(2)), JSON, "gzip", NONE).encoding is None
    assert encode(Table(LONG), PARQUET, "gzip", NONE).encoding is None


def test_a_tag_changes_with_every_byte_and_only_then() -> None:
    first = encode(Table(LONG), JSON, None, NONE)
    assert encode(Table(LONG), JSON, None, NONE).etag == first.etag
    others = [
        encode(Table(LONG.reverse()), JSON, None, NONE),
        encode(Table(LONG), CSV, None, NONE),
        encode(Table(LONG), JSON, "gzip", NONE),
        encode(Table(LONG, next_cursor="x"), CSV, None, NONE),
    ]
    assert len({first.etag, *(one.etag for one in others)}) == 5


def test_a_known_answer_has_no_body() -> None:
    tag = encode(Table(LONG), ARROW, "zstd", NONE).etag
    assert encode(Table(LONG), ARROW, "zstd", frozenset({'"x"', tag})).body is None
    assert encode(Table(LONG), ARROW, "zstd", frozenset({"*"})).body is None
    assert encode(Table(LONG), ARROW, "gzip", frozenset({tag})).body is not None


def test_json_names_the_facts_and_the_next_page() -> None:
    document = msgspec.json.decode(
        body_of(encode(Table(LONG.head(1), {"symbol": "A"}, "c"), JSON, None, NONE))
    )
    assert document == {"symbol": "A", "next_cursor": "c", "data": [{"number": 0}]}


def test_arrow_needs_no_string_views() -> None:
    import pyarrow as pa  # noqa: PLC0415 - this test alone

    frame = pl.DataFrame({"symbol": ["A"]})
    schema = pa.ipc.open_stream(BytesIO(body_of(encode(Table(frame), ARROW, None, NONE)))).schema
    assert schema.field("symbol").type == pa.large_string()
