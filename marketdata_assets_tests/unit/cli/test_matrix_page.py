from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser

import polars as pl

from marketdata_assets.cli.matrix_page import matrix_page
from marketdata_assets.domain.gap_scan import KNOWN_GAP_SCHEMA
from marketdata_assets.storage.completeness import RECENT_DAYS, Recent
from marketdata_assets_tests.unit.matrix import FIRST, LAST, days_of, matrix_of

NO_GAPS = KNOWN_GAP_SCHEMA.to_frame()
VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page taken apart; raises when its elements are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def classes(self, key: str) -> list[str | None]:
        """The classes of the cells in the row headed ``key``, of the table of days."""
        cells = [(tag, attributes.get("class")) for tag, attributes in self.elements if tag in ("td", "th")]
        flat = [cell for row in self.rows for cell in row]
        place = flat.index(key) + 1
        return [name for _, name in cells[place : place + RECENT_DAYS]]


def gap(reason: str) -> pl.DataFrame:
    start = datetime(2024, 7, 3, 15, tzinfo=UTC)
    return pl.DataFrame(
        [
            {
                "symbol": "S1",
                "timeframe": "1m",
                "day": date(2024, 7, 3),
                "gap_start": start,
                "gap_end": start + timedelta(hours=1),
                "missing_bars": 1060,
                "state": "unfilled",
                "attempts": 2,
                "reason": reason,
            }
        ],
        schema=KNOWN_GAP_SCHEMA,
    )


def test_the_page_shows_series_days_and_gaps() -> None:
    recent = Recent(FIRST, LAST, days_of(2, ("1m", "1d")))
    page = Page(matrix_page(matrix_of(2, ("1m", "1d")), recent, gap("an outage"), lost_count=900))
    assert ["S0", "✓", "99.0%"] in page.rows
    assert ["S1", "60.0%", "10.0%"] in page.rows
    assert [
        "S1:1m",
        "2024-07-03 15:00",
        "2024-07-03 16:00",
        "1,060",
        "unfilled",
        "2",
        "an outage",
    ] in page.rows
    assert page.classes("S0:1m") == ["w"] * RECENT_DAYS
    assert page.classes("S1:1d")[:7] == ["w", "g1", "g2", "g3", "e", "u", "w"]


def test_weeks_are_headed_so_that_the_columns_fit() -> None:
    for days in (60, 56, 7, 5, 1):
        first = LAST - timedelta(days=days - 1)
        recent = Recent(first, LAST, days_of(1, ("1m",), start=first))
        page = Page(matrix_page(matrix_of(1), recent, NO_GAPS, lost_count=0))
        spans = [int(given["colspan"] or 0) for _, given in page.elements if "colspan" in given]
        assert sum(spans) == days
        assert 1 <= spans[0] <= 7
        assert spans[1:] == [7] * (len(spans) - 1)


def test_a_day_is_blank_before_the_first_and_faint_when_nothing_is_expected() -> None:
    days = days_of(1, ("1m",), start=LAST - timedelta(days=4)).filter(
        pl.col("day") != LAST - timedelta(days=2)
    )
    page = Page(matrix_page(matrix_of(1), Recent(FIRST, LAST, days), NO_GAPS, lost_count=0))
    assert page.classes("S0:1m") == [None] * 55 + ["w", "w", "n", "w", "w"]


def test_what_comes_from_the_store_is_escaped() -> None:
    hostile = "<script>alert('x')</script> & \"more\""
    matrix = matrix_of(1).with_columns(symbol=pl.lit("<b>"))
    recent = Recent(FIRST, LAST, days_of(1).with_columns(symbol=pl.lit("<b>")))
    text = matrix_page(matrix, recent, gap(hostile), lost_count=1)
    assert "<script" not in text
    assert "<b>" not in text
    assert hostile in [cell for row in Page(text).rows for cell in row]


def test_the_page_needs_nothing_else() -> None:
    text = matrix_page(matrix_of(3), Recent(FIRST, LAST, days_of(3)), gap("an outage"), lost_count=1)
    for outside in ("http:", "https:", "src=", "href=", "@import", "url("):
        assert outside not in text


def test_a_page_of_the_whole_universe_stays_readable_by_a_browser() -> None:
    text = matrix_page(matrix_of(62), Recent(FIRST, LAST, days_of(62)), NO_GAPS, lost_count=0)
    assert len(text) < 3_000_000


def test_a_store_without_days_or_gaps_has_a_page() -> None:
    text = matrix_page(matrix_of(1), None, NO_GAPS, lost_count=0)
    Page(text)
    assert "No gap is open or unfilled." in text
    assert "By day" not in text


def test_the_page_marks_and_names_a_series_that_was_scanned_only_up_to_an_earlier_day() -> None:
    scanned = {"first_scanned": pl.lit(date(2024, 6, 3)), "last_scanned": pl.lit(date(2024, 6, 28))}
    matrix = matrix_of(1, ("1m", "1d")).with_columns(**scanned)
    ended = matrix.head(1).with_columns(due=date(2026, 11, 26))
    text = matrix_page(matrix, None, NO_GAPS, lost_count=0, ended=ended)
    assert text.count("✓…</td>") == 1
    assert text.count("scanned from 2024-06-03 to 2024-06-28") == 2
    assert "S0:1m, scanned up to 2024-06-28 where 2026-11-26 is due" in text
