"""What becomes of days of whole markets: bars, evidence, and what they leave to ranges."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest

from marketdata_assets.domain.bars import BAR_SCHEMA, KEY
from marketdata_assets.domain.calendar import calendar_of, milliseconds
from marketdata_assets.domain.series import AssetClass, Instrument, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.pipeline.day_ingest import SERIES_A_BATCH
from marketdata_assets.pipeline.ingest import Ingest
from marketdata_assets.pipeline.market_days import RANGES_INSTEAD
from marketdata_assets.polygon.errors import (
    EndpointNotFoundError,
    EntitlementError,
    PolygonError,
    RateLimitedError,
    VendorFailureError,
)
from marketdata_assets.polygon.grouped import DayRequest, bars_of_day
from marketdata_assets.polygon.parser import parse_day
from marketdata_assets.polygon.planner import plan_fetches
from marketdata_assets.polygon.request import FetchRecord
from marketdata_assets.polygon.vendor import DayFetched, FetchEvent, RequestFailed
from marketdata_assets_tests.unit.frames import at, days_window

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from marketdata_assets.polygon.planner import Plan
    from marketdata_assets.polygon.request import FetchRequest
    from marketdata_assets.storage.bars import BarBatch

XNYS = calendar_of(AssetClass.STOCK)
D1, W1 = Timeframe.D1, Timeframe.W1
MONDAY, TUESDAY = date(2024, 7, 1), date(2024, 7, 2)
NOW = at("2025-06-01T12:00")
SYMBOLS = ["A", "B", "C", "D"]
KNOWN = {Series(symbol, D1): [days_window(XNYS, date(2024, 6, 3), date(2024, 6, 28))] for symbol in SYMBOLS}


def planned(*days: date, symbols: Sequence[str] = SYMBOLS, now: datetime = NOW) -> Plan:
    instruments = [Instrument(symbol, AssetClass.STOCK) for symbol in symbols]
    chosen = plan_fetches({one: [D1] for one in instruments}, days, {}, now=now, force=True)
    assert [request.day for request in chosen.days] == list(days)
    return chosen


def record(request: DayRequest, bars: int, page: int = 1, error: str | None = None) -> FetchRecord:
    path = request.market.path(request.day)
    status, vendor_status = (503, None) if error else (200, "OK")
    requested = NOW + timedelta(days=request.day.day)
    return FetchRecord(
        request.symbol,
        D1,
        request.window,
        page,
        path,
        requested,
        status,
        vendor_status,
        "r",
        bars,
        bars,
        0,
        1,
        0,
        error,
    )


def row(request: DayRequest, symbol: str, close: float = 10) -> dict[str, object]:
    stamp = milliseconds(request.window.start) + 16 * 3_600_000
    return {"T": symbol, "t": stamp, "o": 10, "h": 12, "l": 9, "c": close, "v": 5, "vw": 10, "n": 3}


def answer(
    request: DayRequest, rows: Iterable[dict[str, object]], page: int = 1, *, is_last: bool = True
) -> DayFetched:
    listed = list(rows)
    read = parse_day(json.dumps({"status": "OK", "results": listed}).encode())
    bars = bars_of_day(read.frame, request)
    return DayFetched(request, bars, record(request, len(listed), page), is_last, read.rows)


def failed(request: DayRequest, error: PolygonError) -> RequestFailed:
    error.record = record(request, 0, error=str(error))
    return RequestFailed(request, error, error.record)


class Run:
    """An ingest of ``events``, and the ranges that it requested: they bring nothing."""

    def __init__(
        self,
        chosen: Plan,
        events: Iterable[FetchEvent],
        *,
        coverage: dict[Series, list[Window]] | None = None,
        now: datetime = NOW,
        differing: pl.DataFrame | None = None,
        stored: pl.DataFrame | None = None,
        series_a_batch: int = SERIES_A_BATCH,
    ) -> None:
        self.ranges: list[str] = []
        self.batches: list[BarBatch] = []
        self._stored = stored if stored is not None else BAR_SCHEMA.to_frame()
        ingest = Ingest(
            chosen, now=now, coverage=coverage or {}, run_id="a-run", series_a_batch=series_a_batch
        )
        for batch in ingest.batches(events, self._read, self._fetch):
            self.batches.append(batch)
            if differing is not None and batch.day_bars.height:
                batch.differing.append(differing)
        self.report = ingest.report

    def _read(self, series: Series, window: Window) -> pl.DataFrame:
        times = pl.col("time").is_between(window.start, window.end, closed="left")
        return self._stored.filter(times, symbol=series.symbol, timeframe=series.timeframe.value)

    def _fetch(self, requests: Sequence[FetchRequest]) -> Generator[FetchEvent]:
        self.ranges += [request.symbol for request in requests]
        self.windows = [request.window for request in requests]
        yield from ()

    @property
    def bars(self) -> list[tuple[str, date]]:
        frame = pl.concat(batch.day_bars for batch in self.batches).sort(KEY)
        return [(symbol, XNYS.local_day(time)) for symbol, time in frame.select("symbol", "time").iter_rows()]

    def covered(self, symbol: str) -> list[Window]:
        return union(window for batch in self.batches for window in batch.covered.get(Series(symbol, D1), ()))

    @property
    def log(self) -> dict[tuple[str, Window], str]:
        return {(one.symbol, one.window): one.status for batch in self.batches for one in batch.fetches}


def test_a_day_answers_for_every_symbol_whose_history_has_begun() -> None:
    chosen = planned(MONDAY, TUESDAY)
    monday, tuesday = chosen.days
    run = Run(
        chosen,
        [answer(monday, [row(monday, one) for one in SYMBOLS]), answer(tuesday, [row(tuesday, "A")])],
    )
    assert run.bars == [("A", MONDAY), ("A", TUESDAY), ("B", MONDAY), ("C", MONDAY), ("D", MONDAY)]
    assert (run.ranges, run.report.failures, run.report.empty) == ([], [], [])
    both = days_window(XNYS, MONDAY, TUESDAY)
    assert all(run.covered(symbol) == [both] for symbol in SYMBOLS)
    assert run.log == {
        ("stocks", monday.window): "ok",
        ("stocks", tuesday.window): "ok",
        **{(symbol, both): "ok" for symbol in SYMBOLS},
    }


def test_a_friday_answers_for_the_weekend_behind_it() -> None:
    friday = date(2024, 7, 5)
    chosen = planned(friday)
    run = Run(chosen, [answer(chosen.days[0], [row(chosen.days[0], one) for one in SYMBOLS])])
    assert run.covered("A") == [days_window(XNYS, friday, date(2024, 7, 7))]


def test_absence_before_the_first_known_bar_is_no_answer_and_left_to_the_range() -> None:
    chosen = planned(MONDAY)
    [monday] = chosen.days
    run = Run(chosen, [answer(monday, [row(monday, "A"), row(monday, "B")])])
    assert run.ranges == ["C", "D"]
    assert [bool(run.covered(symbol)) for symbol in SYMBOLS] == [True, True, False, False]


def test_an_answer_without_any_row_settles_nothing() -> None:
    chosen = planned(MONDAY)
    run = Run(chosen, [answer(chosen.days[0], [])], coverage=KNOWN)
    assert (run.ranges, run.report.failures) == ([], [])
    assert not any(run.covered(symbol) for symbol in SYMBOLS)
    others = [row(chosen.days[0], "ZZZ")]
    assert all(Run(chosen, [answer(chosen.days[0], others)], coverage=KNOWN).covered(one) for one in SYMBOLS)


def test_what_may_still_be_revised_is_not_covered() -> None:
    now = at("2024-07-03T02:00")
    chosen = planned(MONDAY, TUESDAY, now=now)
    events = [answer(one, [row(one, symbol) for symbol in SYMBOLS]) for one in chosen.days]
    run = Run(chosen, events, now=now)
    assert len(run.bars) == 8
    assert not any(run.covered(symbol) for symbol in SYMBOLS)


def test_a_large_day_is_committed_in_parts() -> None:
    chosen = planned(MONDAY, TUESDAY, symbols=[*SYMBOLS, "E"])
    events = [answer(day, [row(day, symbol) for symbol in "ABCDE"]) for day in chosen.days]
    run = Run(chosen, events, series_a_batch=2)
    assert len(run.bars) == 10
    for batch in run.batches:
        stored = set(batch.day_bars["symbol"])
        assert len(stored) <= 2
        assert {series.symbol for series in batch.covered} == stored


def test_a_row_that_breaks_a_rule_is_quarantined_and_its_day_not_covered() -> None:
    chosen = planned(MONDAY, TUESDAY)
    monday, tuesday = chosen.days
    broken = row(monday, "B", close=99)
    events = [
        answer(monday, [row(monday, "A"), {"T": "ZZZ"}, broken, row(monday, "C")]),
        answer(tuesday, [row(tuesday, "A"), row(tuesday, "B")]),
    ]
    run = Run(chosen, events, coverage=KNOWN)
    [kept] = [batch.quarantined for batch in run.batches if batch.quarantined.height]
    assert kept.select("symbol", "timeframe", "rule").rows() == [("B", "1d", "high_below_body")]
    assert json.loads(kept["vendor_row"][0]) == broken
    assert run.covered("B") == [XNYS.day_window(TUESDAY)]
    assert run.report.failures == []
    [notice] = run.report.notices
    assert "high_below_body 1" in notice


@pytest.mark.parametrize("is_known", [True, False])
def test_a_symbol_whose_rows_all_broke_a_rule_fails_unless_its_range_is_requested(is_known: bool) -> None:  # noqa: FBT001 - a parameter
    chosen = planned(MONDAY)
    [monday] = chosen.days
    rows = [row(monday, symbol, close=99 if symbol == "B" else 10) for symbol in SYMBOLS]
    run = Run(chosen, [answer(monday, rows)], coverage=KNOWN if is_known else {})
    assert run.ranges == ([] if is_known else ["B"])
    assert run.report.failed_symbols == (["B"] if is_known else [])


def test_a_day_may_come_on_several_pages() -> None:
    chosen = planned(MONDAY)
    [monday] = chosen.days
    broken = row(monday, "D", close=99)
    run = Run(
        chosen,
        [
            answer(monday, [row(monday, "A"), row(monday, "B")], is_last=False),
            answer(monday, [row(monday, "C"), broken], page=2),
        ],
        coverage=KNOWN,
    )
    assert run.bars == [("A", MONDAY), ("B", MONDAY), ("C", MONDAY)]
    assert (run.report.requests, run.report.pages, run.report.rows_fetched) == (1, 2, 4)
    [text] = pl.concat(batch.quarantined for batch in run.batches)["vendor_row"]
    assert json.loads(text) == broken


def test_days_before_the_history_of_the_plan_are_a_notice() -> None:
    chosen = planned(MONDAY, TUESDAY)
    monday, tuesday = chosen.days
    refusal = EntitlementError("your plan does not include it", status=403)
    run = Run(chosen, [failed(monday, refusal), answer(tuesday, [row(tuesday, one) for one in SYMBOLS])])
    assert (run.ranges, run.report.failures) == ([], [])
    assert run.report.notices == [f"{monday.window}: {refusal}"]


@pytest.mark.parametrize(
    ("error", "answers", "by_range"),
    [
        (VendorFailureError("away"), True, True),
        (VendorFailureError("away"), False, True),
        (EndpointNotFoundError("gone", status=404), False, True),
        (EntitlementError("not yours", status=403), False, True),
        (EntitlementError("not yours", status=403), True, False),
        (RateLimitedError("too fast", retry_after=60), True, False),
        (RateLimitedError("too fast", retry_after=60), False, False),
    ],
)
def test_the_symbols_of_a_failed_day_are_requested_by_ranges_or_fail(
    error: PolygonError,
    answers: bool,  # noqa: FBT001 - a parameter
    by_range: bool,  # noqa: FBT001 - a parameter
) -> None:
    chosen = planned(MONDAY, TUESDAY)
    monday, tuesday = chosen.days
    other = answer(monday, [row(monday, one) for one in SYMBOLS]) if answers else failed(monday, error)
    run = Run(chosen, [other, failed(tuesday, error)], coverage=KNOWN)
    assert run.ranges == (SYMBOLS if by_range else [])
    assert run.report.failed_symbols == ([] if by_range else SYMBOLS)
    wanted = tuesday.window if answers else days_window(XNYS, MONDAY, TUESDAY)
    assert {one.window for one in run.report.failures} == (set() if by_range else {wanted})
    assert {status for (symbol, _), status in run.log.items() if symbol != "stocks"} == {
        *(["ok"] if answers else []),
        *([] if by_range else ["failed"]),
    }


def test_a_vendor_that_is_down_is_not_asked_for_every_symbol() -> None:
    symbols = [f"S{n}" for n in range(RANGES_INSTEAD + 1)]
    chosen = planned(MONDAY, symbols=symbols)
    known = {Series(symbol, D1): KNOWN[Series("A", D1)] for symbol in symbols}
    run = Run(chosen, [failed(chosen.days[0], VendorFailureError("away"))], coverage=known)
    assert run.ranges == []
    assert run.report.failed_symbols == sorted(symbols)


@pytest.mark.parametrize("is_recent", [True, False])
def test_bars_that_differ_from_those_of_ranges_are_reported_by_name(is_recent: bool) -> None:  # noqa: FBT001 - a parameter
    now = at("2024-07-03T02:00") if is_recent else NOW
    chosen = planned(MONDAY, TUESDAY, now=now)
    events = [answer(one, [row(one, symbol) for symbol in SYMBOLS]) for one in chosen.days]
    opened = XNYS.day_start(TUESDAY)
    bar = pl.DataFrame(
        [
            {
                "symbol": "B",
                "timeframe": "1d",
                "time": opened,
                "open": 10.0,
                "high": 12.0,
                "low": 9.0,
                "close": 10.0,
            }
        ],
    )
    differing = pl.DataFrame(schema=BAR_SCHEMA).vstack(
        bar.with_columns(
            volume=pl.lit(5.0), vwap=pl.lit(None, pl.Float64), transactions=pl.lit(3), base_bars=pl.lit(1)
        )
        .cast(BAR_SCHEMA)
        .select(BAR_SCHEMA.names())
    )
    other = differing.with_columns(close=pl.lit(11.0), vwap=pl.lit(9.9))
    run = Run(chosen, events, now=now, coverage=KNOWN, differing=differing, stored=other)
    assert run.ranges == (["B"] if is_recent else [])
    # No other day: its bar would become one of a range, and be requested again every night.
    assert not is_recent or run.windows == [XNYS.day_window(TUESDAY)]
    assert run.report.differs_from_range == [(Series("B", D1), TUESDAY)]
    assert "B:1d of 2024-07-02: the bars of the ranges stay" in run.report.notices[-1]
    # A value that the day lacks is no difference.
    same = differing.with_columns(vwap=pl.lit(9.9))
    assert Run(chosen, events, now=now, differing=differing, stored=same).report.differs_from_range == []
