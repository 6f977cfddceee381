"""Corporate actions: splits, dividends and earnings, and when the vendor's list of them can be relied on."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

import polars as pl

from marketdata_assets.domain.adjust import SPLIT_SCHEMA, changes_scale
from marketdata_assets.domain.bars import UTC_TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class ActionKind(StrEnum):
    """A kind of corporate action. The value names both its asset and its table."""

    SPLITS = "splits"
    DIVIDENDS = "dividends"
    EARNINGS = "earnings"


SCHEMAS: Final = {
    ActionKind.SPLITS: pl.Schema(
        {**SPLIT_SCHEMA, "adjustment_type": pl.String(), "vendor_id": pl.String()},
    ),
    ActionKind.DIVIDENDS: pl.Schema(
        {
            "symbol": pl.String(),
            "ex_dividend_date": pl.Date(),
            "cash_amount": pl.Float64(),
            "currency": pl.String(),
            "distribution_type": pl.String(),
            "dividend_type": pl.String(),
            "frequency": pl.Int32(),
            "declaration_date": pl.Date(),
            "record_date": pl.Date(),
            "pay_date": pl.Date(),
            "vendor_id": pl.String(),
        }
    ),
    ActionKind.EARNINGS: pl.Schema(
        {
            "symbol": pl.String(),
            "vendor_id": pl.String(),
            "date": pl.Date(),
            "time": pl.Time(),
            "date_status": pl.String(),
            "fiscal_year": pl.Int32(),
            "fiscal_period": pl.String(),
            "currency": pl.String(),
            "eps_method": pl.String(),
            "actual_eps": pl.Float64(),
            "estimated_eps": pl.Float64(),
            "previous_eps": pl.Float64(),
            "revenue_method": pl.String(),
            "actual_revenue": pl.Float64(),
            "estimated_revenue": pl.Float64(),
            "previous_revenue": pl.Float64(),
            "importance": pl.Int32(),
            "last_updated": UTC_TIME,
        }
    ),
}
"""The columns of each kind. Dates are local to the exchange; ``time`` is a time of that date, in UTC.

``cash_amount`` is per share as of its date, not adjusted for splits; ``frequency`` is the number of payments a year;
``last_updated`` is when the vendor last changed the row. Values that the vendor leaves out are null.
"""

NUMBER: Final = "number"
"""The column of stored dividends that distinguishes those of one amount and day."""

KEYS: Final = {
    ActionKind.SPLITS: ("symbol", "execution_date"),
    ActionKind.DIVIDENDS: ("symbol", "ex_dividend_date", "cash_amount", NUMBER),
    ActionKind.EARNINGS: ("symbol", "vendor_id"),
}
"""The columns whose values no two stored rows of a kind share."""

FACTS: Final = {
    **KEYS,
    ActionKind.DIVIDENDS: (
        *("symbol", "ex_dividend_date", "cash_amount"),
        *("currency", "distribution_type", "dividend_type"),
    ),
}
"""The columns whose values two rows of a list share when they are one action listed twice.

They hold the vendor's id only where other facts do not suffice: the vendor has listed one split, and one dividend, under
two ids.
"""

DATES: Final = {
    ActionKind.SPLITS: "execution_date",
    ActionKind.DIVIDENDS: "ex_dividend_date",
    ActionKind.EARNINGS: "date",
}
"""The column with the date of an action, by kind."""

_EVERY_PLAN_REACHES: Final = timedelta(days=2 * 365)
"""The history of splits and dividends in the vendor's smallest plan: two years (its documentation, "Plan History")."""


class ScreenedActions(NamedTuple):
    """The vendor's list, divided by whether the rows of a symbol are sound."""

    rows: pl.DataFrame
    """The schema of the kind, one row per :data:`FACTS`, sorted by them; without the symbols in ``problems``."""
    problems: dict[str, str]
    """What is wrong with the list of each symbol that is left out, in one line."""


def screen_actions(kind: ActionKind, listed: pl.DataFrame, symbols: Collection[str]) -> ScreenedActions:
    """Select what can be stored of ``listed`` (the schema of ``kind``) for ``symbols``; rows of others are left out.

    Of rows with the same :data:`FACTS`, the one that was updated last counts, else the one with the smallest id. A symbol
    is left out when one of its rows lacks a date, an amount or an id, or has an impossible ratio or amount, or when two
    splits of one date have different ratios: half of a list would be taken for all of it. A split that changes nothing
    (1 to 1) contradicts no other, and is dropped for a split of the same day that changes prices.
    """
    of_symbols = listed.filter(pl.col("symbol").is_in(list(symbols)))
    problems: dict[str, str] = {}
    broken = of_symbols.filter(~_is_sound(kind).fill_null(value=False))
    for row in broken.iter_rows(named=True):
        facts = ", ".join(f"{name} {row[name]}" for name in _required(kind))
        problems.setdefault(row["symbol"], f"{row['symbol']} has one of its {kind} listed with {facts}")
    if kind is ActionKind.SPLITS:
        for symbol, message in _find_contradictions(
            of_symbols.filter(_is_sound(kind) & changes_scale())
        ).items():
            problems.setdefault(symbol, message)
    order = {
        ActionKind.SPLITS: [~changes_scale(), pl.col("vendor_id")],
        ActionKind.DIVIDENDS: [pl.col("vendor_id")],
        ActionKind.EARNINGS: [-pl.col("last_updated").to_physical(), pl.col("vendor_id")],
    }[kind]
    rows = (
        of_symbols.filter(~pl.col("symbol").is_in(list(problems)))
        .sort(order, nulls_last=True)
        .unique(FACTS[kind], keep="first", maintain_order=True)
        .sort(FACTS[kind])
    )
    return ScreenedActions(rows, problems)


