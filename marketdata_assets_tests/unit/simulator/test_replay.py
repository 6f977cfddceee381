from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.simulator import SimulatorConfig, create_app

from .bars import bars, page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .client import Vendor


@pytest.fixture(scope="module")
def real(vendor: Callable[..., Vendor], realdata: Path) -> Vendor:
    return vendor(replay=realdata / "data")


def test_a_week_of_spy_is_served_as_it_was_recorded(real: Vendor, realdata: Path) -> None:
    expected = json.loads((realdata / "expected" / "A01_spy_week_resample.json").read_text())["expected"]
    rows = bars(real, "SPY/range/1/minute/2013-10-07/2013-10-11")
    assert len(rows) == expected["total_bars"]
    assert set(rows[0]) == {"t", "o", "h", "l", "c", "v"}
    stored = pl.read_parquet(realdata / "data" / "lean_spy_1m.parquet").filter(
        pl.col("ts").is_between(
            datetime(2013, 10, 7, 4, tzinfo=UTC), datetime(2013, 10, 12, 4, tzinfo=UTC), closed="left"
        )
    )
    assert [row["c"] for row in rows] == stored["close"].to_list()
    assert [row["v"] for row in rows] == stored["volume"].to_list()
    hours = bars(real, "SPY/range/1/hour/2013-10-07/2013-10-11")
    assert len(hours) == expected["all_hours_1h_clock_aligned_bars"]


def test_apple_has_all_its_days_and_its_four_splits(real: Vendor) -> None:
    assert len(bars(real, "AAPL/range/1/day/1998-01-01/2021-12-31", limit=1000)) == 5849
    splits = real.get("/v3/reference/splits", params={"ticker": "AAPL", "order": "asc"}).json()["results"]
    assert [(row["execution_date"], row["split_to"] / row["split_from"]) for row in splits] == [
        ("2000-06-21", 2),
        ("2005-02-28", 2),
        ("2014-06-09", 7),
        ("2020-08-31", 4),
    ]
    path = "AAPL/range/1/day/2014-06-06/2014-06-09"
    raw, adjusted = bars(real, path), bars(real, path, adjusted="true")
    assert adjusted[0]["c"] == pytest.approx(raw[0]["c"] / 28, abs=1e-4)
    assert adjusted[1]["c"] == pytest.approx(raw[1]["c"] / 4, abs=1e-4)


def test_factor_files_give_dividends(real: Vendor) -> None:
    found = real.get(
        "/v3/reference/dividends", params={"ticker": "AAPL", "ex_dividend_date": "2012-08-09"}
    ).json()
    [dividend] = found["results"]
    assert dividend["cash_amount"] == pytest.approx(2.65, abs=0.01)  # Apple's dividend of August 2012


def test_exchange_files_are_crypto_pairs_and_other_files_are_left_alone(real: Vendor) -> None:
    assert bars(real, "X:BTCUSD/range/1/minute/2018-04-04/2018-04-04")
    assert page(real, "COINBASE/range/1/minute/2018-04-04/2018-04-04")["resultsCount"] == 0
    tickers = real.get("/v3/reference/tickers").json()["results"]
    assert [row["ticker"] for row in tickers] == ["AAPL", "GOOG", "SPY", "X:BTCUSD", "X:ETHUSD"]
    assert page(real, "QQQ/range/1/day/2013-10-07/2013-10-11")["resultsCount"] == 0


def test_optional_columns_are_served_where_they_are(vendor: Callable[..., Vendor], tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "ts": [datetime(2024, 3, 7, 15, minute, tzinfo=UTC) for minute in (1, 0)],
            "open": [2, 1], "high": [2, 1], "low": [2, 1], "close": [2, 1], "volume": [20.5, 10],
            "vwap": [2.0, 1.0], "transactions": [3, 4],
        }
    )  # fmt: skip
    frame.write_parquet(tmp_path / "lean_abc_1m.parquet")
    assert bars(vendor(replay=tmp_path), "ABC/range/1/minute/2024-03-07/2024-03-07") == [
        {"v": 10, "vw": 1, "o": 1, "c": 1, "h": 1, "l": 1, "t": 1_709_823_600_000, "n": 4},
        {"v": 20.5, "vw": 2, "o": 2, "c": 2, "h": 2, "l": 2, "t": 1_709_823_660_000, "n": 3},
    ]


@pytest.mark.parametrize("kind", ["absent", "empty", "columns"])
def test_a_folder_that_cannot_be_replayed_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "absent" if kind == "absent" else tmp_path
    if kind == "columns":
        pl.DataFrame({"ts": [datetime(2024, 3, 7, tzinfo=UTC)], "open": [1.0]}).write_parquet(
            tmp_path / "lean_abc_1m.parquet"
        )
    with pytest.raises(ConfigurationError) as caught:
        create_app(SimulatorConfig(replay=folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
