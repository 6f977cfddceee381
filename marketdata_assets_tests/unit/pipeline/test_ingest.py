from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from marketdata_assets.domain.bars import BAR_SCHEMA, KEY, VENDOR_SCHEMA
from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.rollup import roll_up
from marketdata_assets.domain.series import AssetClass, Instrument, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window, union
from marketdata_assets.pipeline.ingest import BATCH_ROWS, Ingest
from marketdata_assets.pipeline.ingest_state import FailedRequest, IngestReport, QuarantinedError, ReadBars
from marketdata_assets.polygon.client import HistoryNotice
from marketdata_assets.polygon.errors import AuthenticationError, EntitlementError, VendorFailureError
from marketdata_assets.polygon.parser import parse_page
from marketdata_assets.polygon.planner import Fetch, Plan, StoredRollup
from marketdata_assets.polygon.request import FetchRecord, FetchRequest
from marketdata_assets.polygon.vendor import FetchEvent, PageFetched, RequestFailed
from marketdata_assets_tests.examples import examples
from marketdata_assets_tests.unit.frames import as_bars, at, days_window, joined, minutes, vendor_bars

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from marketdata_assets.storage.bars import BarBatch

XNYS = calendar_of(AssetClass.STOCK)
AAPL = Instrument("AAPL", AssetClass.STOCK)
MSFT = Instrument("MSFT", AssetClass.STOCK)
BTC = Instrument("BTC-USD", AssetClass.CRYPTO)
M1, M5, H1, H4, D1, W1 = (Timeframe(name) for name in ("1m", "5m", "1h", "4h", "1d", "1w"))
FIRST, LAST = date(2024, 7, 1), date(2024, 7, 5)
WEEK = days_window(XNYS, FIRST, LAST)
LONG_AFTER = at("2025-06-01T12:00")


def request_of(instrument: Instrument, base: Timeframe, window: Window) -> FetchRequest:
    return FetchRequest(instrument.symbol, instrument.asset_class, base, window)


def fetch_of(request: FetchRequest, *timeframes: Timeframe) -> Fetch:
    return Fetch(request, timeframes, pages=1)


def record_of(request: FetchRequest, page: int, bars: int, error: str | None = None) -> FetchRecord:
    return FetchRecord(
        symbol=request.symbol,
        base=request.base,
        window=request.window,
        page=page,
        path="/v2/aggs",
        requested_at=LONG_AFTER + timedelta(seconds=page),
        status=503 if error else 200,
        vendor_status=None if error else "OK",
        request_id=f"request-{page}",
        bars=bars,
        base_bars=bars,
        retries=page,
        duration_seconds=0.5,
        waited_seconds=0.25,
        error=error,
        rate_limited=page,
    )


def pages(request: FetchRequest, vendor: pl.DataFrame, *cuts: int) -> list[FetchEvent]:
    """``vendor`` as pages, cut after the rows ``cuts``."""
    edges = [0, *cuts, vendor.height]
    frames = [vendor[start:end] for start, end in pairwise(edges)]
    return [
        PageFetched(request, frame, record_of(request, page, frame.height), is_last=page == len(frames))
        for page, frame in enumerate(frames, start=1)
    ]


def failure(request: FetchRequest, page: int = 1) -> RequestFailed:
    error = VendorFailureError("no answer", symbol=request.symbol, window=request.window)
    return RequestFailed(request, error, record_of(request, page, 0, str(error)))


def nothing_stored(_series: Series, _window: Window) -> pl.DataFrame:
    return BAR_SCHEMA.to_frame()


def run(
    fetches: Iterable[Fetch],
    events: Iterable[FetchEvent],
    *,
    now: datetime = LONG_AFTER,
    coverage: Mapping[Series, Sequence[Window]] | None = None,
    read: ReadBars = nothing_stored,
    batch_rows: int = BATCH_ROWS,
) -> tuple[Ingest, list[BarBatch]]:
    plan = Plan(tuple(fetches))
    ingest = Ingest(plan, now=now, coverage=coverage, run_id="a-run", batch_rows=batch_rows)
    return ingest, list(ingest.batches(events, read))


def bars_of(batches: Sequence[BarBatch]) -> pl.DataFrame:
    return joined(batch.bars for batch in batches).sort(KEY)


def quarantined_of(batches: Sequence[BarBatch]) -> pl.DataFrame:
    return pl.concat([batch.quarantined for batch in batches])