def number_dividends(listed: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Return ``listed`` with :data:`NUMBER`: the number of the stored row that is the same dividend, else a free number.

    Most amounts are paid once on a day: then the listed and the stored row are the same dividend, whatever else was
    corrected. Of several, a listed row is the stored one with the same id, else with the same currency and kind, else one
    that currency and kind do not exclude: the vendor's two endpoints name kinds differently.

    Args:
        listed: The schema of dividends, one row per :data:`FACTS`.
        stored: :data:`FACTS`, ``vendor_id`` and :data:`NUMBER` of every stored dividend of those symbols, withdrawn dividends
            included.
    """
    amount = FACTS[ActionKind.DIVIDENDS][:3]
    known: dict[tuple[object, ...], list[_Dividend]] = defaultdict(list)
    for *key, currency, distribution, dividend, vendor_id, number in stored.select(
        *FACTS[ActionKind.DIVIDENDS], "vendor_id", NUMBER
    ).iter_rows():
        known[tuple(key)].append(_Dividend(vendor_id, currency, (distribution, dividend), number))
    groups: dict[tuple[object, ...], list[_Dividend]] = defaultdict(list)
    for row, (*facts, currency, distribution, dividend, vendor_id) in enumerate(
        listed.select(*FACTS[ActionKind.DIVIDENDS], "vendor_id").iter_rows()
    ):
        groups[tuple(facts)].append(_Dividend(vendor_id, currency, (distribution, dividend), row))
    numbers = [0] * listed.height
    for paid, rows in groups.items():
        for row, number in _pair(rows, sorted(known[paid], key=lambda dividend: dividend.position)):
            numbers[row] = number
    return listed.with_columns(pl.Series(NUMBER, numbers, dtype=pl.Int16)).sort(*amount, NUMBER)


class _Dividend(NamedTuple):
    vendor_id: str | None
    currency: str | None
    kinds: tuple[str | None, str | None]
    """The kind as the current endpoint names it, and as the former endpoint does."""
    position: int
    """The number of a stored row, the index of a listed one."""


def _pair(listed: Sequence[_Dividend], stored: Sequence[_Dividend]) -> list[tuple[int, int]]:
    """Pair the position of each listed dividend with its number, the surest pairs first."""
    tests: list[Callable[[_Dividend, _Dividend], bool]] = [
        lambda new, old: new.vendor_id is not None and new.vendor_id == old.vendor_id,
        lambda new, old: (new.currency, new.kinds) == (old.currency, old.kinds),
        lambda new, old: new.currency == old.currency and _may_be(new.kinds, old.kinds),
        lambda new, old: new.currency == old.currency or None in (new.currency, old.currency),
        lambda _, __: True,
    ]
    waiting, free, pairs = list(listed), list(stored), []
    for is_same in tests:
        for new in list(waiting):
            old = next((old for old in free if is_same(new, old)), None)
            if old is not None:
                pairs.append((new.position, old.position))
                waiting.remove(new)
                free.remove(old)
    taken = {old.position for old in stored}
    unused = (number for number in count(1) if number not in taken)
    return [*pairs, *((new.position, next(unused)) for new in waiting)]


def _may_be(new: tuple[str | None, str | None], old: tuple[str | None, str | None]) -> bool:
    """Whether two rows can be one dividend by their kinds, which both endpoints or one of them gave."""
    if any(kind is not None and kind == other for kind, other in zip(new, old, strict=True)):
        return True
    if any(None not in pair for pair in zip(new, old, strict=True)):
        return False
    # The endpoints use different words: special of the current one is mostly SC of the former.
    special = [{"special", "SC"} & set(kinds) for kinds in (new, old)]
    return bool(special[0]) == bool(special[1])


def _required(kind: ActionKind) -> tuple[str, ...]:
    """Return the columns that :func:`_is_sound` reads, besides the symbol."""
    return {
        ActionKind.SPLITS: ("execution_date", "split_from", "split_to"),
        ActionKind.DIVIDENDS: ("ex_dividend_date", "cash_amount"),
        ActionKind.EARNINGS: ("vendor_id", "date"),
    }[kind]


def _is_sound(kind: ActionKind) -> pl.Expr:
    given = [pl.col(name).is_not_null() for name in _required(kind)]
    if kind is ActionKind.SPLITS:
        given += [pl.col(name).is_finite() & (pl.col(name) > 0) for name in ("split_from", "split_to")]
    elif kind is ActionKind.DIVIDENDS:
        given.append(pl.col("cash_amount").is_finite() & (pl.col("cash_amount") >= 0))
    return pl.all_horizontal(given)


def _find_contradictions(splits: pl.DataFrame) -> dict[str, str]:
    ratios: dict[tuple[str, date], Fraction] = {}
    found: dict[str, str] = {}
    for symbol, day, before, after in splits.select(SPLIT_SCHEMA.names()).iter_rows():
        ratio = Fraction(str(before)) / Fraction(str(after))
        if ratios.setdefault((symbol, day), ratio) != ratio:
            found.setdefault(symbol, f"{symbol} has two splits with different ratios listed for {day}")
    return found


def reach_of(kind: ActionKind, listed: pl.DataFrame, today: date) -> date | None:
    """Return the date from which on a list is complete: a later action that is not in the list is withdrawn.

    A plan with a shorter history lists fewer actions, which does not withdraw the others: a list reaches back to its own
    earliest row, and that of every plan at least two years before ``today``. None for an empty list, which proves nothing.
    """
    earliest = listed[DATES[kind]].min()
    return min(earliest, today - _EVERY_PLAN_REACHES) if isinstance(earliest, date) else None
