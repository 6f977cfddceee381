from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from marketdata_assets.domain.calendar import calendar_of, sunday_of
from marketdata_assets.domain.scans import scan_windows
from marketdata_assets.domain.series import AssetClass, Series, with_siblings
from marketdata_assets.domain.timeframe import Timeframe

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