def covered_by(batches: Sequence[BarBatch], series: str) -> list[Window]:
    return union(window for batch in batches for window in batch.covered.get(Series.parse(series), ()))


def last_log(batches: Sequence[BarBatch]) -> dict[str, str]:
    """Status of each symbol's request, as the last batch that mentions it leaves it."""
    return {entry.symbol: entry.status for batch in batches for entry in batch.fetches}


def session_minutes(window: Window = WEEK, step: int = 1) -> pl.DataFrame:
    first, last = XNYS.local_day(window.start), XNYS.local_day(window.end - timedelta(minutes=1))
    sessions = [session for day in XNYS.sessions(first, last) if (session := XNYS.session(day))]
    return vendor_bars([time for session in sessions for time in minutes(session.extended, step)])


MINUTES = request_of(AAPL, M1, WEEK)
VENDOR = session_minutes(step=7)
ROLLED = (M1, M5, H1, H4)


def rolled(
    vendor: pl.DataFrame, timeframes: Iterable[Timeframe] = ROLLED, symbol: str = "AAPL"
) -> pl.DataFrame:
    base = as_bars(vendor, Series(symbol, M1))
    return joined(roll_up(base, timeframe, XNYS) for timeframe in timeframes).sort(KEY)


def test_one_page_brings_every_timeframe_and_covers_the_window() -> None:
    ingest, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, VENDOR))
    assert_frame_equal(bars_of(batches), rolled(VENDOR), check_exact=True)
    assert quarantined_of(batches).is_empty()
    for timeframe in ROLLED:
        assert covered_by(batches, f"AAPL:{timeframe}") == [WEEK]
    report = ingest.report
    assert (report.requests, report.pages, report.failures, report.failed_symbols) == (1, 1, [], [])


def test_a_timeframe_that_nobody_wants_is_not_stored() -> None:
    _, batches = run([fetch_of(MINUTES, H1)], pages(MINUTES, VENDOR))
    assert_frame_equal(bars_of(batches), rolled(VENDOR, [H1]))
    assert {series.key for batch in batches for series in batch.covered} == {"AAPL:1h"}


@examples(60)
@given(st.lists(st.integers(0, VENDOR.height), max_size=8).map(sorted), st.sampled_from([1, 150, 100_000]))
def test_pages_cut_anywhere_bring_the_same_bars_and_no_batch_splits_a_day(
    cuts: list[int], batch_rows: int
) -> None:
    ingest, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, VENDOR, *cuts), batch_rows=batch_rows)
    assert_frame_equal(bars_of(batches), rolled(VENDOR), check_exact=True)
    assert covered_by(batches, "AAPL:1m") == covered_by(batches, "AAPL:4h") == [WEEK]
    seen: set[date] = set()
    for batch in batches:
        days = {XNYS.local_day(time) for time in batch.bars["time"]}
        assert not days & seen
        seen |= days
        # What is committed is covered, whole days at a time, and nothing else is.
        for windows in batch.covered.values():
            for window in windows:
                assert XNYS.day_start(XNYS.local_day(window.start)) == window.start
                assert XNYS.day_start(XNYS.local_day(window.end)) == window.end
        covered = [window for windows in batch.covered.values() for window in windows]
        assert all(any(window.contains(time) for window in covered) for time in batch.bars["time"])
    assert ingest.report.pages == len(cuts) + 1
    entry = [entry for batch in batches for entry in batch.fetches][-1]
    assert (entry.status, entry.pages, entry.bars) == ("ok", len(cuts) + 1, VENDOR.height)


def test_a_page_that_ends_within_a_day_commits_only_the_days_before() -> None:
    on_tuesday = VENDOR.filter(pl.col("time") < XNYS.day_start(date(2024, 7, 2))).height + 50
    _, batches = run([fetch_of(MINUTES, M1, H4)], pages(MINUTES, VENDOR, on_tuesday), batch_rows=1)
    monday = XNYS.day_window(FIRST)
    assert batches[0].covered == {Series("AAPL", M1): [monday], Series("AAPL", H4): [monday]}
    assert monday.contains(batches[0].bars["time"].max())  # type: ignore[arg-type]  # a datetime
    [entry] = batches[0].fetches
    assert (entry.status, entry.pages, entry.bars) == ("partial", 1, on_tuesday)


