"""Which bars are asked for, and how they are drawn."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from io import BytesIO, StringIO

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from marketdata_assets.cli import bars as command
from marketdata_assets.cli import console
from marketdata_assets.cli.axis import MAX_SLOTS, lay_out, session_borders
from marketdata_assets.cli.candles import Chart, candles, shaded_spans
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of, microseconds
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.gaps import GapState
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

XNYS, CRYPTO = calendar_of(AssetClass.STOCK), calendar_of(AssetClass.CRYPTO)
TODAY = date(2024, 1, 10)
NOON = datetime(2024, 1, 10, 17, tzinfo=UTC)


def chosen_range(
    *, days: int | None = None, start: str | None = None, end: str | None = None, timeframe: str = "1m"
) -> tuple[date | str, date | str]:
    return command.choose_range(days, start, end, Timeframe.parse(timeframe), calendar=XNYS, now=NOON)


def test_days_end_today_or_where_they_are_told_to() -> None:
    assert chosen_range(days=2) == (date(2024, 1, 9), TODAY)
    assert chosen_range(days=1, end="2024-01-02") == (date(2024, 1, 2), date(2024, 1, 2))
    assert chosen_range() == (date(2024, 1, 6), TODAY)
    assert chosen_range(timeframe="1w") == (TODAY - timedelta(days=729), TODAY)
    assert chosen_range(start="2024-01-02T14:30:00Z", end="2024-01-02T15:00:00Z") == (
        "2024-01-02T14:30:00Z",
        "2024-01-02T15:00:00Z",
    )


def test_the_last_days_are_those_of_the_market() -> None:
    evening = datetime(2024, 1, 3, 1, tzinfo=UTC)  # 20:00 of the second in New York
    of_yesterday, of_today = (
        command.choose_range(1, None, None, Timeframe.M1, calendar=calendar, now=evening)
        for calendar in (XNYS, CRYPTO)
    )
    assert of_yesterday == (date(2024, 1, 2), date(2024, 1, 2))
    assert of_today == (date(2024, 1, 3), date(2024, 1, 3))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"days": 1, "start": "2024-01-02"}, "exclude each other"),
        ({"days": 0}, "--days 0"),
        ({"end": "2024-01-02T15:00:00Z"}, "needs a --start"),
        ({"end": "yesterday"}, "--end 'yesterday' is not a date"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        chosen_range(**wrong)  # type: ignore[arg-type]


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


def chart_of(bars: pl.DataFrame, title: str = "AAPL 1m") -> Chart:
    window = Window(bars["time"][0].astimezone(UTC), bars["time"][-1].astimezone(UTC) + timedelta(minutes=1))
    return Chart(Series("AAPL", Timeframe.M1), AssetClass.CRYPTO, window, title)


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

    red, green = reds(candles(made(40), chart_of(made(40))))
    assert red == 0
    assert green > 1000
    red, green = reds(candles(made(40, falling=True), chart_of(made(40))))
    assert red > 1000
    assert green == 0


def test_one_bar_an_index_and_a_long_history_are_drawn_too() -> None:
    for bars in (made(1), made(30, volume=None), made(MAX_SLOTS + 5)):
        picture = candles(bars, chart_of(bars))
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 200_000


FRIDAY_TO_TUESDAY = Window(datetime(2024, 1, 5, 5, tzinfo=UTC), datetime(2024, 1, 10, 5, tzinfo=UTC))
LATER = datetime(2024, 2, 1, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2024-01-{text}:00+00:00")


def moments(*texts: str) -> np.ndarray:
    return np.array([microseconds(at(text)) for text in texts], dtype=np.int64)


def test_closed_hours_take_no_room_and_missing_bars_do() -> None:
    """Two bars in three sessions: the axis is 3 x 390 minutes long whatever is stored."""
    axis = lay_out(moments("05T14:30", "09T15:30"), Timeframe.M1, FRIDAY_TO_TUESDAY, XNYS, LATER)
    assert axis.length == 3 * 390
    assert session_borders(axis) == [390, 780]
    placed = axis.positions(moments("05T14:30", "05T20:59", "05T23:00", "07T12:00", "08T14:30", "09T15:30"))
    assert placed.tolist() == [0, 389, 390, 390, 390, 840]


def test_hours_beyond_the_regular_ones_are_there_where_bars_are() -> None:
    axis = lay_out(moments("05T13:00", "05T22:00"), Timeframe.H1, FRIDAY_TO_TUESDAY, XNYS, LATER)
    # 08:00 to 18:00, then 09:00 to 16:00 twice: an hour is one place wide.
    assert axis.offsets.tolist() == [0, 10, 17]
    assert axis.length == 24


def test_days_and_weeks_are_side_by_side_over_holidays() -> None:
    window = Window(datetime(2023, 12, 20, 5, tzinfo=UTC), datetime(2024, 1, 6, 5, tzinfo=UTC))
    days = np.array([microseconds(XNYS.day_start(date(2023, 12, 22)))])
    axis = lay_out(days, Timeframe.D1, window, XNYS, LATER)
    assert axis.length == len(XNYS.sessions(date(2023, 12, 20), date(2024, 1, 5))) == 11
    assert session_borders(axis) == []
    assert axis.positions(days).tolist() == [2]
    nothing_yet = lay_out(days, Timeframe.D1, window, XNYS, datetime(2023, 12, 27, tzinfo=UTC))
    assert nothing_yet.length == 4


def test_gaps_are_shaded_by_state_and_filled_ones_are_not() -> None:
    axis = lay_out(moments("05T14:30"), Timeframe.M1, FRIDAY_TO_TUESDAY, XNYS, LATER)
    rows = [
        ("unfilled", at("05T20:30"), at("08T15:00")),
        ("open", at("06T00:00"), at("07T00:00")),
        ("no_trades", at("09T14:30"), at("09T14:31")),
        ("filled", at("09T15:00"), at("09T16:00")),
    ]
    gaps = pl.DataFrame(rows, schema=["state", "gap_start", "gap_end"], orient="row")
    chart = Chart(Series("AAPL", Timeframe.M1), AssetClass.STOCK, FRIDAY_TO_TUESDAY, "", gaps=gaps)
    # The open one lies on a weekend: it has no width.
    assert shaded_spans(axis, chart) == {GapState.UNFILLED: [(360, 420)], GapState.NO_TRADES: [(780, 781)]}


@given(
    st.sampled_from(list(Timeframe)),
    st.dates(date(2023, 1, 1), date(2024, 1, 5)),
    st.integers(1, 400),
    st.sampled_from([AssetClass.STOCK, AssetClass.CRYPTO]),
)
def test_ticks_are_round_apart_and_few(
    timeframe: Timeframe, first: date, days: int, asset_class: AssetClass
) -> None:
    calendar = calendar_of(asset_class)
    window = Window(calendar.day_start(first), calendar.day_start(first + timedelta(days=days)))
    session = calendar.last_sessions(first + timedelta(days=days - 1), 1)[0]
    opened = calendar.session(session)
    assert opened is not None
    if not window.contains(opened.regular.start):
        return
    axis = lay_out(np.array([microseconds(opened.regular.start)]), timeframe, window, calendar, LATER)
    ticks = axis.ticks()
    positions = [position for position, _ in ticks]
    assert len(ticks) <= 9
    assert positions == sorted(set(positions))
    assert all(0 <= position <= axis.length for position in positions)
    for _, label in ticks:
        if ":" in label:
            minutes = int(label[:2]) * 60 + int(label[3:5])
            assert minutes % 5 == 0 or len(axis.starts) == 1


def table_of(bars: pl.DataFrame, columns: list[str], width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(command.bar_table(bars, columns))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def priced(*closes: float, timeframe: str = "1d", symbol: str = "AAPL") -> pl.DataFrame:
    rows = [
        {
            **dict.fromkeys(("open", "high", "low", "close", "vwap"), close),
            "symbol": symbol,
            "timeframe": timeframe,
            "volume": 37_681_123.0,
            "transactions": 412_345,
            "time": datetime(2026, 11, 2, 5, tzinfo=UTC) + place * timedelta(days=1),
            "base_bars": 1,
        }
        for place, close in enumerate(closes)
    ]
    return pl.DataFrame(rows, schema=BAR_SCHEMA)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("timeframe", ["1m", "1d"])
def test_a_table_of_any_width_shows_every_time_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, timeframe: str
) -> None:
    terminal = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "out", terminal)
    command.show_bars(priced(513.6, 509.75, 498.123, timeframe=timeframe))
    assert isinstance(terminal.file, StringIO)
    lines = terminal.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for day in ("2026-11-02", "2026-11-03", "2026-11-04"):
        wanted = f"{day} 05:00" if timeframe == "1m" else f"{day} "
        assert sum(wanted in line for line in lines) == 1
    # A day bar has no hour.
    assert any(":00" in line for line in lines) is (timeframe == "1m")
    assert any("498.123" in line for line in lines)
    if width >= 80:
        assert all(name in lines[2] for name in ("open", "high", "low", "close"))
    if width == 40:
        assert "too narrow for" in capsys.readouterr().out


def test_decimals_stand_below_each_other_and_small_prices_are_not_zero() -> None:
    lines = table_of(priced(513.6, 509.75, 1238.08), ["time", "close"], 80)
    points = {line.index(".") for line in lines if "2026" in line}
    assert len(points) == 1
    assert any("513.60" in line for line in lines)
    assert any("0.00001234" in line for line in table_of(priced(1.234e-5), ["time", "close"], 80))
    assert any("37,681,123 " in line for line in table_of(priced(1.0), ["time", "volume"], 80))
