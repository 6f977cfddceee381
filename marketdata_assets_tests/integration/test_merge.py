from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata_assets.domain.series import Series
from marketdata_assets.storage.connection import Database
from marketdata_assets.storage.merge import MergeCounts, lock_series, merge
from marketdata_assets.storage.months import ensure_months, months_between, partition_name
from marketdata_assets.storage.tables import OHLCV, FrameError
from marketdata_assets_tests.integration.frames import OPEN, bar, frame, joined, rows_of, run_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from marketdata_assets.storage.rows import Session

COLUMNS = ", ".join(OHLCV.columns)


def put(database: Database, bars: pl.DataFrame) -> MergeCounts:
    return database.transaction(lambda connection: merge(connection, OHLCV, bars))


def stored(database: Database, table: str = "ohlcv") -> list[dict[str, Any]]:
    return database.read_frame(f"select {COLUMNS} from {table} order by symbol, timeframe, time").to_dicts()


def versions(database: Database) -> list[Any]:
    """Where each row's current version lies: equal lists mean that no row was written."""
    return database.transaction(
        lambda connection: connection.execute(
            "select tableoid::regclass::text, ctid::text, xmin::text, xmax::text, stored_at from ohlcv"
            " order by symbol, timeframe, time"
        ).fetchall()
    )


def test_a_first_merge_stores_every_value_of_every_row(database: Database) -> None:
    bars = frame(
        bar("AAPL:1h", OPEN, 1.1, high=2.2, low=0.3, close=1.4, volume=0.5, vwap=1.6, transactions=2**40),
        bar("VIX:1d", OPEN, volume=None, vwap=None, transactions=None),
        bar("AAPL:5m", OPEN + timedelta(microseconds=1), 0.1 + 0.2, base_bars=5),
    )
    assert put(database, bars) == MergeCounts(inserted=3)
    assert stored(database) == rows_of(bars)
    assert stored(database, "ohlcv_revision") == []


def test_merging_the_same_again_writes_nothing(database: Database) -> None:
    bars = joined([run_of("AAPL:1h", 50), run_of("VIX:1d", 3).with_columns(volume=None, vwap=None)])
    put(database, bars)
    before = versions(database)
    assert put(database, bars.sort("time", descending=True)) == MergeCounts(unchanged=53)
    assert versions(database) == before
    assert stored(database, "ohlcv_revision") == []


def test_a_changed_row_leaves_its_old_values_and_its_neighbours_alone(database: Database) -> None:
    bars = run_of("AAPL:1h", 3)
    put(database, bars)
    before = versions(database)
    revised = frame(bar("AAPL:1h", OPEN + timedelta(hours=1), 11.5, transactions=8))
    assert put(database, joined([bars[:1], revised, bars[2:]])) == MergeCounts(changed=1, unchanged=2)

    assert stored(database) == rows_of(joined([bars[:1], revised, bars[2:]]))
    assert stored(database, "ohlcv_revision") == rows_of(bars[1:2])
    after = versions(database)
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1] != before[1]
    times = database.read_frame(
        "select r.stored_at as old, r.replaced_at as replaced, o.stored_at as new"
        " from ohlcv_revision r join ohlcv o using (symbol, timeframe, time)"
    ).row(0, named=True)
    assert times["old"] < times["replaced"] == times["new"]


def test_rows_are_stored_at_the_time_at_which_their_locks_are_held(database: Database) -> None:
    put(database, run_of("AAPL:1h", 2))

    def late(connection: Session) -> None:
        connection.execute("select now()")
        # The transaction has begun: what it stores after waiting is of the time at which the wait ended.
        connection.execute("select pg_sleep(0.05)")
        merge(connection, OHLCV, joined([run_of("AAPL:1h", 3, close=12.5), run_of("BTC-USD:1h", 2)]))
        [begun] = connection.execute("select now() + interval '50 milliseconds'").fetchone() or (None,)
        rows = connection.execute(
            "select stored_at from ohlcv union all select replaced_at from ohlcv_revision"
        ).fetchall()
        assert len(rows) == 7
        assert len(set(rows)) == 1
        assert rows[0][0] >= begun

    database.transaction(late)