def test_a_row_that_two_pages_repeat_is_one_bar() -> None:
    again = pl.concat([VENDOR[:100], VENDOR[95:]])
    _, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, again, 100))
    assert_frame_equal(bars_of(batches), rolled(VENDOR))
    assert quarantined_of(batches).is_empty()


def test_unfinished_bars_are_dropped() -> None:
    now = at("2024-07-05T15:37:30")
    request = request_of(AAPL, M1, Window(WEEK.start, at("2024-07-05T15:37")))
    vendor = session_minutes(step=1).filter(pl.col("time") <= now)
    _, batches = run([fetch_of(request, *ROLLED)], pages(request, vendor), now=now)
    latest = dict(bars_of(batches).group_by("timeframe").agg(pl.col("time").max()).rows())
    assert latest == {
        "1m": at("2024-07-05T15:36"),
        "5m": at("2024-07-05T15:30"),
        "1h": at("2024-07-05T14:00"),
        "4h": at("2024-07-05T08:00"),
    }
    # The minute that is still open was sent as well: it is not in the window.
    assert quarantined_of(batches)["rule"].to_list() == ["outside_window"]
    whole = rolled(vendor.filter(pl.col("time") < request.window.end))
    assert_frame_equal(bars_of(batches), whole.join(bars_of(batches), on=KEY, how="semi"))


@pytest.mark.parametrize("instrument", [AAPL, BTC], ids=lambda one: one.symbol)
def test_weeks_are_stored_whole_or_not_at_all(instrument: Instrument) -> None:
    calendar = calendar_of(instrument.asset_class)
    first, last = date(2024, 6, 26), date(2024, 7, 16)  # a Wednesday and a Tuesday
    request = request_of(instrument, D1, days_window(calendar, first, last))
    days = calendar.sessions(first, last)
    vendor = vendor_bars([calendar.day_start(day) for day in days])
    _, batches = run([fetch_of(request, D1, W1)], pages(request, vendor, 6))
    bars = bars_of(batches)
    assert bars.filter(timeframe="1d").height == len(days)
    assert bars.filter(timeframe="1w").select("time", "base_bars").rows() == [
        (calendar.day_start(date(2024, 6, 30)), 4 if instrument is AAPL else 7),
        (calendar.day_start(date(2024, 7, 7)), 5 if instrument is AAPL else 7),
    ]
    assert covered_by(batches, f"{instrument.symbol}:1d") == [request.window]
    assert covered_by(batches, f"{instrument.symbol}:1w") == [
        days_window(calendar, date(2024, 6, 30), date(2024, 7, 13))
    ]


def test_a_week_that_has_not_ended_is_not_stored() -> None:
    request = request_of(AAPL, D1, days_window(XNYS, date(2024, 6, 30), date(2024, 7, 5)))
    vendor = vendor_bars([XNYS.day_start(day) for day in XNYS.sessions(FIRST, LAST)])
    now = XNYS.day_start(date(2024, 7, 6))
    _, batches = run([fetch_of(request, D1, W1)], pages(request, vendor), now=now)
    assert bars_of(batches)["timeframe"].unique().to_list() == ["1d"]
    assert covered_by(batches, "AAPL:1w") == []


BROKEN: dict[str, dict[str, object]] = {
    "time_missing": {"time": None},
    "outside_window": {"time": WEEK.end},
    "off_grid": {"time": WEEK.start + timedelta(hours=10, seconds=1)},
    "price_not_positive": {"close": None},
    "high_below_body": {"high": 1.0, "low": 1.0},
    "low_above_body": {"low": 999.0, "high": 9999.0},
    "volume_negative": {"volume": -1.0},
    "duplicate_time": {"volume": 123_456.0},
}


def broken_row(rule: str) -> pl.DataFrame:
    return pl.DataFrame([{**VENDOR.row(60, named=True), **BROKEN[rule]}], schema=VENDOR_SCHEMA)


