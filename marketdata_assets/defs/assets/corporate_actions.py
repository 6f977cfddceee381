"""The ``splits``, ``dividends`` and ``earnings`` assets: what the vendor lists for the tracked stocks and ETFs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import polars as pl
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Failure,
    MaterializeResult,
    MetadataValue,
    asset,
)

from marketdata_assets.defs.assets.fetching import VENDOR_POOL
from marketdata_assets.defs.assets.presentation import ACTIONS_FRESHNESS, OWNERS, columns_of
from marketdata_assets.defs.resources.polygon import PolygonResource
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.actions import DATES, ActionKind, ScreenedActions
from marketdata_assets.pipeline.corporate_actions import refresh_corporate_actions, symbols_with_actions
from marketdata_assets.polygon.errors import EndpointNotFoundError, EntitlementError
from marketdata_assets.polygon.vendor import ListedActions
from marketdata_assets.storage.actions import ActionCounts, count_actions, read_actions
from marketdata_assets.storage.connection import Database

IN_PLAN: Final = "in_plan"
"""Metadata: whether the vendor's plan includes the requested actions."""
NOT_IN_PLAN: Final = "not in your plan"

_WHOLE: Final = """
Each run fetches the whole history of every active stock and ETF, a hundred symbols per request. Unchanged rows are not
touched. A row that the vendor stops listing gets `withdrawn_at`; no row is deleted.
"""

_DESCRIPTIONS: Final = {
    ActionKind.SPLITS: f"""\
Splits of the tracked stocks and ETFs: `split_from` shares become `split_to` at the start of `execution_date`.

`ohlcv_adjusted` and `bars(…, adjusted=True)` apply them to the stored bars on reading.
{_WHOLE}""",
    ActionKind.DIVIDENDS: f"""\
Cash dividends of the tracked stocks and ETFs, per share as of their day. Prices are not adjusted for them.

A run on a plan that does not include them succeeds, stores nothing and says so.
{_WHOLE}""",
    ActionKind.EARNINGS: f"""\
Past and future announcements of results of the tracked stocks: estimates and, once reported, actual figures.

They come from an add-on to the vendor's plan. A run on a plan without it succeeds, stores nothing and says so.
{_WHOLE}""",
}
_SHOWN: Final = 15
_PREVIEW: Final = {
    ActionKind.SPLITS: ("execution_date", "symbol", "split_from", "split_to", "adjustment_type"),
    ActionKind.DIVIDENDS: (
        *("ex_dividend_date", "symbol", "cash_amount", "currency"),
        *("frequency", "distribution_type", "pay_date"),
    ),
    ActionKind.EARNINGS: (
        *("date", "symbol", "fiscal_year", "fiscal_period", "estimated_eps"),
        *("actual_eps", "date_status"),
    ),
}


_SYMBOL: Final = {"symbol": ("text", "AAPL, BRK.B")}
_COLUMNS: Final = {
    ActionKind.SPLITS: {
        **_SYMBOL,
        "execution_date": ("date", "First local day of trading on the new scale"),
        "split_from": ("numeric", "Shares before the split"),
        "split_to": ("numeric", "Shares after the split"),
        "adjustment_type": ("text", "forward_split, reverse_split or stock_dividend"),
        "vendor_id": ("text", "The vendor's identifier of the row"),
    },
    ActionKind.DIVIDENDS: {
        **_SYMBOL,
        "ex_dividend_date": ("date", "First day on which a buyer does not receive the dividend"),
        "cash_amount": ("numeric", "Per share of that day, in currency"),
        "number": ("smallint", "Distinguishes dividends of the same amount and day: 1, 2, …"),
        "currency": ("text", "USD, EUR"),
        "distribution_type": ("text", "recurring, special …: from the current endpoint"),
        "dividend_type": ("text", "CD, SC, LT or ST: from the former endpoint"),
        "frequency": ("integer", "Payments a year; 0 for a single one"),
        "declaration_date": ("date", "When the dividend was declared"),
        "record_date": ("date", "Holders on this day receive the dividend"),
        "pay_date": ("date", "When the dividend is paid"),
        "vendor_id": ("text", "The vendor's identifier of the row"),
    },
    ActionKind.EARNINGS: {
        **_SYMBOL,
        "vendor_id": ("text", "The vendor's identifier of the announcement, kept when it is postponed"),
        "date": ("date", "Of the announcement"),
        "time": ("time", "Of the announcement, UTC"),
        "date_status": ("text", "projected or confirmed"),
        "fiscal_year": ("integer", "Of the results"),
        "fiscal_period": ("text", "Q1 … Q4, H1, FY"),
        "currency": ("text", "USD, EUR"),
        "eps_method": ("text", "GAAP or adj"),
        "actual_eps": ("double precision", "Per share, in currency; null until reported"),
        "estimated_eps": ("double precision", "Per share, in currency"),
        "previous_eps": ("double precision", "Per share, in currency"),
        "revenue_method": ("text", "GAAP or adj"),
        "actual_revenue": ("double precision", "In currency; null until reported"),
        "estimated_revenue": ("double precision", "In currency"),
        "previous_revenue": ("double precision", "In currency"),
        "importance": ("integer", "The vendor's weight, 0 to 5"),
        "last_updated": ("timestamptz", "When the vendor last touched the row"),
    },
}
_SEEN: Final = {
    "first_seen": ("timestamptz", "When the row was first stored"),
    "updated_at": ("timestamptz", "When one of its values last changed"),
    "withdrawn_at": (
        "timestamptz",
        "When the row was first missing from the vendor's list; null while it is listed",
    ),
}