def test_each_change_is_a_revision_of_its_own(database: Database) -> None:
    for close in (1.0, 2.0, 3.0, 1.0):
        put(database, frame(bar("AAPL:1h", OPEN, close)))
    closes = database.read_frame("select close from ohlcv_revision order by replaced_at")["close"]
    assert closes.to_list() == [1.0, 2.0, 3.0]
    assert [row["close"] for row in stored(database)] == [1.0]


def test_a_number_replaces_null_and_null_replaces_no_number(database: Database) -> None:
    changes: list[tuple[str, int | None, int | None]] = [
        (column, old, new)
        for column in ("volume", "vwap", "transactions")
        for old, new in ((None, 5), (5, None), (0, None), (None, 0))
    ]
    numbers = [place for place, (_, _, new) in enumerate(changes) if new is not None]
    hours = [OPEN + timedelta(hours=place) for place in range(len(changes))]
    before, after = (
        frame(
            *(
                {**bar("AAPL:1h", hour), change[0]: change[side]}
                for hour, change in zip(hours, changes, strict=True)
            )
        )
        for side in (1, 2)
    )
    put(database, before)
    assert put(database, after) == MergeCounts(changed=6, unchanged=6)
    changed = after[numbers]
    assert stored(database) == rows_of(pl.concat([before.join(changed, on="time", how="anti"), changed]))
    assert stored(database, "ohlcv_revision") == rows_of(before[numbers])
    assert put(database, after) == MergeCounts(unchanged=12)


def test_fresh_and_occupied_series_in_one_frame(database: Database) -> None:
    put(database, run_of("AAPL:1h", 4))
    bars = joined(
        [
            run_of("AAPL:1h", 3, start=OPEN + timedelta(hours=2)),  # two unchanged, one new
            run_of("AAPL:4h", 2),  # another timeframe of a stored symbol
            run_of("MSFT:1h", 5),  # a series that is new
            run_of("AAPL:1d", 1, start=OPEN - timedelta(days=400)),
        ]
    )
    assert put(database, bars) == MergeCounts(inserted=9, unchanged=2)
    assert len(stored(database)) == 13
    assert put(database, bars) == MergeCounts(unchanged=11)


def test_a_stretch_between_stored_bars_is_filled_in(database: Database) -> None:
    put(database, joined([run_of("AAPL:1h", 1), run_of("AAPL:1h", 1, start=OPEN + timedelta(hours=9))]))
    assert put(database, run_of("AAPL:1h", 10)) == MergeCounts(inserted=8, unchanged=2)
    assert stored(database) == rows_of(run_of("AAPL:1h", 10))


def test_a_table_of_the_users_own_is_not_touched(database: Database) -> None:
    database.transaction(lambda connection: connection.execute("create table public.stage (kept integer)"))
    database.transaction(lambda connection: connection.execute("insert into public.stage values (7)"))
    for _ in range(2):
        put(database, run_of("AAPL:1h", 3))
    assert database.read_frame("select kept from public.stage").item() == 7


def test_bars_outside_a_frame_stay(database: Database) -> None:
    put(database, run_of("AAPL:1h", 10))
    put(database, frame(bar("AAPL:1h", OPEN + timedelta(hours=4), 12.0)))
    assert len(stored(database)) == 10


def test_an_empty_frame_changes_nothing(database: Database) -> None:
    assert put(database, frame()) == MergeCounts()
    assert stored(database) == []


def test_columns_come_in_any_order_and_others_are_left_out(database: Database) -> None:
    bars = run_of("AAPL:1h", 2)
    put(database, bars.select(reversed(bars.columns)).with_columns(note=pl.lit("left out")))
    assert stored(database) == rows_of(bars)