@pytest.mark.parametrize("rule", BROKEN)
@pytest.mark.parametrize("cuts", [(), (50,), (61,), (400,)])
def test_a_row_that_breaks_a_rule_is_quarantined_and_the_rest_is_stored(
    rule: str, cuts: tuple[int, ...]
) -> None:
    # Before the row that it resembles: of two rows for one time, the later is the bar.
    vendor = pl.concat([VENDOR[:60], broken_row(rule), VENDOR[60:]])
    ingest, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, vendor, *cuts))
    assert quarantined_of(batches).select("symbol", "timeframe", "rule").rows() == [("AAPL", "1m", rule)]
    assert_frame_equal(quarantined_of(batches).select(VENDOR_SCHEMA.names()), broken_row(rule))
    assert_frame_equal(bars_of(batches), rolled(VENDOR))
    # Without a sound bar in its place, a broken row is a bar that is lacking: its day is asked for again.
    first_day = XNYS.day_window(FIRST)
    if rule == "off_grid":
        assert covered_by(batches, "AAPL:1m") == [Window(first_day.end, WEEK.end)]
    elif rule == "time_missing":
        assert not any(window.contains(first_day.start) for window in covered_by(batches, "AAPL:1m"))
    else:
        assert covered_by(batches, "AAPL:1m") == [WEEK]
    assert ingest.report.failures == []
    assert rule in ingest.report.notices[0]
    assert last_log(batches) == {"AAPL": "ok"}


def test_a_request_of_which_no_row_is_sound_fails_and_covers_nothing() -> None:
    vendor = pl.concat([broken_row("volume_negative"), broken_row("volume_negative"), broken_row("off_grid")])
    ingest, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, vendor))
    assert bars_of(batches).is_empty()
    assert quarantined_of(batches).height == 3
    assert not any(batch.covered for batch in batches)
    [(series, _, error)] = ingest.report.failures
    assert series == Series("AAPL", M1)
    assert isinstance(error, QuarantinedError)
    assert "volume_negative 2, off_grid 1" in str(error)
    assert "\n" not in str(error)
    [entry] = batches[-1].fetches
    assert (entry.status, entry.error) == ("failed", str(error))


def test_days_of_which_no_row_is_sound_are_asked_for_again() -> None:
    tuesday = XNYS.day_start(date(2024, 7, 2))
    monday_broken = VENDOR.with_columns(
        volume=pl.when(pl.col("time") < tuesday).then(-1.0).otherwise("volume")
    )
    count = VENDOR.filter(pl.col("time") < tuesday).height
    ingest, batches = run([fetch_of(MINUTES, M1)], pages(MINUTES, monday_broken, count + 1))
    assert covered_by(batches, "AAPL:1m") == [Window(tuesday, WEEK.end)]
    assert quarantined_of(batches).height == count
    assert ingest.report.failures == []


@pytest.mark.parametrize(
    ("earlier", "answered"),
    [
        ([], []),
        ([days_window(XNYS, date(2024, 7, 8), date(2024, 7, 9))], []),
        ([days_window(XNYS, date(2024, 6, 3), date(2024, 6, 4))], [WEEK]),
    ],
    ids=["no bar known", "before the first bar", "after the first bar"],
)
def test_an_empty_answer_covers_its_window_once_the_history_has_begun(
    earlier: list[Window], answered: list[Window]
) -> None:
    ingest, batches = run(
        [fetch_of(MINUTES, M1, H1)], pages(MINUTES, VENDOR[:0]), coverage={Series("AAPL", M1): earlier}
    )
    assert bars_of(batches).is_empty()
    assert covered_by(batches, "AAPL:1m") == covered_by(batches, "AAPL:1h") == answered
    assert ingest.report.failures == []
    assert last_log(batches) == {"AAPL": "ok"}


def test_a_refusal_of_what_lies_before_the_history_is_a_notice() -> None:
    refusal = EntitlementError("not in the plan", symbol="AAPL", window=WEEK)
    event = RequestFailed(MINUTES, refusal, record_of(MINUTES, 1, 0, str(refusal)))
    later = days_window(XNYS, date(2024, 7, 8), date(2024, 7, 9))
    ingest, batches = run([fetch_of(MINUTES, M1)], [event], coverage={Series("AAPL", M1): [later]})
    assert (ingest.report.failures, ingest.report.notices) == ([], [str(refusal)])
    assert last_log(batches) == {"AAPL": "failed"}
    ingest, _ = run([fetch_of(MINUTES, M1)], [event])
    assert ingest.report.failed_symbols == ["AAPL"]


def test_the_latest_sessions_are_stored_and_not_covered() -> None:
    now = at("2024-07-06T02:00")  # a Friday after the close: Tuesday, Wednesday and Friday may be revised
    _, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, VENDOR), now=now)
    assert_frame_equal(bars_of(batches).filter(timeframe="1m"), rolled(VENDOR, [M1]))
    assert covered_by(batches, "AAPL:1m") == covered_by(batches, "AAPL:1h") == [XNYS.day_window(FIRST)]


