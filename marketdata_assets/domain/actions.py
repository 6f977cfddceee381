"""Corporate actions: splits, dividends and earnings, and when a vendor's list of them can be relied on."""

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
    """A kind of corporate action. The value is the name of its asset and of its table."""

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
"""The columns of each kind. Dates are local to the exchange; ``time`` is UTC's on that date.

``cash_amount`` is per share of its own time, ``frequency`` how often a year it is paid; ``last_updated`` is when the
vendor last touched the row. What the vendor leaves out is null.
"""

NUMBER: Final = "number"
"""The column of stored dividends that tells those of one amount and day apart."""

KEYS: Final = {
    ActionKind.SPLITS: ("symbol", "execution_date"),
    ActionKind.DIVIDENDS: ("symbol", "ex_dividend_date", "cash_amount", NUMBER),
    ActionKind.EARNINGS: ("symbol", "vendor_id"),
}
"""What no two stored rows of a kind share."""

FACTS: Final = {
    **KEYS,
    ActionKind.DIVIDENDS: (
        *("symbol", "ex_dividend_date", "cash_amount"),
        *("currency", "distribution_type", "dividend_type"),
    ),
}
"""What two rows of a list share when they are one action listed twice.

Not the vendor's id where the facts suffice: it has listed one split, and one dividend, under two.
"""

DATES: Final = {
    ActionKind.SPLITS: "execution_date",
    ActionKind.DIVIDENDS: "ex_dividend_date",
    ActionKind.EARNINGS: "date",
}
"""The date that each kind of action is known by."""

_EVERY_PLAN_REACHES: Final = timedelta(days=2 * 365)
"""The vendor's smallest plan lists two years of splits and dividends (its documentation, "Plan History")."""


class ScreenedActions(NamedTuple):
    """A vendor's list, divided by whether a symbol's rows make sense."""

    rows: pl.DataFrame
    """The kind's schema, one row per :data:`FACTS`, sorted by them. Nothing of the symbols in ``problems``."""
    problems: dict[str, str]
    """By symbol, what is wrong with the list of it, in one line."""


def screen_actions(kind: ActionKind, listed: pl.DataFrame, symbols: Collection[str]) -> ScreenedActions:
    """What can be stored of ``listed`` (the schema of ``kind``) for ``symbols``; rows of others are left out.

    Rows with the same :data:`FACTS` count once: the one that was updated last, else the one with the smallest id. A
    symbol is set aside as a whole when one of its rows lacks a date, an amount or an id, has a ratio or an amount
    that cannot be, or when two splits of one date have different ratios: half of a list would be taken for all of
    it. A split that changes nothing (1 to 1) contradicts none, and gives way to one of its day that does.
    """
    of_symbols = listed.filter(pl.col("symbol").is_in(list(symbols)))
    problems: dict[str, str] = {}
    broken = of_symbols.filter(~_is_sound(kind).fill_null(value=False))
    for row in broken.iter_rows(named=True):
        facts = ", ".join(f"{name} {row[name]}" for name in _required(kind))
        problems.setdefault(row["symbol"], f"{row['symbol']} has one of its {kind} listed with {facts}")
    if kind is ActionKind.SPLITS:
        for symbol, message in _contradictions(of_symbols.filter(_is_sound(kind) & changes_scale())).items():
            problems.setdefault(symbol, message)
    first = {
        ActionKind.SPLITS: [~changes_scale(), pl.col("vendor_id")],
        ActionKind.DIVIDENDS: [pl.col("vendor_id")],
        ActionKind.EARNINGS: [-pl.col("last_updated").to_physical(), pl.col("vendor_id")],
    }[kind]
    rows = (
        of_symbols.filter(~pl.col("symbol").is_in(list(problems)))
        .sort(first, nulls_last=True)
        .unique(FACTS[kind], keep="first", maintain_order=True)
        .sort(FACTS[kind])
    )
    return ScreenedActions(rows, problems)


def number_dividends(listed: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Return ``listed`` with :data:`NUMBER`: that of the stored row that each listed one is, else one that is free.

    Most amounts are paid once on a day, and a listed one is the stored one whatever else was corrected. Among
    several, a row is the stored one with its id, else with its currency and kind, else one that these do not
    exclude: the vendor's two endpoints name kinds differently.

    Args:
        listed: The schema of dividends, one row per :data:`FACTS`.
        stored: :data:`FACTS`, ``vendor_id`` and :data:`NUMBER` of every stored dividend of those symbols, withdrawn ones
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
        for row, number in _pair(rows, sorted(known[paid], key=lambda one: one.position)):
            numbers[row] = number
    return listed.with_columns(pl.Series(NUMBER, numbers, dtype=pl.Int16)).sort(*amount, NUMBER)


class _Dividend(NamedTuple):
    vendor_id: str | None
    currency: str | None
    kinds: tuple[str | None, str | None]
    """As the current endpoint names it, and as the former one does."""
    position: int
    """The number of a stored row, the index of a listed one."""


def _pair(listed: Sequence[_Dividend], stored: Sequence[_Dividend]) -> list[tuple[int, int]]:
    """Return the index of each listed dividend with its number, the surest pairs first."""
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
    """Return whether the kinds that both endpoints or one of them gave two rows leave room for one dividend."""
    if any(one is not None and one == other for one, other in zip(new, old, strict=True)):
        return True
    if any(None not in pair for pair in zip(new, old, strict=True)):
        return False
    # Each endpoint has words of its own: special of the current one is mostly SC of the former.
    special = [{"special", "SC"} & set(kinds) for kinds in (new, old)]
    return bool(special[0]) == bool(special[1])


def _required(kind: ActionKind) -> tuple[str, ...]:
    """Return the columns that :func:`_is_sound` looks at, besides the symbol."""
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


def _contradictions(splits: pl.DataFrame) -> dict[str, str]:
    ratios: dict[tuple[str, date], Fraction] = {}
    found: dict[str, str] = {}
    for symbol, day, before, after in splits.select(SPLIT_SCHEMA.names()).iter_rows():
        ratio = Fraction(str(before)) / Fraction(str(after))
        if ratios.setdefault((symbol, day), ratio) != ratio:
            found.setdefault(symbol, f"{symbol} has two splits with different ratios listed for {day}")
    return found


def reach_of(kind: ActionKind, listed: pl.DataFrame, today: date) -> date | None:
    """Return the first date that a list surely goes back to: what lies later and is not in it is withdrawn.

    A plan with a shorter history lists less, and that withdraws nothing: a list reaches to its own earliest row,
    and no plan to less than two years before ``today``. None when nothing at all is listed: then it proves
    nothing.
    """
    earliest = listed[DATES[kind]].min()
    return min(earliest, today - _EVERY_PLAN_REACHES) if isinstance(earliest, date) else None
