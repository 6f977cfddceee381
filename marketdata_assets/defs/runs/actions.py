"""The refresh of corporate actions: a run of their three assets in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from marketdata_assets.defs.assets.corporate_actions import IN_PLAN
from marketdata_assets.defs.metadata import integer_of
from marketdata_assets.defs.runs.execution import reason_of, reasons_by_step
from marketdata_assets.domain.actions import ActionKind
from marketdata_assets.domain.errors import MarketDataError
from marketdata_assets.domain.jobs import CORPORATE_ACTIONS_JOB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marketdata_assets.defs.runs.execution import Runner


@dataclass(frozen=True, slots=True)
class ActionsReport:
    """The result for one kind, in rows; ``in_plan`` is False when the vendor's plan does not include the kind."""

    kind: ActionKind
    in_plan: bool
    stored: int = 0
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    requests: int = 0


def refresh_actions(runner: Runner) -> list[ActionsReport]:
    """Execute a run of ``splits``, ``dividends`` and ``earnings`` over every active stock and ETF.

    Raises:
        ConfigurationError: A setting is wrong.
        MarketDataError: A kind failed; the others are stored.
    """
    result = runner.execute(CORPORATE_ACTIONS_JOB)
    if not result.success:
        reasons = reasons_by_step(result)
        # Always in the same order. Each reason names its kind and its symbols.
        why = [reasons[kind] for kind in ActionKind if kind in reasons] or [reason_of(result)]
        message = f"corporate actions could not be refreshed: {'; and '.join(why)}"
        raise MarketDataError(message)
    reports = []
    for kind in ActionKind:
        (event,) = result.asset_materializations_for_node(kind.value)
        facts = {name: value.value for name, value in event.metadata.items()}

        def count(name: str, facts: Mapping[str, object] = facts) -> int:
            return integer_of(facts.get(name, 0))

        reports.append(
            ActionsReport(
                kind,
                in_plan=facts[IN_PLAN] is True,
                stored=count("dagster/row_count"),
                inserted=count("rows_inserted"),
                changed=count("rows_changed"),
                unchanged=count("rows_unchanged"),
                withdrawn=count("rows_withdrawn"),
                requests=count("requests"),
            )
        )
    return reports