def corporate_action_assets() -> list[AssetsDefinition]:
    """Return the three assets. They have no partitions: each run fetches whole histories."""
    return [_asset_of(kind) for kind in ActionKind]


def _asset_of(kind: ActionKind) -> AssetsDefinition:
    @asset(
        name=kind.value,
        group_name="corporate_actions",
        pool=VENDOR_POOL,
        kinds={"polars", "postgres"},
        description=_DESCRIPTIONS[kind],
        metadata=columns_of(kind.value, {**_COLUMNS[kind], **_SEEN}),
        owners=OWNERS,
        tags={"domain": "corporate-actions", "source": "polygon"},
        freshness_policy=ACTIONS_FRESHNESS,
    )
    def corporate_actions(
        context: AssetExecutionContext, polygon: PolygonResource, postgres: PostgresResource
    ) -> MaterializeResult[None]:
        with postgres.database() as database:
            return _refresh(context, kind, polygon, database)

    return corporate_actions


def _refresh(
    context: AssetExecutionContext, kind: ActionKind, polygon: PolygonResource, database: Database
) -> MaterializeResult[None]:
    symbols = symbols_with_actions(database)
    if not symbols:
        context.log.info("no stock or ETF is tracked: nothing to fetch")
        return MaterializeResult(metadata=_metadata(database, kind, symbols, ActionCounts()))
    try:
        refreshed = refresh_corporate_actions(database, polygon, kind, symbols, now=datetime.now(UTC))
    except (EntitlementError, EndpointNotFoundError) as error:
        if kind is ActionKind.SPLITS:
            raise
        # Prices do not depend on dividends and earnings: a plan without them must not cause a failed run every day.
        context.log.warning("%s: %s (%s)", kind, NOT_IN_PLAN, error)
        return MaterializeResult(
            metadata={
                IN_PLAN: MetadataValue.bool(False),
                "note": MetadataValue.md(f"**{NOT_IN_PLAN}**: {error}"),
            }
        )
    listed, screened, counts = refreshed
    context.log.info(
        "%s of %d symbols from %s: %d inserted, %d changed, %d unchanged, %d withdrawn",
        *(kind, len(symbols), listed.endpoint),
        *(counts.inserted, counts.changed, counts.unchanged, counts.withdrawn),
    )
    if counts.kept:
        context.log.warning(
            "the vendor's list does not reach back to %d stored %s: they are unchanged",
            counts.kept,
            kind,
        )
    metadata = {**_metadata(database, kind, symbols, counts), **_request_metadata(listed)}
    if screened.problems:
        raise _failure(kind, screened, metadata)
    return MaterializeResult(metadata=metadata)


def _failure(kind: ActionKind, screened: ScreenedActions, metadata: Mapping[str, MetadataValue]) -> Failure:
    shown = "; ".join(screened.problems.values())
    return Failure(
        description=f"{shown}: the {kind} of {', '.join(screened.problems)} are unchanged; all others are stored; report it to"
        " the vendor",
        metadata={**metadata, "failed_symbols": MetadataValue.json(list(screened.problems))},
        allow_retries=False,
    )


def _metadata(
    database: Database, kind: ActionKind, symbols: list[str], counts: ActionCounts
) -> dict[str, MetadataValue]:
    return {
        IN_PLAN: MetadataValue.bool(True),
        "dagster/row_count": MetadataValue.int(count_actions(database, kind)),
        "symbols": MetadataValue.int(len(symbols)),
        "rows_inserted": MetadataValue.int(counts.inserted),
        "rows_changed": MetadataValue.int(counts.changed),
        "rows_unchanged": MetadataValue.int(counts.unchanged),
        "rows_withdrawn": MetadataValue.int(counts.withdrawn),
        "latest": MetadataValue.md(_latest(kind, read_actions(database, kind, symbols))),
    }


def _request_metadata(listed: ListedActions) -> dict[str, MetadataValue]:
    return {
        "endpoint": MetadataValue.text(listed.endpoint),
        "rows_fetched": MetadataValue.int(listed.rows.height),
        "requests": MetadataValue.int(listed.requests),
        "retries": MetadataValue.int(listed.retries),
        "seconds_waited_for_limit": MetadataValue.float(round(listed.waited_seconds, 3)),
    }


def _latest(kind: ActionKind, rows: pl.DataFrame) -> str:
    """Return the latest of ``rows`` as a Markdown table; a sentence when there are none."""
    if rows.is_empty():
        return f"No {kind} are listed."
    columns = _PREVIEW[kind]
    lines = [
        f"| {' | '.join('' if value is None else f'{value:g}' if isinstance(value, float) else str(value) for value in row)} |"
        for row in rows.sort(DATES[kind], "symbol", descending=[True, False])
        .head(_SHOWN)
        .select(columns)
        .iter_rows()
    ]
    return "\n".join([f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines])
