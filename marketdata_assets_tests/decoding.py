"""Answers of the API back into frames, as a client does it."""

from __future__ import annotations

from io import BytesIO

import msgspec
import polars as pl

from marketdata_assets.api.formats import ARROW, JSON, PARQUET


def decoded(body: bytes, media_type: str, schema: pl.Schema) -> pl.DataFrame:
    """The rows of ``body``; text formats carry no types, ``schema`` has them."""
    if media_type == ARROW:
        return pl.read_ipc_stream(BytesIO(body))
    if media_type == PARQUET:
        return pl.read_parquet(BytesIO(body))
    texts = pl.Schema({name: pl.String() if dtype.is_temporal() else dtype for name, dtype in schema.items()})
    if media_type == JSON:
        rows = pl.DataFrame(msgspec.json.decode(body)["data"], schema=texts, orient="row")
    else:
        rows = pl.read_csv(BytesIO(body), schema=texts)
    times = [name for name, dtype in schema.items() if isinstance(dtype, pl.Datetime)]
    days = [name for name, dtype in schema.items() if isinstance(dtype, pl.Date)]
    return rows.with_columns(
        pl.col(days).str.to_date(),
        pl.col(times).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC"),
    ).cast(schema)
