"""Ctrl-C in a real terminal: every command ends within two seconds, with 130, one line and no traceback."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, LiteralString

import psutil
import psycopg
import pytest
from psycopg import sql

from marketdata_assets.cli.interrupts import MESSAGE
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols
from marketdata_assets_tests.integration.platform import command, command_environment
from marketdata_assets_tests.integration.test_failing_store import arguments, commands
from marketdata_assets_tests.simulator import KEY, running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

# slow: whole processes in terminals
pytestmark = pytest.mark.slow

LIMIT = 2.0 + 1.0
"""Seconds until an interrupted command is gone: the promised two, and one for a busy machine."""
BACKFILL = ("backfill", "--symbols", "BTC-USD", "--timeframes", "1d", "--days", "5")


class Terminal:
    """A command in a terminal of its own, whose keys are typed by the test."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self.output = b""
        self._code: int | None = None
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(arguments[0], arguments, environment)  # noqa: S606 - the terminal's own child

    def read(self, seconds: float = 0.05) -> bool:
        """Take up what was printed; whether the command may print more."""
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._terminal, 65_536)
        except OSError:  # Linux' way to say that the other side is closed
            return False
        self.output += data
        return bool(data)

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.read(), f"ended before {what}: {self.output.decode()}"
            assert time.monotonic() < end, f"not within {seconds} s: {what}: {self.output.decode()}"

    def interrupt(self) -> tuple[int, float]:
        """Type Ctrl-C; the exit code, and the seconds until the process was gone."""
        family = psutil.Process(self.pid).children(recursive=True)
        began = time.monotonic()
        os.write(self._terminal, b"\x03")
        while self.read():
            assert time.monotonic() - began < 30, self.output.decode()
        _, status = os.waitpid(self.pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        taken = time.monotonic() - began
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not [one for one in alive if "postgres" not in one.name()]
        return self._code, taken

    def close(self) -> None:
        os.close(self._terminal)
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def start(tmp_path: Path, database: Database) -> Iterator[Callable[..., Terminal]]:
    add_symbols(
        database, [TrackedSymbol("BTC-USD", AssetClass.CRYPTO), TrackedSymbol("AAPL", AssetClass.STOCK)]
    )
    (tmp_path / "symbols.csv").write_text("symbol,asset_class\nRIO,stock\n")
    opened: list[Terminal] = []
    with running_simulator() as simulator:
        environment = command_environment(
            tmp_path,
            database.url,
            POLYGON_API_KEY=KEY,
            POLYGON_BASE_URL=simulator.url,
            TERM="xterm",
            COLUMNS="200",
        )

        def start(*given: str, **variables: str) -> Terminal:
            terminal = Terminal(command(*given), {**environment, **variables}, tmp_path)
            opened.append(terminal)
            return terminal

        yield start
        for terminal in opened:
            terminal.close()


@contextmanager
def locked(database: Database, table: str) -> Iterator[Callable[[], bool]]:
    """Lock ``table``, as long as the context; yields what tells whether a session waits for it."""
    name = sql.Identifier(*table.split("."))
    waiting: LiteralString = "select count(*) from pg_locks where not granted and relation = %s::regclass"
    with psycopg.connect(database.url) as holder, psycopg.connect(database.url, autocommit=True) as watcher:
        holder.execute(sql.SQL("lock table {} in access exclusive mode").format(name))
        yield lambda: watcher.execute(waiting, [table]).fetchone() != (0,)


def interrupted_cleanly(terminal: Terminal) -> None:
    code, taken = terminal.interrupt()
    said = terminal.output.decode()
    assert code == 130, said
    assert taken < LIMIT
    assert said.count(MESSAGE) == 1, said
    for trouble in ("Traceback", "Error", "Exception", "CANCELLED", "ignored"):
        assert trouble not in said, said


def test_every_command_is_interrupted_while_it_waits_for_the_store(
    start: Callable[..., Terminal], database: Database
) -> None:
    with locked(database, "tracked_symbols") as waits:
        for path in commands():
            terminal = start(*arguments(path))
            if path[0] in ("db", "migrate") and path != ("db", "dump"):  # these do not read the symbols
                while terminal.read():
                    pass
                continue
            terminal.wait_until(waits, f"{path} waits for the symbols")
            if path == ("up",):
                code, taken = terminal.interrupt()
                assert (code, taken < LIMIT) == (0, True), terminal.output  # Ctrl-C is how it is stopped
                assert b"Traceback" not in terminal.output
            else:
                interrupted_cleanly(terminal)


def test_a_frame_that_is_being_read_is_interrupted(
    start: Callable[..., Terminal], database: Database
) -> None:
    with locked(database, "ohlcv") as waits:
        terminal = start("bars", "BTC-USD", "1d", "--days", "5")
        terminal.wait_until(waits, "the bars are asked for")
        interrupted_cleanly(terminal)


def test_a_backfill_is_interrupted_wherever_it_waits_and_starts_no_other_run(
    start: Callable[..., Terminal], database: Database
) -> None:
    first = start(*BACKFILL)
    while first.read(1):
        pass
    assert b"succeeded" in first.output, first.output
    for table in (
        "coverage",  # in the plan of a run
        "ohlcv",  # in the merge or in a read of a run
        "gap_report",  # in the scan
        "features_stale",  # in the plan of the features
        "dagster.event_logs",  # while Dagster records
    ):
        with locked(database, table) as waits:
            terminal = start(*BACKFILL, "--force")
            terminal.wait_until(waits, f"{table} is asked for")
            interrupted_cleanly(terminal)
    again = start(*BACKFILL, "--force")
    while again.read(1):
        pass
    assert b"1 succeeded, 0 failed" in again.output, again.output
    left = "select count(*) as n from backfill_history where status = 'running'"
    assert database.read_frame(left).item() == 0


def test_a_second_interrupt_ends_a_command_at_once(
    start: Callable[..., Terminal], database: Database
) -> None:
    with locked(database, "tracked_symbols") as waits:
        terminal = start("symbols", "list")
        terminal.wait_until(waits, "the symbols are asked for")
        os.write(terminal._terminal, b"\x03")
        interrupted_cleanly(terminal)


@pytest.mark.parametrize("module", ["typer", "marketdata_assets.cli.backfill", "polars", "dagster"])
def test_an_interrupt_while_modules_are_imported_is_one_line(
    start: Callable[..., Terminal], tmp_path: Path, module: str
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r} and not os.path.exists({str(tmp_path / 'done')!r}):\n"
        f"            open({str(tmp_path / 'done')!r}, 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    terminal = start(*BACKFILL, PYTHONPATH=str(folder))
    while terminal.read():
        pass
    assert (tmp_path / "done").exists()
    _, status = os.waitpid(terminal.pid, 0)
    terminal._code = os.waitstatus_to_exitcode(status)
    assert terminal._code == 130
    assert terminal.output.decode().count(MESSAGE) == 1
    assert "Traceback" not in terminal.output.decode()
