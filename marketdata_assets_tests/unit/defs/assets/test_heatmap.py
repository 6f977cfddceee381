from __future__ import annotations

import struct
from datetime import timedelta
from io import BytesIO

import polars as pl
import pytest
from PIL import Image

from marketdata_assets.defs.assets.completeness_matrix import matrix_table
from marketdata_assets.defs.assets.heatmap import MAX_ROWS, days_picture, matrix_picture
from marketdata_assets_tests.unit.matrix import FIRST, LAST, days_of, matrix_of
from marketdata_assets_tests.unit.test_architecture import loaded_by

FEW = 12
"""Rows of a picture that is quickly drawn: enough for every status twice."""
WHOLE, NOTHING_EXPECTED = (0x2A, 0x9D, 0x8F), (0xF1, 0xF3, 0xF5)


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG, as its header says."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def area(picture: bytes, colour: tuple[int, int, int]) -> int:
    """How many pixels have ``colour``."""
    with Image.open(BytesIO(picture)) as image:
        counts = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
    return sum(count for count, found in counts if found == colour)


@pytest.mark.parametrize("symbols", [6, 62])
def test_a_matrix_grows_with_its_symbols_and_stays_small(symbols: int) -> None:
    picture = matrix_picture(matrix_of(symbols))
    width, height = size_of(picture)
    assert 600 < width < 800
    assert symbols * 18 <= height < symbols * 18 + 120
    assert len(picture) < 100_000


def test_days_grow_with_their_series_up_to_what_is_legible() -> None:
    few, many = (days_picture(days_of(symbols), FIRST, LAST) for symbols in (1, 62))
    assert size_of(few)[1] < size_of(many)[1] < MAX_ROWS * 12 + 120
    assert max(len(few), len(many)) < 100_000


def test_of_too_many_series_the_least_complete_are_shown() -> None:
    first = LAST - timedelta(days=2)
    every = days_of(FEW + 1, ("1m",), start=first)
    assert whole_every_day(every) == ["S0"]
    cut = days_picture(every, first, LAST, max_rows=FEW)
    bare = days_picture(every.filter(pl.col("symbol") != "S0"), first, LAST)
    assert size_of(cut) == size_of(bare)
    assert area(cut, WHOLE) == area(bare, WHOLE)


def test_of_too_many_symbols_the_least_complete_are_shown() -> None:
    every = matrix_of(FEW + 1, ("1m",))
    unknown = {"expected_bars": 0, "missing_bars": 0, "status": "unchecked", "completeness": None}
    never = every.tail(1).with_columns(pl.lit(value).alias(name) for name, value in unknown.items())
    first = every.head(FEW)
    cut, bare = (
        matrix_picture(one, max_rows=FEW) for one in (pl.concat([never.cast(every.schema), first]), first)
    )
    assert size_of(cut) == size_of(bare)
    assert area(cut, WHOLE) == area(bare, WHOLE)


def test_of_too_many_series_the_table_shows_the_least_complete() -> None:
    matrix = matrix_of(MAX_ROWS + 1, ("1m",))
    assert matrix_table(matrix.clear()) == "No series has been scanned yet."
    *lines, blank, more = matrix_table(matrix).splitlines()
    assert len(lines) == 2 + MAX_ROWS
    assert sum("✓" in line for line in lines) == matrix.filter(status="whole").height - 1
    assert (blank, more) == ("", "… and 1 more: `marketdata matrix` shows all.")
    assert len(matrix_table(matrix.head(MAX_ROWS)).splitlines()) == 2 + MAX_ROWS


def whole_every_day(days: pl.DataFrame) -> list[str]:
    return (
        days.group_by("symbol").agg(pl.col("missing_bars").sum()).filter(missing_bars=0)["symbol"].to_list()
    )


def test_a_series_is_blank_before_its_first_day() -> None:
    first = LAST - timedelta(days=9)
    days = days_of(1, ("1m",), start=first)
    late, holiday = days.tail(1), days.filter(pl.col("day") != LAST - timedelta(days=1))
    # The legend names the colour in any case.
    named, blank, grey = (
        area(days_picture(one, first, LAST), NOTHING_EXPECTED) for one in (days, late, holiday)
    )
    assert named == blank < grey


def test_nothing_to_draw_is_a_picture_too() -> None:
    size_of(matrix_picture(matrix_of(0)))
    size_of(days_picture(days_of(0), FIRST, LAST))


def test_what_draws_is_loaded_when_it_draws() -> None:
    loaded = {name.split(".")[0] for name in loaded_by("import marketdata_assets.defs.assets.heatmap")}
    assert "numpy" in loaded
    assert not loaded & {"matplotlib", "PIL"}