def test_integers_become_the_tables_types_before_a_byte_is_sent(database: Database) -> None:
    # Binary COPY is type-blind: an Int64 sent into a float column would be stored as garbage.
    bars = run_of("AAPL:1h", 2).with_columns(
        pl.col("open", "high", "low", "close", "volume").cast(pl.Int64), pl.col("base_bars").cast(pl.Int64)
    )
    put(database, bars)
    assert stored(database) == rows_of(run_of("AAPL:1h", 2))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda bars: bars.drop("vwap"), "lacks vwap"),
        (lambda bars: bars.with_columns(close=pl.lit("high")), "does not cast"),
        (lambda bars: bars.with_columns(base_bars=pl.lit(2**40)), "does not cast"),
        (lambda bars: bars.with_columns(time=pl.lit("soon")), "does not cast"),
        (lambda bars: bars.with_columns(symbol=pl.lit(None, pl.String)), "null in its key"),
        (lambda bars: pl.concat([bars, bars]), "two rows for one"),
        (lambda bars: pl.concat([bars, bars.with_columns(close=11.0)]), "two rows for one"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_whole(
    database: Database, spoil: Callable[[pl.DataFrame], pl.DataFrame], said: str
) -> None:
    with pytest.raises(FrameError, match=said) as caught:
        put(database, spoil(run_of("AAPL:1h", 2)))
    assert "\n" not in str(caught.value)
    assert "ohlcv" in str(caught.value)
    assert stored(database) == []


def test_the_months_of_minutes_are_made_once_and_one_ahead(database: Database) -> None:
    months = months_between(datetime(2023, 11, 30, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
    made = database.transaction(lambda connection: ensure_months(connection, months))
    assert made == ["ohlcv_1m_2023_11", "ohlcv_1m_2023_12", "ohlcv_1m_2024_01", "ohlcv_1m_2024_02"]
    assert database.transaction(lambda connection: ensure_months(connection, months)) == []
    edge = datetime(2024, 1, 1, tzinfo=UTC)
    put(database, run_of("AAPL:1m", 2, start=edge - timedelta(minutes=1)))
    homes = database.read_frame("select tableoid::regclass::text as home from ohlcv order by time")
    assert homes["home"].to_list() == ["ohlcv_1m_2023_12", "ohlcv_1m_2024_01"]


def test_writers_that_need_the_same_months_at_once_make_each_once(database_url: str) -> None:
    months = months_between(datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 6, 1, tzinfo=UTC))
    together = threading.Barrier(4, timeout=10)

    def make(_: int) -> list[str]:
        with Database(database_url) as database:
            database.transaction(lambda connection: connection.execute("select"))
            together.wait()
            return database.transaction(lambda connection: ensure_months(connection, months))

    with ThreadPoolExecutor(4) as pool:
        made = sorted(name for names in pool.map(make, range(4)) for name in names)
    assert made == [partition_name(month) for month in months]


def test_a_month_is_made_beside_an_open_write_and_an_open_read(database: Database, database_url: str) -> None:
    first, second = (months_between(*[datetime(year, 1, 1, tzinfo=UTC)] * 2) for year in (2024, 2025))
    database.transaction(lambda connection: ensure_months(connection, first))

    def write_and_wait(connection: Session) -> list[str]:
        merge(connection, OHLCV, run_of("AAPL:1m", 2))
        connection.execute("select count(*) from ohlcv")
        with Database(database_url) as other:

            def impatient(beside: Session) -> list[str]:
                beside.execute("set local lock_timeout = '2s'")
                return ensure_months(beside, second)

            return other.transaction(impatient)

    assert database.transaction(write_and_wait) == ["ohlcv_1m_2025_01", "ohlcv_1m_2025_02"]


@pytest.mark.parametrize("stored_before", [False, True], ids=["first load", "reload"])
def test_overlapping_writers_neither_deadlock_nor_lose_a_row(
    database: Database, database_url: str, *, stored_before: bool
) -> None:
    keys = [f"{symbol}:{timeframe}" for symbol in ("AAPL", "MSFT", "SPY") for timeframe in ("1h", "4h", "1d")]
    if stored_before:
        put(database, joined(run_of(key, 40) for key in keys))
    writers, rounds, overlap = 4, 5, 30
    together = threading.Barrier(
        writers, timeout=240
    )  # a merge of them all may be slow; a deadlock is an error

    def write(writer: int) -> MergeCounts:
        ordered = keys if writer % 2 else keys[::-1]
        counts = MergeCounts()
        with Database(database_url) as own:
            for turn in range(rounds):
                shift = writer * 2  # each writer also has rows of its own
                bars = joined(
                    run_of(
                        key,
                        overlap,
                        start=OPEN + shift * Series.parse(key).timeframe.duration,
                        close=100.0 + writer + turn / 10,
                    )
                    for key in ordered
                )
                together.wait()
                counts += put(own, bars.reverse() if writer % 2 else bars)
        return counts

    with ThreadPoolExecutor(writers) as pool:
        total = sum(pool.map(write, range(writers)), start=MergeCounts())
    reached = 40 if stored_before else overlap + 2 * (writers - 1)
    rows = database.read_frame("select * from ohlcv")
    assert rows.height == reached * len(keys)
    assert total.inserted == (0 if stored_before else rows.height)
    assert total.inserted + total.changed + total.unchanged == writers * rounds * overlap * len(keys)
    # Each version that was replaced stands in the revisions, and only those.
    assert len(stored(database, "ohlcv_revision")) == total.changed
    # A merge is seen whole: where all of them overlap, one writer stands in every row.
    shared = rows.filter(
        pl.col("time") >= OPEN + 6 * pl.duration(hours=1),
        pl.col("timeframe") == "1h",
        pl.col("time") < OPEN + overlap * pl.duration(hours=1),
    )
    assert shared["close"].n_unique() == 1


def test_two_transactions_lock_their_series_in_one_order(database_url: str) -> None:
    wanted = [Series.parse(key) for key in ("AAPL:1d", "AAPL:1h", "BTC-USD:1m", "SPY:1d")]
    together = threading.Barrier(2, timeout=10)

    def hold(ordered: list[Series]) -> int:
        with Database(database_url) as own:
            own.transaction(lambda connection: connection.execute("select"))
            for _ in range(20):
                together.wait()
                own.transaction(lambda connection: lock_series(connection, ordered))
        return 20

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(hold, [wanted, wanted[::-1]])) == [20, 20]


_CELLS = st.tuples(
    st.sampled_from(["AAPL:1h", "AAPL:1d", "BTC-USD:1h"]),
    st.integers(0, 5),
)
_VALUES = st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([None, 0.0, 5.0]))
_MERGES = st.lists(st.dictionaries(_CELLS, _VALUES, max_size=8), min_size=1, max_size=5)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(merges=_MERGES)
def test_any_sequence_of_merges_equals_a_dictionary(
    database: Database, merges: list[dict[tuple[str, int], tuple[float, float | None]]]
) -> None:
    def empty(connection: Session) -> None:
        connection.execute("truncate ohlcv, ohlcv_revision")

    database.transaction(empty)
    model: dict[tuple[str, int], tuple[float, float | None]] = {}
    revisions = []
    for cells in merges:
        expected = MergeCounts()
        for cell, (close, volume) in cells.items():
            # A null replaces no number.
            values = (close, model[cell][1] if cell in model and volume is None else volume)
            if cell not in model:
                expected += MergeCounts(inserted=1)
            elif model[cell] == values:
                expected += MergeCounts(unchanged=1)
            else:
                expected += MergeCounts(changed=1)
                revisions.append((cell, model[cell]))
            model[cell] = values
        assert put(database, _frame_of(cells.items())) == expected
    assert stored(database) == rows_of(_frame_of(model.items()))
    kept = database.read_frame(f"select {COLUMNS} from ohlcv_revision")
    order = [*kept.columns]
    assert kept.sort(order).to_dicts() == _frame_of(revisions).sort(order).to_dicts()


def _frame_of(cells: Iterable[tuple[tuple[str, int], tuple[float, float | None]]]) -> pl.DataFrame:
    return frame(
        *(
            bar(key, OPEN + timedelta(days=place), close, volume=volume)
            for (key, place), (close, volume) in cells
        )
    )
