from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import Timeframe


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_each_is_known_by_its_own_name(timeframe: Timeframe) -> None:
    assert Timeframe.parse(f" {timeframe.value} ") is timeframe


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(("1D", "1d"), ("D", "1d"), ("1day", "1d"), ("1W", "1w"), ("1wk", "1w"), ("7d", "1w")),
        *(("1H", "1h"), ("60m", "1h"), ("60min", "1h"), ("4hours", "4h"), ("5min", "5m"), ("15T", "15m")),
    ],
)
def test_other_libraries_spellings_are_understood(written: str, meant: str) -> None:
    assert Timeframe.parse(written).value == meant


@pytest.mark.parametrize("wrong", ["1M", "M", "15M", "2h", "1mo", "", "d1", "0d", "1.5h"])
def test_what_is_a_month_or_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="use one of 1m"):
        Timeframe.parse(wrong)


@given(st.text() | st.from_regex(r"(?i)[0-9]{0,5} ?(mins?|hours?|weeks?|wk|days?)", fullmatch=True))
@example("5min\u017f")  # a long s, which is an s without capitals
@example("1w\u212a")  # the sign of kelvin, which is a K
@example("\u0665m")
def test_any_text_is_a_timeframe_or_refused(text: str) -> None:
    try:
        assert Timeframe.parse(text) in Timeframe
    except ConfigurationError as error:
        assert "use one of 1m" in str(error)  # noqa: PT017 - most texts are refused, not all
