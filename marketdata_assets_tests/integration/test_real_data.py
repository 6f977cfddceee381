"""Real bars, replayed by the simulator and fetched by the real command (``realdata``; skipped without it)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from marketdata_assets.domain.series import Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.bars import read_rows
from marketdata_assets.storage.tables import OHLCV
from marketdata_assets_tests.integration.platform import command_environment, run_command
from marketdata_assets_tests.simulator import KEY, running_simulator

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

WEEK = Window(datetime(2013, 10, 6, tzinfo=UTC), datetime(2013, 10, 13, tzinfo=UTC))
EVER = Window(datetime(1990, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))


def backfill(folder: Path, database_url: str, realdata: Path, *arguments: str) -> dict[str, Any]:
    with running_simulator(replay=realdata / "data") as simulator:
        environment = command_environment(
            folder,
            database_url,
            POLYGON_API_KEY=KEY,
            POLYGON_BASE_URL=simulator.url,
            MARKETDATA_START="1998-01-01",
        )
        done = run_command(environment, folder, "backfill", *arguments, "--no-features", "--json", "-")
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)["summary"]
    return facts


def expected_of(realdata: Path, name: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((realdata / "expected" / f"{name}.json").read_text())["expected"]
    return expected


def stored(database: Database, symbol: str, timeframe: Timeframe, window: Window) -> pl.DataFrame:
    return read_rows(database, OHLCV, {Series(symbol, timeframe): [window]})


def vendor_file(realdata: Path, name: str, window: Window) -> pl.DataFrame:
    bars = pl.read_parquet(realdata / "data" / f"{name}.parquet").rename({"ts": "time"})
    bars = bars.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    return bars.filter(pl.col("time") >= window.start, pl.col("time") < window.end).sort("time")


PRICES = ["time", "open", "high", "low", "close", "volume"]


def same(bars: pl.DataFrame, expected: pl.DataFrame) -> None:
    wanted = expected.select(pl.col("time"), pl.col(*PRICES[1:]).cast(pl.Float64))
    assert bars.select(PRICES).equals(wanted)


def holds(bars: pl.DataFrame, samples: dict[str, dict[str, float]]) -> None:
    by_time = {row["time"]: row for row in bars.iter_rows(named=True)}
    for moment, values in samples.items():
        row = by_time[datetime.fromisoformat(moment)]
        assert {name: row[name] for name in values} == pytest.approx(values, rel=1e-9), moment


def test_a_week_of_spy_is_stored_exactly(
    database: Database, database_url: str, realdata: Path, tmp_path: Path
) -> None:
    expected = expected_of(realdata, "A01_spy_week_resample")
    arguments = (
        "--symbols",
        "SPY",
        "--timeframes",
        "1m,5m,1h,1d",
        "--start",
        "2013-10-07",
        "--end",
        "2013-10-11",
    )
    facts = backfill(tmp_path, database_url, realdata, *arguments)

    minutes = stored(database, "SPY", Timeframe.M1, WEEK)
    assert minutes.height == expected["total_bars"] == 4128
    same(minutes, vendor_file(realdata, "lean_spy_1m", WEEK))
    local_day = pl.col("time").dt.convert_time_zone("America/New_York").dt.date().cast(pl.String)
    by_day = dict(minutes.group_by(local_day).len().iter_rows())
    assert by_day == {day: facts["bars"] for day, facts in expected["days"].items()}

    fives = stored(database, "SPY", Timeframe.M5, WEEK)
    in_session = pl.concat(
        [
            fives.filter(
                pl.col("time") >= datetime.fromisoformat(day["session_open"]),
                pl.col("time") < datetime.fromisoformat(day["session_close"]),
            )
            for day in expected["days"].values()
        ]
    )
    assert in_session.height == expected["regular_5m_bars"] == 390
    holds(in_session, expected["regular_5m_sample"])
    assert fives["base_bars"].sum() == 4128

    hours = stored(database, "SPY", Timeframe.H1, WEEK)
    assert hours.height == expected["all_hours_1h_clock_aligned_bars"] == 80
    holds(hours, expected["all_hours_1h_sample"])
    assert hours["base_bars"].sum() == 4128

    days = stored(database, "SPY", Timeframe.D1, WEEK)
    assert days.height == 5
    same(days, vendor_file(realdata, "lean_spy_1d", WEEK))
    assert facts["rows_inserted"] == 4128 + fives.height + 80 + 5
    assert (facts["requests"], facts["pages"], facts["rows_quarantined"]) == (2, 2, 0)


# slow: 8,490 partitions, twice
@pytest.mark.slow
def test_all_of_apples_days_are_stored_raw(
    database: Database, database_url: str, realdata: Path, tmp_path: Path
) -> None:
    expected = expected_of(realdata, "A05_aapl_splits")
    arguments = ("--symbols", "AAPL", "--timeframes", "1d", "--start", "1998-01-01", "--end", "2021-03-31")
    facts = backfill(tmp_path, database_url, realdata, *arguments)
    days = stored(database, "AAPL", Timeframe.D1, EVER)
    assert days.height == facts["rows_inserted"] == expected["rows"] == 5849
    same(days, vendor_file(realdata, "lean_aapl_1d", EVER))
    local = days.with_columns(
        time=pl.col("time")
        .dt.convert_time_zone("America/New_York")
        .dt.strftime("%Y-%m-%dT00:00:00+00:00")
        .str.to_datetime(time_zone="UTC")
    )
    holds(local, {f"{day}T00:00:00+00:00": values for day, values in expected["raw"].items()})
    assert facts["requests"] == 1
    assert days["time"].diff().min() >= timedelta(hours=23)  # type: ignore[operator]  # durations
