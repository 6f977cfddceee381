"""``tracked_symbols`` as commands, the HTTP API and people's own SQL write it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from psycopg.errors import CheckViolation

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.storage.connection import Database, connect
from marketdata_assets.storage.symbols import Outcome, WantedSymbol, add_symbols, list_symbols
from marketdata_assets_tests.integration.platform import wait_until

if TYPE_CHECKING:
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
                lambda: database.ask("select count(*) from pg_locks where not granted") != [(0,)],
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
