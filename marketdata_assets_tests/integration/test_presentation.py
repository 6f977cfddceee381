"""What the UI shows of every asset, held against the tables."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.freshness import (  # which the public factories return
    CronFreshnessPolicy,
    TimeWindowFreshnessPolicy,
)

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.schedules import platform_schedules
from marketdata_assets.storage.connection import Database

if TYPE_CHECKING:
    from collections.abc import Iterator


def specs() -> Iterator[dg.AssetSpec]:
    yield from build_definitions().resolve_all_asset_specs()


def test_every_asset_says_what_it_is_whose_it_is_and_where_its_code_is() -> None:
    for spec in specs():
        assert spec.group_name not in (None, "default"), spec.key
        assert len(spec.description or "") > 50, spec.key
        assert spec.owners == ["team:market-data"], spec.key
        assert {"polars", "postgres"} <= spec.kinds, spec.key
        assert spec.freshness_policy is not None, spec.key
        references = spec.metadata["dagster/code_references"]
        assert isinstance(references, dg.CodeReferencesMetadataValue)
        [reference] = references.code_references
        assert isinstance(reference, dg.LocalFileCodeReference)
        assert "/assets/" in reference.file_path


def test_a_long_weekend_makes_no_features_stale() -> None:
    [policy] = [spec.freshness_policy for spec in specs() if spec.key == dg.AssetKey("features")]
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    # Friday's come on Saturday at 03:30; after a Monday without trading, the next on Wednesday.
    assert policy.fail_window.to_timedelta() > timedelta(days=4, hours=6)
    assert policy.warn_window is None


def test_what_is_due_by_the_clock_is_judged_by_the_same_clock() -> None:
    repository = build_definitions().get_repository_def()
    assert repository.get_schedule_def("daily_bars").cron_schedule == "0 2 * * *"
    assert repository.get_schedule_def("intraday_bars").cron_schedule == "*/15 * * * *"
    [policy] = [spec.freshness_policy for spec in specs() if spec.key == dg.AssetKey("ohlcv")]
    assert isinstance(policy, CronFreshnessPolicy)
    assert policy.deadline_cron == "0 8 * * *"
    assert {one.name for one in platform_schedules()} == {one.name for one in repository.schedule_defs}


def test_the_columns_that_an_asset_shows_are_those_of_its_table(database_url: str) -> None:
    kinds = {
        "double precision": "float8",
        "timestamp with time zone": "timestamptz",
        "time without time zone": "time",
    }
    with Database(database_url) as database:
        for spec in specs():
            schema, table = str(spec.metadata["dagster/table_name"]).split(".")
            rows = database.read_frame(
                "select column_name, data_type from information_schema.columns"
                " where table_schema = $1 and table_name = $2",
                [schema, table],
            )
            stored = {name: kinds.get(kind, kind) for name, kind in rows.iter_rows()}
            assert stored, table
            value = spec.metadata["dagster/column_schema"]
            assert isinstance(value, dg.TableSchemaMetadataValue)
            shown = {one.name: kinds.get(one.type, one.type) for one in value.schema.columns}
            assert shown.items() <= stored.items(), spec.key
            assert all(one.description for one in value.schema.columns), spec.key


def test_every_job_schedule_and_sensor_says_what_it_is_for() -> None:
    definitions = build_definitions()
    for one in (*(definitions.jobs or ()), *(definitions.schedules or ()), *(definitions.sensors or ())):
        assert len(getattr(one, "description", None) or "") > 30, one
