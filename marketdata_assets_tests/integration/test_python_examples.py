"""The examples of docs/python.md, run as they stand there, one after the other."""

from __future__ import annotations

import re
import warnings
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from marketdata_assets import queries
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.actions import store_actions
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.features import FeatureBatch, write_features
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.conftest import REPOSITORY
from marketdata_assets_tests.integration.frames import bar, frame, joined, run_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.storage.connection import Database

PAGE = REPOSITORY / "docs" / "python.md"


@pytest.fixture(autouse=True)
def _store(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    daily = Series("AAPL", Timeframe.D1)
    add_symbols(
        database,
        [TrackedSymbol("AAPL", AssetClass.STOCK, timeframes=(Timeframe.M1, Timeframe.D1))],
    )
    calendar = calendar_of(AssetClass.STOCK)
    days = [calendar.day_start(day) for day in calendar.sessions(date(2024, 1, 2), date(2024, 1, 5))]
    write_batch(
        database, BarBatch(joined([run_of("AAPL:1m", 30), frame(*(bar("AAPL:1d", day) for day in days))]))
    )
    split = {"symbol": "AAPL", "execution_date": date(2024, 2, 1), "split_from": 1.0, "split_to": 2.0}
    listed = pl.DataFrame([split], schema=SCHEMAS[ActionKind.SPLITS])
    store_actions(database, ActionKind.SPLITS, listed, symbols=["AAPL"], endpoint="/", today=date(2024, 3, 1))
    described = pl.DataFrame(
        [{"symbol": "AAPL", "timeframe": "1d", "time": day, "gap_in_window": False} for day in days],
        schema=FEATURES_SCHEMA,
    )
    window = Window(days[0], datetime(2024, 1, 9, tzinfo=UTC))
    write_features(database, FeatureBatch(described, {daily: window}))
    yield
    queries._close_all()


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == text.count("```python") == 8
    names: dict[str, Any] = {}
    with warnings.catch_warnings():  # an example changes what becomes of warnings
        for example in examples:
            line = text[: text.index(example)].count("\n")
            exec(compile("\n" * line + example, str(PAGE), "exec"), names)  # noqa: S102 - what readers will run
    assert (names["frame"].height, names["described"]["gap_in_window"].null_count()) == (4, 0)
    said = capsys.readouterr().out
    assert "0 gaps are explained" in said
    assert "NOPE is not tracked" in said
