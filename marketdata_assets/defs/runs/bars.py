"""The fetch of bars: range runs of ``ohlcv``, one after the other in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.run_totals import read_totals
from marketdata_assets.defs.runs.execution import failure_metadata, reason_of, run_metadata
from marketdata_assets.domain.ranges import range_runs
from marketdata_assets.domain.totals import BarTotals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster import ExecuteInProcessResult

    from marketdata_assets.defs.runs.execution import Runner
    from marketdata_assets.domain.partitions import Rectangle
    from marketdata_assets.pipeline.backfill import BarsOutcome


def fetch_bars(runner: Runner, runs: Sequence[Rectangle], *, force: bool, outcome: BarsOutcome) -> None:
    """Execute ``runs`` in order, adding to ``outcome``. A symbol that fails does not stop the others.

    When a symbol of a run fails, Dagster records no partition of the run. The bars of the other symbols are stored
    nevertheless, so a second run, which makes no requests, records their partitions.

    Raises:
        ConfigurationError: A setting is wrong (the key, say): every other run would fail like this one.
    """
    for run in runs:
        runner.on_run(run)
        result = _execute(runner, run, {"force": force}, outcome)
        if _is_recorded(result):
            continue
        named = _read_failed_symbols(result)
        if not named:
            # The run ended before its last request did, so the state of all of its symbols is unknown.
            outcome.failures |= dict.fromkeys((series.symbol for series in run.series), reason_of(result))
            continue
        reasons = _read_failure_reasons(result)
        outcome.failures |= {symbol: reasons.get(symbol, reason_of(result)) for symbol in named}
        sound = [series for series in run.series if series.symbol not in named]
        # Contiguous in the order of the run, whose series are contiguous in Dagster's order.
        ordered = [series.key for series in run.series]
        for again in range_runs(ordered, sound, run.first, run.last):
            recorded = _execute(runner, again, {"ask_vendor": False}, outcome)
            if not _is_recorded(recorded):
                outcome.failures |= dict.fromkeys(
                    (series.symbol for series in again.series), reason_of(recorded)
                )


def _execute(
    runner: Runner, run: Rectangle, config: Mapping[str, object], outcome: BarsOutcome
) -> ExecuteInProcessResult:
    from marketdata_assets.domain.jobs import BARS_JOB

    result = runner.execute(BARS_JOB, run, config={"ohlcv": config})
    # A run in which a symbol failed records its totals with the failure.
    outcome.totals += read_totals(BarTotals, run_metadata(result) or failure_metadata(result))
    return result


def _is_recorded(result: ExecuteInProcessResult) -> bool:
    """Whether the asset's partitions were recorded; a check that failed later is not a failure to fetch bars."""
    return bool(result.get_asset_materialization_events())


def _read_failed_symbols(result: ExecuteInProcessResult) -> list[str]:
    """Return the symbols that failed in the run of ``result``; the bars of all other symbols are stored."""
    from dagster import JsonMetadataValue

    from marketdata_assets.defs.assets.ohlcv import FAILED_SYMBOLS

    recorded = failure_metadata(result).get(FAILED_SYMBOLS)
    symbols = recorded.value if isinstance(recorded, JsonMetadataValue) else None
    return [str(symbol) for symbol in symbols] if isinstance(symbols, list) else []


def _read_failure_reasons(result: ExecuteInProcessResult) -> dict[str, str]:
    """Return why symbols failed in the run of ``result``, one line each."""
    from dagster import JsonMetadataValue

    from marketdata_assets.defs.assets.ohlcv import FAILURE_REASONS

    recorded = failure_metadata(result).get(FAILURE_REASONS)
    reasons = recorded.value if isinstance(recorded, JsonMetadataValue) else None
    return (
        {str(symbol): str(reason) for symbol, reason in reasons.items()} if isinstance(reasons, dict) else {}
    )
