from __future__ import annotations

import pytest

from marketdata_assets.cli.symbols import find_line, option_for
from marketdata_assets.domain.errors import DoubtfulSymbolError
from marketdata_assets.storage.symbols import WantedSymbol


@pytest.mark.parametrize(
    ("symbol", "line"), [("BACPL", 3), ("BACpL", 2), ("bacpl", 2), ("NFLX", 4), ("nflx", 4)]
)
def test_an_error_names_the_line_that_is_spelt_like_its_symbol_before_one_with_its_letters(
    symbol: str, line: int
) -> None:
    lines = list(enumerate(map(WantedSymbol, ("BACpL", "BACPL", "nflx")), 2))
    assert find_line(lines, symbol) == line


def test_a_question_about_the_class_names_the_option_that_answers_it() -> None:
    assert option_for(DoubtfulSymbolError("vix", "?"), None) == "`--class index` tracks the index, "
    assert not option_for(DoubtfulSymbolError("BRK-B", "?"), None)