@pytest.mark.parametrize("position", [10, 130])
def test_a_stray_row_closes_no_day_that_is_still_to_come(position: int) -> None:
    stray = broken_row("volume_negative").with_columns(time=pl.lit(WEEK.end - timedelta(hours=7)))
    vendor = pl.concat([VENDOR[:position], stray, VENDOR[position:]])
    ingest, batches = run([fetch_of(MINUTES, *ROLLED)], pages(MINUTES, vendor, position + 1, position + 60))
    assert_frame_equal(bars_of(batches), rolled(VENDOR))
    assert ingest.report.failures == []


def test_rows_for_days_that_are_stored_already_fail_the_request() -> None:
    monday = VENDOR.filter(pl.col("time") < XNYS.day_start(date(2024, 7, 2))).height
    vendor = pl.concat([VENDOR[:50], VENDOR[60:], VENDOR[50:60]])
    ingest, batches = run([fetch_of(MINUTES, M1)], pages(MINUTES, vendor, monday + 20))
    [(_, _, error)] = ingest.report.failures
    assert "10 rows" in str(error)
    assert last_log(batches) == {"AAPL": "failed"}


def test_longer_bars_are_made_of_what_the_store_holds_and_what_arrived() -> None:
    stored = as_bars(VENDOR, Series("AAPL", M1))
    lacking = VENDOR.gather_every(2).with_columns(volume=pl.col("volume") + 1)
    _, batches = run(
        [fetch_of(MINUTES, M1, H1)],
        pages(MINUTES, lacking),
        read=lambda _series, window: stored.filter(
            pl.col("time") >= window.start, pl.col("time") < window.end
        ),
    )
    merged = (
        pl.concat([stored, as_bars(lacking, Series("AAPL", M1))]).unique("time", keep="last").sort("time")
    )
    assert_frame_equal(bars_of(batches).filter(timeframe="1h"), roll_up(merged, H1, XNYS))
    assert bars_of(batches).filter(timeframe="1m").height == lacking.height


def test_a_request_that_fails_keeps_its_closed_days_and_does_not_stop_the_others() -> None:
    other = request_of(MSFT, M1, WEEK)
    wednesday = XNYS.day_start(date(2024, 7, 3))
    within_wednesday = VENDOR.filter(pl.col("time") < wednesday).height + 20
    first, last = pages(other, VENDOR, 300)
    events = [first, *pages(MINUTES, VENDOR, within_wednesday)[:1], failure(MINUTES, 2), last]
    ingest, batches = run([fetch_of(MINUTES, M1, H4), fetch_of(other, M1)], events)
    assert covered_by(batches, "AAPL:1m") == covered_by(batches, "AAPL:4h") == [Window(WEEK.start, wednesday)]
    apple = bars_of(batches).filter(symbol="AAPL")
    assert_frame_equal(apple, rolled(VENDOR.filter(pl.col("time") < wednesday), [M1, H4]))
    assert_frame_equal(bars_of(batches).filter(symbol="MSFT"), rolled(VENDOR, [M1], "MSFT"))
    assert covered_by(batches, "MSFT:1m") == [WEEK]
    report = ingest.report
    assert report.failed_symbols == ["AAPL"]
    assert [failed.series.key for failed in report.failures] == ["AAPL:1m"]
    assert last_log(batches) == {"AAPL": "failed", "MSFT": "ok"}
    assert (report.requests, report.pages, report.retries, report.waited_seconds) == (2, 3, 6, 1.0)


def test_the_log_of_a_request_adds_up_over_its_pages() -> None:
    _, batches = run([fetch_of(MINUTES, M1, H1)], pages(MINUTES, VENDOR, 100, 200))
    [entry] = batches[-1].fetches
    assert (entry.symbol, entry.base, entry.window) == ("AAPL", M1, WEEK)
    assert entry.timeframes == (M1, H1)
    assert (entry.pages, entry.bars, entry.retries) == (3, VENDOR.height, 1 + 2 + 3)
    assert entry.rate_limited == 1 + 2 + 3
    assert (entry.duration_seconds, entry.waited_seconds) == (1.5, 0.75)
    assert (entry.request_id, entry.run_id) == ("request-3", "a-run")
    assert entry.requested_at == LONG_AFTER + timedelta(seconds=1)


