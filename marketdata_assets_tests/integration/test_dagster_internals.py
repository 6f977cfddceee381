"""What is used of Dagster's private modules: a release that moves any of it fails here first."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.instance import types as instance_types

from marketdata_assets.defs.instance.environment import BATCHING
from marketdata_assets.defs.instance.internals import (
    add_partition_metadata,
    latest_partition,
    next_tick,
    open_instance_of_commands,
    passing_storage,
    record_only,
)
from marketdata_assets_tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_what_dagster_prints_of_its_event_log_is_discarded_and_all_else_is_as_in_sys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with open_instance_of_commands(tmp_path):
        quiet = instance_types.sys  # type: ignore[attr-defined]  # replaced for the context
        assert quiet is not sys
        assert (quiet.version_info, quiet.modules, quiet.stdout) == (
            sys.version_info,
            sys.modules,
            sys.stdout,
        )
        try:
            int("fault")
        except ValueError:
            assert quiet.exc_info() == sys.exc_info()
        assert quiet.stderr.write("Exception while writing") == len("Exception while writing")
        print("more", file=quiet.stderr, flush=True)
        assert not quiet.stderr.isatty()
        kept = vars(quiet.stderr)
    assert "Exception" not in str(kept)
    assert not hasattr(quiet.stderr, "getvalue")
    assert capsys.readouterr() == ("", "")
    with open_instance_of_commands(tmp_path):
        assert instance_types.sys is quiet  # type: ignore[attr-defined]  # same


class CountingIOManager(dg.ConfigurableIOManager):
    """Attaches a count to each partition, as the platform's own IO manager does."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        assert obj == 0
        context.add_output_metadata({"shared": 1})
        keys = context.asset_partition_keys
        add_partition_metadata(context, {key: {"rows": len(key) + int(key[-1])} for key in keys})

    def load_input(self, context: dg.InputContext) -> None:
        raise NotImplementedError


def test_each_partition_of_a_range_run_has_metadata_of_its_own() -> None:
    partitions = dg.StaticPartitionsDefinition(["p1", "p2", "p3"])

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def counted() -> int:
        return 0

    result = dg.materialize(
        [counted],
        resources={"io_manager": CountingIOManager()},
        instance=dg.DagsterInstance.ephemeral(),
        tags={"dagster/asset_partition_range_start": "p1", "dagster/asset_partition_range_end": "p3"},
    )
    found = {
        event.materialization.partition: {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
    }
    assert found == {f"p{n}": {"shared": 1, "rows": 2 + n} for n in (1, 2, 3)}


def test_the_latest_partition_of_a_run_is_the_one_whose_materialization_is_written_last() -> None:
    partitions = dg.MultiPartitionsDefinition(
        {
            name: dg.StaticPartitionsDefinition([f"{name}{number}" for number in range(8)])
            for name in ("day", "series")
        }
    )
    found = []

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def described(context) -> dg.MaterializeResult[None]:  # type: ignore[no-untyped-def]  # noqa: ANN001 - Dagster does not read an annotation that is text
        found.append(latest_partition(context))
        return dg.MaterializeResult()

    result = dg.materialize(
        [described],
        instance=dg.DagsterInstance.ephemeral(),
        tags={
            "dagster/asset_partition_range_start": "day1|series1",
            "dagster/asset_partition_range_end": "day6|series7",
        },
    )
    events = result.get_asset_materialization_events()
    assert len(events) == 6 * 7
    assert found == [events[-1].partition]


class LeavingOutIOManager(dg.ConfigurableIOManager):
    """Leaves a partition out, as the features asset does with those that a check holds back."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        assert obj == 0
        record_only(context, [key for key in context.asset_partition_keys if key != "p2"])

    def load_input(self, context: dg.InputContext) -> None:
        raise NotImplementedError


def test_a_range_run_can_leave_partitions_out() -> None:
    partitions = dg.StaticPartitionsDefinition(["p1", "p2", "p3"])

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def gated() -> int:
        return 0

    instance = dg.DagsterInstance.ephemeral()
    result = dg.materialize(
        [gated],
        resources={"io_manager": LeavingOutIOManager()},
        instance=instance,
        tags={"dagster/asset_partition_range_start": "p1", "dagster/asset_partition_range_end": "p3"},
    )
    assert result.success
    assert instance.get_materialized_partitions(dg.AssetKey("gated")) == {"p1", "p3"}


def test_a_passing_storage_answers_and_is_empty() -> None:
    storage = passing_storage()
    assert storage.run_storage.get_runs() == []
    assert storage.event_log_storage.all_asset_keys() == []


def test_the_next_tick_of_a_schedule_lies_ahead() -> None:
    at = datetime(2023, 7, 6, 2, tzinfo=UTC)
    assert next_tick("0 2 * * *", at) == at + timedelta(days=1)
    assert next_tick(["30 3 * * *", "30 4-8 * * *"], at) == at.replace(hour=3, minute=30)


@pytest.fixture
def instance(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[dg.DagsterInstance]:
    """Open an instance on the platform's own storage, with the switches of its processes."""
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name, value in BATCHING.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as opened:
        yield opened


PARTS = dg.StaticPartitionsDefinition(["p1", "p2", "p3", "p4"])


def statuses(instance: dg.DagsterInstance) -> dict[str, str]:
    """The partitions of the asset that Dagster shows in a colour, each with the name of its status."""
    found = instance.get_status_by_partition(dg.AssetKey("bars"), PARTS.get_partition_keys(), PARTS) or {}
    return {key: status.value for key, status in found.items() if status is not None}


def run_range(
    instance: dg.DagsterInstance, first: str, last: str, body: Callable[[], None] = lambda: None
) -> dg.ExecuteInProcessResult:
    @dg.asset(partitions_def=PARTS, backfill_policy=dg.BackfillPolicy.single_run())
    def bars() -> None:
        body()

    return dg.materialize(
        [bars],
        instance=instance,
        raise_on_error=False,
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
    )


def fail() -> None:
    message = "the vendor is down"
    raise ConnectionError(message)


def test_the_partitions_of_a_range_run_that_failed_are_failed_until_a_run_stores_them(
    instance: dg.DagsterInstance,
) -> None:
    run_range(instance, "p1", "p2")
    assert statuses(instance) == {"p1": "MATERIALIZED", "p2": "MATERIALIZED"}
    run_range(instance, "p2", "p3", fail)
    assert statuses(instance) == {"p1": "MATERIALIZED", "p2": "FAILED", "p3": "FAILED"}
    run_range(instance, "p3", "p3")
    assert statuses(instance) == {"p1": "MATERIALIZED", "p2": "FAILED", "p3": "MATERIALIZED"}
    run_range(instance, "p1", "p4")
    assert statuses(instance) == dict.fromkeys(("p1", "p2", "p3", "p4"), "MATERIALIZED")


def test_the_partitions_of_a_range_run_are_in_progress_while_it_runs(instance: dg.DagsterInstance) -> None:
    run_range(instance, "p1", "p2", fail)
    seen = {}
    run_range(instance, "p2", "p3", lambda: seen.update(statuses(instance)))
    assert seen == {"p1": "FAILED", "p2": "IN_PROGRESS", "p3": "IN_PROGRESS"}
    assert statuses(instance) == {"p1": "FAILED", "p2": "MATERIALIZED", "p3": "MATERIALIZED"}


def test_failed_partitions_of_a_wiped_asset_are_forgotten(instance: dg.DagsterInstance) -> None:
    run_range(instance, "p1", "p2", fail)
    instance.wipe_assets([dg.AssetKey("bars")])
    assert statuses(instance) == {}
