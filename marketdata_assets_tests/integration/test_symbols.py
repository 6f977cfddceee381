"""``tracked_symbols`` as commands, the HTTP API and people's own SQL write it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest
from psycopg.errors import CheckViolation, WrongObjectType

from marketdata_assets.domain.errors import ConfigurationError, DoubtfulSymbolError, UnknownSeriesError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.completeness import read_matrix, write_matrix
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.migrations import migrate, sql_folder
from marketdata_assets.storage.symbols import (
    Outcome,
    WantedSymbol,
    add_symbols,
    add_universe,
    deactivate,
    deactivate_all,
    find_symbol,
    find_with_splits,
    list_presets,
    list_symbols,
    set_timeframes,
)
from marketdata_assets_tests.conftest import fresh_database
from marketdata_assets_tests.integration.platform import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from marketdata_assets.storage.symbols import TrackedSymbol


def add(database: Database, wanted: WantedSymbol) -> tuple[TrackedSymbol, Outcome]:
    (added,) = add_symbols(database, [wanted])
    return added


def test_what_is_left_out_is_what_it_had_or_the_default(database: Database) -> None:
    new, outcome = add(database, WantedSymbol("ETH-USD"))
    assert (new.asset_class, new.timeframes, outcome) == (
        AssetClass.CRYPTO,
        (Timeframe.H1, Timeframe.D1),
        Outcome.NEW,
    )
    add(database, WantedSymbol("ETH-USD", timeframes=(Timeframe.M1,)))
    known, outcome = add(database, WantedSymbol("ETH-USD", name="Ether"))
    assert (known.name, known.timeframes, outcome) == ("Ether", (Timeframe.M1,), Outcome.CHANGED)
    assert add(database, WantedSymbol("ETH-USD"))[1] is Outcome.UNCHANGED


def test_two_who_take_a_symbol_up_at_once_do_not_undo_each_other(database: Database) -> None:
    add(database, WantedSymbol("AAPL", timeframes=(Timeframe.M1,)))
    with connect(database.url, application_name="test") as other:
        other.execute("update tracked_symbols set timeframes = '{5m}' where symbol = 'AAPL'")
        with ThreadPoolExecutor(1) as pool, Database(database.url) as second:
            adding = pool.submit(add, second, WantedSymbol("AAPL", name="Apple"))
            wait_until(
                lambda: database.fetch("select count(*) from pg_locks where not granted", row=int) != [0],
                "a wait for the row",
            )
            other.commit()
            tracked, outcome = adding.result()
    assert (tracked.timeframes, tracked.name, outcome) == ((Timeframe.M5,), "Apple", Outcome.CHANGED)


def test_sql_takes_no_crypto_symbol_that_is_no_pair(database: Database) -> None:
    with pytest.raises(CheckViolation, match="crypto_pair"):
        database.transaction(
            lambda session: session.execute(
                "insert into tracked_symbols (symbol, asset_class) values ('BTC', 'crypto')"
            )
        )


def test_a_symbol_that_cannot_be_takes_the_others_with_it(database: Database) -> None:
    before = list_symbols(database)
    with pytest.raises(ConfigurationError, match="'BTC' is not a crypto pair"):
        add_symbols(database, [WantedSymbol("SOL-USD"), WantedSymbol("BTC", AssetClass.CRYPTO)])
    assert list_symbols(database) == before


def test_two_who_add_the_same_symbols_in_another_order_do_not_deadlock(database: Database) -> None:
    names = [f"S{number}" for number in range(200)]

    def add_all(ordered: list[str]) -> int:
        with Database(database.url) as own:
            return len(add_symbols(own, [WantedSymbol(name, AssetClass.ETF) for name in ordered]))

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(add_all, ordered) for ordered in (names, names[::-1]) for _ in range(3)]
    assert [one.result() for one in both] == [200] * 6


def test_two_securities_that_differ_in_one_capital_are_two_rows(database: Database) -> None:
    for symbol in ("BACpL", "BACPL", "AAPL"):
        assert add(database, WantedSymbol(symbol, timeframes=(Timeframe.D1,)))[1] is Outcome.NEW
    assert [one.vendor_ticker for one in list_symbols(database)] == ["BACpL", "BACPL", "AAPL"]
    window = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC))
    for find in (find_symbol, lambda store, symbol: find_with_splits(store, symbol, Timeframe.D1, window)[0]):
        for requested, found in (("BACpL", "BACpL"), ("BACPL", "BACPL"), ("aapl", "AAPL"), ("AAPL", "AAPL")):
            assert find(database, requested).symbol == found
        with pytest.raises(
            UnknownSeriesError, match="bacpl may be BACPL or BACpL: write it in the vendor's upper"
        ):
            find(database, "bacpl")
        with pytest.raises(UnknownSeriesError, match="Aapl is not tracked, but AAPL is"):
            find(database, "Aapl")
    assert add(database, WantedSymbol("aapl"))[0].symbol == "AAPL"
    assert add(database, WantedSymbol("nflx"))[0].symbol == "NFLX"
    assert set_timeframes(database, "aapl", [Timeframe.W1]).timeframes == (Timeframe.W1,)
    assert [one.symbol for one in deactivate(database, "BACpL", "nflx")] == ["BACpL", "NFLX"]
    active = [one.symbol for one in list_symbols(database, active_only=True)]
    assert active == ["BACPL", "AAPL"]
    for change in (lambda: add(database, WantedSymbol("bacpl")), lambda: deactivate(database, "bacpl")):
        with pytest.raises(UnknownSeriesError, match="may be BACPL or BACpL"):
            change()


def test_small_letters_find_a_symbol_in_a_turkish_database(postgres_server: str) -> None:
    try:
        with fresh_database(postgres_server, template="template0", locale="tr_TR.UTF-8") as url:
            migrate(url)
            with Database(url, application_name="test") as database:
                assert database.fetch("select lower('I') = 'i'", row=bool) == [False]
                add_symbols(database, [WantedSymbol("XLI"), WantedSymbol("ISp")])
                assert find_symbol(database, "xli").symbol == "XLI"
                assert add(database, WantedSymbol("xli")) == (find_symbol(database, "XLI"), Outcome.UNCHANGED)
                with pytest.raises(DoubtfulSymbolError, match="ISp"):
                    add_symbols(database, [WantedSymbol("ISP")], is_careful=True)
    except WrongObjectType:
        pytest.skip("the machine has no Turkish locale")


def test_a_doubtful_symbol_is_questioned_when_it_is_new_and_not_when_it_is_known(database: Database) -> None:
    wanted = [WantedSymbol("NFLX"), WantedSymbol("BRK-B")]
    with pytest.raises(DoubtfulSymbolError, match=r"do you mean BRK\.B\?"):
        add_symbols(database, wanted, is_careful=True)
    assert list_symbols(database) == []
    assert len(add_symbols(database, wanted)) == 2
    assert add_symbols(database, [WantedSymbol("BRK-B", name="B")], is_careful=True)[0][1] is Outcome.CHANGED


@pytest.mark.parametrize(("known", "new"), [("BACpL", "BACPL"), ("BACPL", "BACpL"), ("AAPL", "AApL")])
def test_a_new_symbol_that_differs_in_capitals_from_a_known_one_is_questioned(
    database: Database, known: str, new: str
) -> None:
    assert add_symbols(database, [WantedSymbol(known)], is_careful=True)[0][1] is Outcome.NEW
    with pytest.raises(
        DoubtfulSymbolError,
        match=f"{new} differs from {known} only in upper and lower case.* do you mean {known}",
    ):
        add_symbols(database, [WantedSymbol(new)], is_careful=True)
    assert add_symbols(database, [WantedSymbol(new)])[0][1] is Outcome.NEW
    assert add_symbols(database, [WantedSymbol(new)], is_careful=True)[0][1] is Outcome.UNCHANGED


def test_a_name_is_refused_wherever_it_comes_from(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        add(database, WantedSymbol("AAPL", name="a\x1b[31mb"))
    with pytest.raises(CheckViolation, match="name_check"):
        database.transaction(
            lambda session: session.execute(
                "insert into tracked_symbols (symbol, asset_class, name) values ('AAPL', 'stock', e'a\\tb')"
            )
        )


def test_presets_are_left_out_of_the_matrix_until_they_are_scanned_or_chosen(database: Database) -> None:
    def in_matrix() -> set[str]:
        written, read = write_matrix(database, date(2024, 1, 8)), read_matrix(database)
        assert written["symbol"].to_list() == read["symbol"].to_list()
        return set(read["symbol"])

    add_universe(database)
    add_universe(database)
    assert len(list_symbols(database)) == len(list_presets(database)) == 62
    assert in_matrix() == set()
    add(database, WantedSymbol("NFLX"))
    add(database, WantedSymbol("AAPL"))
    set_timeframes(database, "SPY", [Timeframe.D1])
    database.transaction(
        lambda session: session.execute(
            "insert into completeness_daily (symbol, timeframe, day, expected_bars, present_bars, no_trade_bars,"
            " missing_bars, completeness, status) values ('QQQ', '1d', '2024-01-02', 1, 1, 0, 0, 1, 'whole')"
        )
    )
    assert in_matrix() == {"NFLX", "AAPL", "SPY", "QQQ"}
    requested = read_matrix(database, ["MSFT"])
    assert requested["status"].to_list() == ["unchecked", "unchecked"], "a preset that is named is shown"
    assert deactivate_all(database) == 63
    assert list_symbols(database, active_only=True) == []
    add_universe(database)
    assert deactivate_all(database) == 0, "an emptied universe stays empty"
    assert add(database, WantedSymbol("MSFT"))[1] is Outcome.CHANGED
    assert in_matrix() == {"MSFT"}


def test_a_store_of_an_earlier_version_keeps_its_symbols(empty_database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    folder.mkdir()
    own = "symbols_as_written"
    for path in sorted(sql_folder().glob("*.sql")):
        if own in path.name:
            break
        shutil.copy(path, folder)
    migrate(empty_database_url, folder)
    with connect(empty_database_url, application_name="test") as session:
        session.execute(
            "insert into tracked_symbols (symbol, asset_class, created_at, updated_at)"
            " select 'S' || n, 'stock', '2026-01-01', '2026-01-01' from generate_series(1, 62) n"
        )
        session.execute("update tracked_symbols set updated_at = now() where symbol = 'S1'")
        session.execute("update tracked_symbols set active = false where symbol = 'S2'")
        session.execute(
            "insert into tracked_symbols (symbol, asset_class, name) values"
            " ('BACPL', 'stock', e'Bank\\t\\x1b[31mof  America\\n'), ('LONG', 'stock', repeat('x', 5000)),"
            " ('BLANK', 'etf', e' \\t'), ('FINE', 'etf', 'Société')"
        )
    migrate(empty_database_url)
    with Database(empty_database_url) as store:
        known = {one.symbol: one.name for one in list_symbols(store)}
        assert len(known) == 66
        assert known["BACPL"] == "Bank [31mof  America"
        assert (known["LONG"], known["BLANK"], known["FINE"]) == ("x" * 200, None, "Société")
        assert list_presets(store) == {f"S{number}" for number in range(3, 63)}
        assert add(store, WantedSymbol("BACpL"))[0].vendor_ticker == "BACpL"
        with pytest.raises(CheckViolation, match="symbol_check"):
            store.transaction(
                lambda session: session.execute(
                    "insert into tracked_symbols (symbol, asset_class) values ('aapl', 'stock')"
                )
            )
