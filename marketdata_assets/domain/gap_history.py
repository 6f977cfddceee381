"""What becomes of known gaps: which were filled, and what newly found ones inherit from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from marketdata_assets.domain.bars import UTC_TIME
from marketdata_assets.domain.gaps import GAP_SCHEMA, find_gaps, slots_in_gaps
from marketdata_assets.domain.slots import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.domain.series import Series
    from marketdata_assets.domain.slots import Slots

KNOWN_SCHEMA: Final = pl.Schema(
    {
        **GAP_SCHEMA,
        "state": pl.String(),
        "attempts": pl.Int32(),
        "failure": pl.String(),
        "reason": pl.String(),
        "detected_at": UTC_TIME,
    }
)
"""Gaps as they are kept: ``state`` is a :class:`~marketdata_assets.domain.gaps.GapState`.

``attempts`` counts re-fetches, ``failure`` says how the vendor failed at the last of them (null when it
answered), ``reason`` explains the state, ``detected_at`` is when the first of its bars was found missing.
"""

_SERIES: Final = ("symbol", "timeframe")


def filled_since(
    known: pl.DataFrame, held: Mapping[Series, Held], expected: Mapping[Series, Slots]
) -> pl.DataFrame:
    """The runs of ``known`` gaps' slots that have a bar now, as :data:`GAP_SCHEMA`."""
    arrived: dict[Series, Held] = {}
    for series, missed in slots_in_gaps(known, expected).items():
        slots = expected[series]
        has_bar = slots.held(held[series].times) if series in held else missed & False
        # Runs of what arrived are the gaps of a series that has everything else.
        arrived[series] = Held(slots.opens[~(missed & has_bar)], None)
    return find_gaps(arrived, expected)


def inherited(gaps: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """``gaps`` (:data:`GAP_SCHEMA`) with attempts, failure and detected_at of the ``known`` ones they overlap.

    A gap that overlaps none has 0 attempts and nulls. One that overlaps several was split or has grown: it
    has their most attempts, the failure of the latest and the earliest detection.
    """
    kept = known.select(*_SERIES, "gap_start", "gap_end", "attempts", "failure", "detected_at")
    ordered = gaps.sort("gap_end")
    latest = ordered.join_asof(
        kept.sort("gap_start").rename({"gap_start": "known_start", "gap_end": "known_end"}),
        left_on="gap_end",
        right_on="known_start",
        by=_SERIES,
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    ).with_columns(overlaps=(pl.col("known_end") > pl.col("gap_start")).fill_null(value=False))
    earliest = latest.sort("gap_start").join_asof(
        kept.select(
            *_SERIES,
            first_start="gap_start",
            first_end="gap_end",
            first_attempts="attempts",
            first_detected="detected_at",
        ).sort("first_end"),
        left_on="gap_start",
        right_on="first_end",
        by=_SERIES,
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    overlaps = pl.col("overlaps")
    return (
        earliest.with_columns(
            attempts=pl.when(overlaps)
            .then(pl.max_horizontal("attempts", "first_attempts"))
            .otherwise(0)
            .cast(pl.Int32),
            failure=pl.when(overlaps).then("failure"),
            detected_at=pl.when(overlaps).then(pl.min_horizontal("detected_at", "first_detected")),
        )
        .select(*gaps.columns, "attempts", "failure", "detected_at")
        .sort(*_SERIES, "gap_start")
    )
