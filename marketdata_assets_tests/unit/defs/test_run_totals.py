from dagster import MetadataValue
from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.defs.run_totals import read_totals, to_metadata
from marketdata_assets.domain.totals import (
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


def normalize(metadata: dict[str, int]) -> dict[str, MetadataValue]:
    """The metadata as Dagster records it."""
    return {name: MetadataValue.int(count) for name, count in metadata.items()}


@given(TOTALS)
def test_totals_come_back_from_their_metadata(totals: RunTotals) -> None:
    metadata = to_metadata(totals)
    assert all(name.startswith("run_") for name in metadata)
    assert read_totals(type(totals), normalize(metadata)) == totals


@given(st.lists(st.builds(BarTotals, COUNTS, COUNTS, COUNTS, COUNTS)))
def test_sums_are_by_count(runs: list[BarTotals]) -> None:
    total = sum(runs, start=BarTotals())
    assert vars(total) == {name: sum(getattr(run, name) for run in runs) for name in vars(BarTotals())}


def test_what_the_asset_and_the_io_manager_record_adds_up_to_a_run_of_features() -> None:
    metadata = to_metadata(WrittenTotals(5, 2)) | to_metadata(
        SeriesTotals(partitions_blocked=1, bars=9, series_computed=3)
    )
    assert read_totals(FeatureTotals, normalize(metadata)) == FeatureTotals(
        rows_written=5, rows_replaced=2, partitions_blocked=1, bars=9, series_computed=3
    )
    assert metadata.keys() == to_metadata(FeatureTotals()).keys()


def test_a_count_that_a_run_did_not_record_is_none() -> None:
    assert read_totals(BarTotals, normalize({"run_rows_changed": 4})) == BarTotals(rows_changed=4)
    assert read_totals(BarTotals, {}) == BarTotals()
