"""Which days a command takes, and how it refuses those that cannot be."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from marketdata_assets.cli.selection import choose_days, validate_days
from marketdata_assets.domain.errors import ConfigurationError

NOW = datetime(2024, 7, 5, 3, tzinfo=UTC)
TODAY = date(2024, 7, 5)
MONDAY = date(2024, 7, 1)


def days(
    number: int | None = None, start: str | None = None, end: str | None = None, *, earliest: date = MONDAY
) -> tuple[date, date]:
    return validate_days(choose_days(number, start, end, NOW), earliest, NOW)


def test_days_that_nobody_asked_for_begin_with_the_first_partition() -> None:
    assert days() == (MONDAY, TODAY)
    assert days(end="2024-07-03") == (MONDAY, date(2024, 7, 3))
    assert days(earliest=date(2020, 1, 1)) == (date(2024, 6, 22), TODAY)


@pytest.mark.parametrize(
    ("requested", "said"),
    [
        ({"start": "2024-06-30"}, "--start 2024-06-30 lies before the first partition, 2024-07-01: set MARKETDATA_START"),
        ({"number": 6}, "--days 6 begins on 2024-06-30, before the first partition, 2024-07-01: set MARKETDATA_START"),
        ({"end": "2024-06-30"}, "--end 2024-06-30 lies before the first partition, 2024-07-01: set MARKETDATA_START"),
        ({"earliest": date(2024, 7, 6)}, "today, 2024-07-05 (UTC), lies before the first partition, 2024-07-06"),
        ({"start": "2030-01-01"}, "--start 2030-01-01 lies in the future: today is 2024-07-05 (UTC)"),
        ({"end": "2030-01-01"}, "--end 2030-01-01 lies in the future: today is 2024-07-05 (UTC)"),
        ({"start": "2024-07-03", "end": "2024-07-02"}, "--end 2024-07-02 lies before --start 2024-07-03: swap them"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_the_words_that_were_given(
    requested: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        days(**requested)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)


def test_what_was_asked_for_is_what_it_takes() -> None:
    assert (
        days(5) == days(start="2024-07-01") == days(start="2024-07-01", end="2024-07-05") == (MONDAY, TODAY)
    )
