"""The totals of a run (``domain.totals``) as its metadata, under names that begin with ``run_``."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from marketdata_assets.defs.metadata import integer_of
from marketdata_assets.domain.totals import RunTotals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster import MetadataValue

Totals = TypeVar("Totals", bound=RunTotals)


def to_metadata(totals: RunTotals) -> dict[str, int]:
    """Return the counts of ``totals`` by the names that they have in metadata."""
    return {_key(name): count for name, count in vars(totals).items()}


def read_totals(kind: type[Totals], metadata: Mapping[str, MetadataValue]) -> Totals:
    """Read the counts of ``kind`` from the ``metadata`` of a run; a count that the run did not record is 0."""
    values = {count.name: metadata.get(_key(count.name)) for count in fields(kind)}
    return kind(**{name: integer_of(value) for name, value in values.items() if value is not None})


def _key(name: str) -> str:
    return f"run_{name}"
