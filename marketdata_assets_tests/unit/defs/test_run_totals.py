from dagster import MetadataValue
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.defs.run_totals import (
    BarTotals,
    BlockedTotals,
    FeatureTotals,
    RowTotals,
    RunTotals,
    SeriesTotals,
    WrittenTotals,
)

COUNTS = st.integers(0, 10**12)
KINDS = (BarTotals, FeatureTotals, BlockedTotals, RowTotals, SeriesTotals, WrittenTotals)
TOTALS = st.sampled_from(KINDS).flatmap(lambda kind: st.builds(kind, **dict.fromkeys(vars(kind()), COUNTS)))


@given(TOTALS)
def test_totals_come_back_from_their_metadata(totals: RunTotals) -> None:
    metadata = totals.to_metadata()
    assert all(name.startswith("run_") for name in metadata)
    assert type(totals).from_metadata(metadata) == totals


@given(st.lists(st.builds(BarTotals, COUNTS, COUNTS, COUNTS, COUNTS)))
def test_sums_are_by_count(runs: list[BarTotals]) -> None:
    total = sum(runs, start=BarTotals())
    assert vars(total) == {name: sum(getattr(run, name) for run in runs) for name in vars(BarTotals())}


def test_what_the_asset_and_the_io_manager_record_adds_up_to_a_run_of_features() -> None:
    metadata = (
        WrittenTotals(5, 2).to_metadata()
        | SeriesTotals(partitions_blocked=1, bars=9, series_computed=3).to_metadata()
    )
    assert FeatureTotals.from_metadata(metadata) == FeatureTotals(
        rows_written=5, rows_replaced=2, partitions_blocked=1, bars=9, series_computed=3
    )
    assert metadata.keys() == FeatureTotals().to_metadata().keys()


def test_a_count_that_a_run_did_not_record_is_none() -> None:
    assert BarTotals.from_metadata({"run_rows_changed": MetadataValue.int(4)}) == BarTotals(rows_changed=4)
    assert BarTotals.from_metadata({}) == BarTotals()
