from datetime import UTC, datetime

import pytest

from marketdata_assets.domain.wording import counted, join_first, minute_of, name_first, one_line


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "symbol", "1 symbol"),
        (0, "symbol", "0 symbols"),
        (2000, "symbol", "2,000 symbols"),
        (1, "series", "1 series"),
        (3, "series", "3 series"),
    ],
)
def test_a_count_has_its_noun(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def test_an_irregular_plural_is_given() -> None:
    assert counted(1, "slow query", "slow queries") == "1 slow query"
    assert counted(2, "slow query", "slow queries") == "2 slow queries"


def test_the_first_names_stand_for_all() -> None:
    assert name_first(["A", "B"], 3) == "A, B"
    assert name_first(["A", "B", "C"], 3) == "A, B, C"
    assert name_first(["A", "B", "C", "D"], 3) == "A, B, C and 1 more"
    assert name_first(["A", "B"], 2, total=2002) == "A, B and 2,000 more"


def test_the_first_sentences_stand_for_all() -> None:
    assert join_first(["a fails", "b fails"], 2) == "a fails; b fails"
    assert join_first(["a fails", "b fails", "c fails"], 2) == "a fails; b fails; and 1 more"
    assert join_first(["a fails", "b fails"], 1, total=2001) == "a fails; and 2,000 more"


def test_an_error_of_several_lines_becomes_one() -> None:
    assert one_line(" the disk\n\tis  full \n") == "the disk is full"


def test_a_time_is_shown_to_the_minute() -> None:
    assert minute_of(datetime(2024, 7, 3, 9, 5, 59, tzinfo=UTC)) == "2024-07-03 09:05"
    assert minute_of(None) == ""