def test_an_error_that_stops_everything_comes_after_what_arrived_before_it() -> None:
    tuesday = XNYS.day_start(date(2024, 7, 2))
    on_tuesday = VENDOR.filter(pl.col("time") < tuesday).height + 3

    def events() -> Iterator[FetchEvent]:
        yield from pages(MINUTES, VENDOR, on_tuesday)[:1]
        message = "refused"
        raise AuthenticationError(message)

    arrived = Ingest(Plan((fetch_of(MINUTES, M1),)), now=LONG_AFTER).batches(events(), nothing_stored)
    batch = next(arrived)
    assert covered_by([batch], "AAPL:1m") == [Window(WEEK.start, tuesday)]
    assert last_log([batch]) == {"AAPL": "partial"}
    with pytest.raises(AuthenticationError):
        next(arrived)


def with_notice(event: FetchEvent, first_bar: datetime) -> PageFetched:
    assert isinstance(event, PageFetched)
    notice = HistoryNotice(event.request.symbol, event.request.window, first_bar, 6)
    return PageFetched(event.request, event.frame, event.record, event.is_last, notice)


@pytest.mark.parametrize("cuts", [(), (100,)])
def test_a_stretch_that_the_plan_may_have_cut_off_is_left_uncovered(cuts: tuple[int, ...]) -> None:
    request = request_of(AAPL, M1, Window(XNYS.day_start(date(2024, 6, 3)), WEEK.end))
    first, *others = pages(request, VENDOR, *cuts)
    ingest, batches = run([fetch_of(request, *ROLLED)], [with_notice(first, VENDOR["time"][0]), *others])
    weekend = days_window(XNYS, date(2024, 6, 29), LAST)
    assert covered_by(batches, "AAPL:1m") == covered_by(batches, "AAPL:4h")
    assert covered_by(batches, "AAPL:1m") in ([WEEK], [weekend])
    assert_frame_equal(bars_of(batches), rolled(VENDOR))
    [notice] = ingest.report.notices
    assert "AAPL" in notice
    assert "2024-07-01" in notice
    assert ingest.report.failures == []


def test_a_row_beyond_the_window_is_quarantined_although_a_notice_came_with_it() -> None:
    stray = broken_row("outside_window")
    [event] = pages(MINUTES, stray)
    ingest, batches = run([fetch_of(MINUTES, M1)], [with_notice(event, WEEK.end)])
    assert quarantined_of(batches)["rule"].to_list() == ["outside_window"]
    assert covered_by(batches, "AAPL:1m") == []
    assert ingest.report.failed_symbols == ["AAPL"]


@pytest.mark.parametrize("batch_rows", [1, 100_000])
def test_bars_rolled_up_from_the_store_equal_fetched_ones(batch_rows: int) -> None:
    wide = days_window(XNYS, date(2024, 2, 20), date(2024, 5, 20))  # months, and a change of the clock
    vendor = session_minutes(wide, step=43)
    request = request_of(AAPL, M1, wide)
    _, fetched = run([fetch_of(request, M5, H1, H4)], pages(request, vendor), batch_rows=batch_rows)
    stored = as_bars(vendor, Series("AAPL", M1))
    read: list[Window] = []

    def read_bars(series: Series, window: Window) -> pl.DataFrame:
        assert series == Series("AAPL", M1)
        read.append(window)
        return stored.filter(pl.col("time") >= window.start, pl.col("time") < window.end)

    planned = Plan(rollups=(StoredRollup(AAPL, M1, wide, (M5, H1, H4)),))
    ingest = Ingest(planned, now=LONG_AFTER, batch_rows=batch_rows)
    batches = list(ingest.batches((), read_bars))
    assert_frame_equal(bars_of(batches), bars_of(fetched), check_exact=True)
    for timeframe in (M5, H1, H4):
        assert covered_by(batches, f"AAPL:{timeframe}") == [wide]
    assert ingest.report.requests == 0
    assert not any(batch.fetches for batch in batches)
    # Read in stretches that fit in memory, each of whole days, none twice.
    assert union(read) == [wide]
    assert sum((window.duration for window in read), timedelta()) == wide.duration
    assert max(window.duration for window in read) < timedelta(days=32)


