"""Checks of whole series: whether each of them is fresh, and complete enough."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import polars as pl
from dagster import (
    AssetCheckEvaluation,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    MetadataValue,
    Output,
    multi_asset_check,
)

from marketdata_assets.config import load_settings
from marketdata_assets.defs.checks.verdict import table_cell
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.completeness import Status, below_threshold
from marketdata_assets.domain.freshness import Freshness
from marketdata_assets.domain.wording import minute_of, name_first
from marketdata_assets.pipeline.freshness import freshness_of, stale_rows
from marketdata_assets.storage.completeness import read_matrix

FRESH: Final = "bars_fresh"
ABOVE_THRESHOLD: Final = "completeness_above_threshold"

_FRESH_DESCRIPTION: Final = """\
Each active series has the bars that the latest daily run (02:00 UTC, six hours to finish) should have fetched, by the
trading calendar: weekends make nothing late, and a backfill of an old day makes nothing fresh. A series without the last
due bar is also fresh if it was requested after its close and its absence is usual for the series. Checks **every active
series**, whatever the run covered. WARN while every stale series is at most one session (or week) late, ERROR beyond; it blocks
nothing.

**What to do:** `not_asked`: check that the schedule ran; `marketdata backfill --days 7` catches up. `failed`: the table
has the error. `silent`: the vendor has no bar where the series usually has one; remove halted or delisted symbols with
`marketdata symbols deactivate`.
"""
_COMPLETENESS_DESCRIPTION: Final = """\
At least 99.5 % (`MARKETDATA_COMPLETENESS_PERCENT`) of the expected bars of each active series are stored or explained
(`no_trades`), over the days that the matrix covers. **Only warns.** Series that were never scanned are counted but do not
fail.

**What to do:** `marketdata gaps --repair` refetches missing bars; `marketdata matrix --html matrix.html` shows the days.
"""
_SHOWN: Final = 50


def freshness_check() -> AssetChecksDefinition:
    """Return the check of ``ohlcv`` that does not need a run of ``ohlcv``."""
    spec = AssetCheckSpec(FRESH, asset="ohlcv", description=_FRESH_DESCRIPTION)

    @multi_asset_check(name="freshness_checks", specs=[spec])
    def freshness_checks(postgres: PostgresResource) -> Iterator[Output[None] | AssetCheckEvaluation]:
        now = datetime.now(UTC)
        with postgres.database() as database:
            freshness = freshness_of(database, now)
        stale = stale_rows(freshness)
        worst = stale["late"].fill_null(2).max()
        is_bad = isinstance(worst, int) and worst > 1
        counts = {
            "series": freshness.height,
            "stale_series": stale.height,
            **{
                state.value: freshness.filter(state=state.value).height
                for state in Freshness
                if state is not Freshness.FRESH
            },
        }
        yield from _series_verdict(
            spec,
            stale,
            counts,
            severity=AssetCheckSeverity.ERROR if is_bad else AssetCheckSeverity.WARN,
            noun="fresh",
            metadata={
                "as_of": MetadataValue.text(f"{now:%Y-%m-%d %H:%M} UTC"),
                "stale": MetadataValue.md(_stale_table(stale)),
            },
        )

    return freshness_checks


def completeness_check() -> AssetChecksDefinition:
    """Return the check of ``completeness_matrix``."""
    spec = AssetCheckSpec(ABOVE_THRESHOLD, asset="completeness_matrix", description=_COMPLETENESS_DESCRIPTION)

    @multi_asset_check(name="completeness_matrix_checks", specs=[spec])
    def completeness_matrix_checks(
        postgres: PostgresResource,
    ) -> Iterator[Output[None] | AssetCheckEvaluation]:
        percent = load_settings().completeness_percent
        with postgres.database() as database:
            matrix = read_matrix(database)
        below = below_threshold(matrix, percent / 100)
        unchecked = matrix.filter(status=Status.UNCHECKED.value).height
        counts = {
            "series": matrix.height - unchecked,
            "series_below": below.height,
            "series_unchecked": unchecked,
            "missing_bars": int(below["missing_bars"].sum()),
        }
        yield from _series_verdict(
            spec,
            below,
            counts,
            severity=AssetCheckSeverity.WARN,
            noun=f"at least {percent:g} % complete",
            aside=f" {unchecked:,} more were never scanned." if unchecked else "",
            metadata={
                "threshold_percent": MetadataValue.float(percent),
                "below": MetadataValue.md(_completeness_table(below)),
            },
        )

    return completeness_matrix_checks


def _series_verdict(
    spec: AssetCheckSpec,
    failing: pl.DataFrame,
    counts: Mapping[str, int],
    *,
    severity: AssetCheckSeverity,
    noun: str,
    metadata: Mapping[str, MetadataValue],
    aside: str = "",
) -> Iterator[Output[None] | AssetCheckEvaluation]:
    """Yield the two events of a check as ``checks.verdict`` does, without enumerating partitions."""
    yield Output(None, output_name=spec.get_python_identifier())
    names = [
        f"{symbol}:{timeframe}" for symbol, timeframe in failing.select("symbol", "timeframe").iter_rows()
    ]
    sentence = (
        f"{len(names):,} of {counts['series']:,} series are not {noun}: {name_first(names, 3)}."
        if names
        else f"All of {counts['series']:,} series are {noun}."
    )
    yield AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=not names,
        severity=severity,
        description=sentence + aside,
        metadata={**{name: MetadataValue.int(count) for name, count in counts.items()}, **metadata},
    )


def _stale_table(stale: pl.DataFrame) -> str:
    rows = [
        (
            f"{symbol}:{timeframe}",
            state,
            "" if late is None else f"{late:,}",
            minute_of(newest),
            minute_of(opens),
            reason,
        )
        for symbol, timeframe, state, late, newest, opens, reason in stale.iter_rows()
    ]
    return _table(("series", "state", "days late", "newest bar (UTC)", "due (UTC)", "why"), "--:---", rows)


def _completeness_table(below: pl.DataFrame) -> str:
    columns = (
        "symbol",
        "timeframe",
        "completeness",
        "missing_bars",
        "expected_bars",
        "first_bar",
        "last_bar",
    )
    rows = [
        (
            f"{symbol}:{timeframe}",
            f"{share:.3%}",
            f"{missing:,}",
            f"{expected:,}",
            "" if first is None else f"{first:%Y-%m-%d}",
            "" if last is None else f"{last:%Y-%m-%d}",
        )
        for symbol, timeframe, share, missing, expected, first, last in below.select(columns).iter_rows()
    ]
    head = ("series", "complete", "missing bars", "expected bars", "first bar", "last bar")
    return _table(head, "-:::--", rows)


def _table(head: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of the first ``rows``; ``alignment`` has a colon for each column of numbers."""
    if not rows:
        return "Nothing is wrong."
    lines = [f"| {' | '.join(map(table_cell, row))} |" for row in rows[:_SHOWN]]
    ruler = "|".join("---:" if mark == ":" else "---" for mark in alignment)
    more = [f"\n… and {len(rows) - _SHOWN:,} more."] if len(rows) > _SHOWN else []
    return "\n".join([f"| {' | '.join(head)} |", f"|{ruler}|", *lines, *more])
