"""Bringing bars: range runs of ``ohlcv``, one after the other in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from marketdata_assets.defs.run_totals import BarTotals
from marketdata_assets.defs.runs.execution import failure_metadata, reason_of, run_metadata
from marketdata_assets.domain.ranges import range_runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster import ExecuteInProcessResult

    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.domain.partitions import Rectangle


@dataclass(slots=True)
class BarsOutcome:
    """The outcome of runs of ``ohlcv``. Totals count bars over all series; ``failures`` holds one line per symbol."""

    totals: BarTotals = field(default_factory=BarTotals)
    failures: dict[str, str] = field(default_factory=dict)


def bring_bars(runner: Runner, runs: Sequence[Rectangle], *, force: bool, outcome: BarsOutcome) -> None:
    """Execute ``runs`` in order, adding to ``outcome``. A symbol that fails does not stop the others.

    When a run loses a symbol, Dagster records none of its partitions; the others are stored all the same, so
    their partitions are recorded by a second run that asks the vendor for nothing.

    Raises:
        ConfigurationError: A setting is wrong (the key, say): every other run would fail like this one.
    """
    for run in runs:
        runner.on_run(run)
        result = _execute(runner, run, {"force": force}, outcome)
        if _is_recorded(result):
            continue
        named = _given_up(result)
        if not named:
            # The run ended before its last request did: nothing is known of any of its symbols.
            outcome.failures |= dict.fromkeys((one.symbol for one in run.series), reason_of(result))
            continue
        reasons = _reasons(result)
        outcome.failures |= {symbol: reasons.get(symbol, reason_of(result)) for symbol in named}
        sound = [one for one in run.series if one.symbol not in named]
        # Contiguous in the run's own order, which is a stretch of Dagster's.
        ordered = [one.key for one in run.series]
        for again in range_runs(ordered, sound, run.first, run.last):
            recorded = _execute(runner, again, {"ask_vendor": False}, outcome)
            if not _is_recorded(recorded):
                outcome.failures |= dict.fromkeys((one.symbol for one in again.series), reason_of(recorded))


def _execute(
    runner: Runner, run: Rectangle, config: Mapping[str, object], outcome: BarsOutcome
) -> ExecuteInProcessResult:
    from marketdata_assets.domain.jobs import BARS_JOB

    result = runner.execute(BARS_JOB, run, config={"ohlcv": config})
    # A run that gave up on a symbol records its totals with the failure.
    outcome.totals += BarTotals.from_metadata(run_metadata(result) or failure_metadata(result))
    return result


def _is_recorded(result: ExecuteInProcessResult) -> bool:
    """Whether the asset's partitions were recorded; a check that failed after that is no failure to bring bars."""
    return bool(result.get_asset_materialization_events())


def _given_up(result: ExecuteInProcessResult) -> list[str]:
    """The symbols that the asset gave up on after every other symbol was stored."""
    from dagster import JsonMetadataValue

    from marketdata_assets.defs.assets.ohlcv import FAILED_SYMBOLS

    said = failure_metadata(result).get(FAILED_SYMBOLS)
    symbols = said.value if isinstance(said, JsonMetadataValue) else None
    return [str(symbol) for symbol in symbols] if isinstance(symbols, list) else []


def _reasons(result: ExecuteInProcessResult) -> dict[str, str]:
    """Why the asset gave up on symbols, one line each."""
    from dagster import JsonMetadataValue

    from marketdata_assets.defs.assets.ohlcv import FAILURE_REASONS

    said = failure_metadata(result).get(FAILURE_REASONS)
    reasons = said.value if isinstance(said, JsonMetadataValue) else None
    return {str(symbol): str(why) for symbol, why in reasons.items()} if isinstance(reasons, dict) else {}
