"""Which bars are asked for, and how they are drawn."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from io import BytesIO

import polars as pl
import pytest
from PIL import Image

from marketdata_assets.cli import bars as command
from marketdata_assets.cli.candles import MAX_BARS, candles
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import Timeframe

TODAY = date(2024, 1, 10)


def asked(
    *, days: int | None = None, start: str | None = None, end: str | None = None, timeframe: str = "1m"
) -> tuple[date | str, date | str]:
    return command._range(days, start, end, Timeframe.parse(timeframe), TODAY)


def test_days_end_today_or_where_they_are_told_to() -> None:
    assert asked(days=2) == (date(2024, 1, 9), TODAY)
    assert asked(days=1, end="2024-01-02") == (date(2024, 1, 2), date(2024, 1, 2))
    assert asked() == (date(2024, 1, 6), TODAY)
    assert asked(timeframe="1w") == (TODAY - timedelta(days=729), TODAY)
    assert asked(start="2024-01-02T14:30:00Z", end="2024-01-02T15:00:00Z") == (
        "2024-01-02T14:30:00Z",
        "2024-01-02T15:00:00Z",
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"days": 1, "start": "2024-01-02"}, "exclude each other"),
        ({"days": 0}, "--days 0"),
        ({"end": "2024-01-02T15:00:00Z"}, "--start must say"),
        ({"end": "yesterday"}, "--end 'yesterday' is not a date"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        asked(**wrong)  # type: ignore[arg-type]


def made(count: int, *, volume: float | None = 10.0, falling: bool = False) -> pl.DataFrame:
    start = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
    step = -1.0 if falling else 1.0
    rows = [
        {
            "symbol": "AAPL",
            "timeframe": "1m",
            "time": start + place * timedelta(minutes=1),
            "open": 1e5 + place,
            "high": 1e5 + place + 2,
            "low": 1e5 + place - 2,
            "close": 1e5 + place + step,
            "volume": volume,
            "base_bars": 1,
        }
        for place in range(count)
    ]
    return pl.DataFrame(rows, schema=BAR_SCHEMA)


def colours(picture: bytes) -> dict[tuple[int, ...], int]:
    with Image.open(BytesIO(picture)) as image:
        found = image.convert("RGB").getcolors(1 << 20)
    assert found
    return {colour: count for count, colour in found if isinstance(colour, tuple)}


def test_rising_bars_are_green_and_falling_ones_red() -> None:
    def reds(picture: bytes) -> tuple[int, int]:
        counted = colours(picture)
        red = sum(count for (r, g, b), count in counted.items() if r > g + 40 and r > b + 40)
        green = sum(count for (r, g, _), count in counted.items() if g > r + 40)
        return red, green

    red, green = reds(candles(made(40), "AAPL"))
    assert red == 0
    assert green > 1000
    red, green = reds(candles(made(40, falling=True), "AAPL"))
    assert red > 1000
    assert green == 0


def test_one_bar_an_index_and_a_long_history_are_drawn_too() -> None:
    one, index = candles(made(1), "one"), candles(made(30, volume=None), "index")
    long = candles(made(MAX_BARS + 5), "long")
    for picture in (one, index, long):
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 200_000