def test_weeks_rolled_up_from_the_store_equal_fetched_ones() -> None:
    wide = days_window(XNYS, date(2024, 6, 30), date(2024, 7, 20))
    vendor = vendor_bars([XNYS.day_start(day) for day in XNYS.sessions(date(2024, 6, 30), date(2024, 7, 20))])
    request = request_of(AAPL, D1, wide)
    _, fetched = run([fetch_of(request, W1)], pages(request, vendor))
    stored = as_bars(vendor, Series("AAPL", D1))
    planned = Plan(rollups=(StoredRollup(AAPL, D1, wide, (W1,)),))
    batches = list(Ingest(planned, now=LONG_AFTER).batches((), lambda _series, _window: stored))
    assert bars_of(batches).height == 3
    assert_frame_equal(bars_of(batches), bars_of(fetched), check_exact=True)
    assert covered_by(batches, "AAPL:1w") == covered_by(fetched, "AAPL:1w") == [wide]


def test_crypto_days_are_cut_in_utc() -> None:
    window = Window(datetime(2024, 7, 6, tzinfo=UTC), datetime(2024, 7, 8, tzinfo=UTC))
    request = request_of(BTC, M1, window)
    vendor = vendor_bars(minutes(window, 3))
    _, batches = run([fetch_of(request, M1)], pages(request, vendor, 500), batch_rows=1)
    assert_frame_equal(bars_of(batches), as_bars(vendor, Series("BTC-USD", M1)))
    assert quarantined_of(batches).is_empty()
    sunday = datetime(2024, 7, 7, tzinfo=UTC)
    assert [batch.covered[Series("BTC-USD", M1)] for batch in batches if batch.covered] == [
        [Window(window.start, sunday)],
        [Window(sunday, window.end)],
    ]


def test_quarantined_rows_keep_the_vendors_text_whichever_page_they_came_on() -> None:
    times = minutes(days_window(XNYS, FIRST, FIRST + timedelta(days=1)), 30)
    edges = (0, 5, len(times))
    events: list[FetchEvent] = []
    for page, (start, end) in enumerate(pairwise(edges), start=1):
        odd = {0: ("-5.0", "3"), 1: ("1", "1.5")}
        rows = [
            f'{{"t":{int(time.timestamp() * 1000)}, "o":1,"h":1,"l":1,"c":1,"v":1,"vw":{vwap},"n":{count}}}'
            for at, time in enumerate(times[start:end])
            for vwap, count in [odd.get(at, ("1", "3"))]
        ]
        parsed = parse_page(f'{{"status":"OK","results":[{",".join(rows)}]}}'.encode())
        record = record_of(MINUTES, page, parsed.frame.height)
        events.append(PageFetched(MINUTES, parsed.frame, record, is_last=page == 2, rows=parsed.rows))
    _, batches = run([fetch_of(MINUTES, M1)], events)
    found = quarantined_of(batches).select("rule", "vendor_row", "time").rows()
    assert [(rule, time) for rule, _, time in found] == [
        ("vwap_not_positive", times[0]),
        ("transactions_not_whole", times[1]),
        ("vwap_not_positive", times[5]),
        ("transactions_not_whole", times[6]),
    ]
    for rule, text, time in found:
        assert text.startswith(f'{{"t":{int(time.timestamp() * 1000)}, "o":1,')
        assert ('"vw":-5.0' in text, '"n":1.5' in text) == (rule == "vwap_not_positive", "whole" in rule)
    assert bars_of(batches)["time"].to_list() == [
        time for at, time in enumerate(times) if at not in {0, 1, 5, 6}
    ]
    assert bars_of(batches)["transactions"].null_count() == 0


def test_the_reports_of_several_requests_add_up_in_every_figure() -> None:
    window = calendar_of(AssetClass.STOCK).day_window(date(2024, 1, 2))
    failed = FailedRequest(Series("AAPL", Timeframe.M1), window, VendorFailureError("down"))
    requested = FetchRequest("AAPL", AssetClass.STOCK, Timeframe.M1, window)
    one = IngestReport(1, 2, 3, 4, 0.5, [failed], ["first"], [])
    other = IngestReport(10, 20, 30, 40, 5.0, [], ["second"], [requested])
    assert one + other == IngestReport(11, 22, 33, 44, 5.5, [failed], ["first", "second"], [requested])
    assert sum([one, other], start=IngestReport()) == one + other
    assert one == IngestReport(1, 2, 3, 4, 0.5, [failed], ["first"], [])
