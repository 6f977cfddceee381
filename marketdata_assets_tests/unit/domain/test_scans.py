from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.scans import NEVER_DUE, ScannedDay, last_scan, scan_windows
from marketdata_assets.domain.series import AssetClass, Series, with_siblings
from marketdata_assets.domain.slots import expected_slots
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window

CLASSES = {"AAPL": AssetClass.STOCK, "BTC-USD": AssetClass.CRYPTO}
EVERY = [Series(symbol, timeframe) for symbol in CLASSES for timeframe in Timeframe]


@given(
    st.sets(st.sampled_from(EVERY), min_size=1),
    st.data(),
    st.dates(date(2024, 1, 1), date(2024, 12, 31)),
    st.integers(0, 40),
)
def test_a_scan_covers_the_days_of_all_siblings_and_whole_weeks_with_week_bars(
    tracked: set[Series], data: st.DataObject, first: date, length: int
) -> None:
    chosen = data.draw(st.sets(st.sampled_from(sorted(tracked, key=str)), min_size=1))
    days = {
        one: (first + timedelta(days=place), first + timedelta(days=place + length))
        for place, one in enumerate(sorted(chosen, key=str))
    }
    siblings = with_siblings(days, tracked)
    windows = scan_windows(days, siblings, CLASSES)
    assert list(windows) == siblings
    for one, window in windows.items():
        calendar = calendar_of(CLASSES[one.symbol])
        group = [
            each
            for each in siblings
            if (each.symbol, each.timeframe.base) == (one.symbol, one.timeframe.base)
        ]
        begin = min(days[each][0] for each in group if each in days)
        end = max(days[each][1] for each in group if each in days)
        if Timeframe.W1 in {each.timeframe for each in group}:
            begin, end = sunday_of(begin), sunday_of(end) + timedelta(days=6)
        assert window.start == calendar.day_start(begin)
        assert window.end == calendar.day_window(end).end


def test_a_day_counts_as_scanned_when_all_of_its_slots_were_expected_then() -> None:
    calendar = calendar_of(AssetClass.STOCK)
    tuesday, wednesday = date(2024, 1, 2), date(2024, 1, 3)
    early, late = (datetime(2024, 1, 4, hour, tzinfo=UTC) for hour in (9, 10))
    window = Window(calendar.day_start(tuesday), calendar.day_window(wednesday).end)
    slots = expected_slots(Timeframe.M1, window, calendar, late)
    whole = {tuesday: ScannedDay(390, late), wednesday: ScannedDay(390, early)}
    assert last_scan(slots, whole) == early
    assert last_scan(slots, {tuesday: whole[tuesday]}) is None
    assert last_scan(slots, {**whole, wednesday: ScannedDay(389, late)}) is None
    assert last_scan(slots.within(end=slots.calendar.day_start(tuesday)), {}) == NEVER_DUE
