"""Runs that are executed in this process, and why they failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from marketdata_assets.domain.errors import ClockError, ConfigurationError
from marketdata_assets.domain.wording import one_line
from marketdata_assets.polygon.errors import AuthenticationError, RateLimiterUnavailableError
from marketdata_assets.storage.failures import STORE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dagster import DagsterInstance, Definitions, ExecuteInProcessResult, MetadataValue
    from dagster_shared.error import SerializableErrorInfo

    from marketdata_assets.domain.partitions import Rectangle

_ENDING: Final = {
    kind.__name__
    for kind in (
        ConfigurationError,
        AuthenticationError,
        ClockError,
        RateLimiterUnavailableError,
        *STORE_ERRORS,
    )
}
"""Errors after which every other run would fail like this one."""

_INTERRUPTIONS: Final = {"DagsterExecutionInterruptedError", KeyboardInterrupt.__name__}


def ops_config(config: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Return ``config``, by asset, as the configuration of a run."""
    return {"ops": {name: {"config": dict(values)} for name, values in config.items()}}


@dataclass(frozen=True, slots=True)
class Runner:
    """What runs of one command in this process have in common: definitions, instance, tags, observer, order of the series."""

    definitions: Definitions
    instance: DagsterInstance
    tags: Mapping[str, str] = field(default_factory=dict)
    on_run: Callable[[Rectangle], None] = lambda _: None
    """Called when the run of a rectangle begins."""
    ordered: Sequence[str] = ()
    """The series keys in Dagster's order, when the runs are planned from it."""

    def execute(
        self,
        job: str,
        rectangle: Rectangle | None = None,
        *,
        config: Mapping[str, Mapping[str, object]] | None = None,
    ) -> ExecuteInProcessResult:
        """Execute ``job``, over the partitions of ``rectangle`` if there is one; ``config`` by asset.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM: Dagster ends the run, and more is meant than that.
            ConfigurationError: A setting is wrong (the key, say) or the store cannot be used: every other run would
                fail like this one.
        """
        result = self.definitions.resolve_job_def(job).execute_in_process(
            run_config={
                **ops_config(config or {}),
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            instance=self.instance,
            tags={**(rectangle.tags if rectangle else {}), **self.tags},
            raise_on_error=False,
        )
        if any(error.cls_name in _INTERRUPTIONS for error in _causes(result)):
            raise KeyboardInterrupt
        if (problem := _configuration_problem(result)) is not None:
            raise ConfigurationError(problem)
        return result


def reason_of(result: ExecuteInProcessResult) -> str:
    """Why a run failed, in one line."""
    causes = _causes(result)
    return error_text(causes[-1]) if causes else f"run {result.run_id} failed: see it in the UI"


def reasons_by_step(result: ExecuteInProcessResult) -> dict[str, str]:
    """Why each step of a run failed, in one line; a step that only waited for another is left out."""
    return {
        event.step_key: error_text(error_chain(error)[-1])
        for event in result.all_events
        if event.step_key is not None
        and event.is_step_failure
        and (error := event.step_failure_data.error) is not None
    }


def run_metadata(result: ExecuteInProcessResult) -> Mapping[str, MetadataValue]:
    """Return the metadata of the latest partition that the run recorded, which has its totals; empty without any."""
    events = result.get_asset_materialization_events()
    return events[-1].materialization.metadata if events else {}


def failure_metadata(result: ExecuteInProcessResult) -> Mapping[str, MetadataValue]:
    """Return the metadata with which the asset failed; empty when the run ended otherwise."""
    for event in result.all_events:
        if event.is_step_failure and (said := event.step_failure_data.user_failure_data) is not None:
            return said.metadata
    return {}


def _configuration_problem(result: ExecuteInProcessResult) -> str | None:
    """Return what the user has to correct or to start, if the run failed for that reason."""
    return next((error_text(error) for error in _causes(result) if error.cls_name in _ENDING), None)


def _causes(result: ExecuteInProcessResult) -> list[SerializableErrorInfo]:
    """List the errors of the step that failed, each followed by its cause."""
    for event in result.all_events:
        if event.is_step_failure and (error := event.step_failure_data.error) is not None:
            return error_chain(error)
    return []


def error_chain(error: SerializableErrorInfo) -> list[SerializableErrorInfo]:
    """Return ``error``, its cause, the cause of that and so on."""
    chain = [error]
    while (cause := chain[-1].cause) is not None:
        chain.append(cause)
    return chain


def error_text(error: SerializableErrorInfo) -> str:
    """Return the message of ``error`` on one line. Dagster keeps an error as text, with its class in front."""
    return one_line(error.message.split(": ", 1)[-1])
