"""The console script as people and scripts meet it: exit codes, one-line errors, pipes, JSON."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

from marketdata_assets.cli.app import app, main
from marketdata_assets.domain.run_tags import COMMAND_TAG
from marketdata_assets.simulator import Fault, FaultKind
from marketdata_assets.storage.vendor import claim_store
from marketdata_assets_tests.integration.platform import command_environment, run_command, run_in_process
from marketdata_assets_tests.simulator import KEY, SimulatorHandle, running_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

    Run = Callable[..., subprocess.CompletedProcess[str]]

TOMORROW = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
WEEK = ("--start", "2023-07-03", "--end", "2023-07-05")


@pytest.fixture
def simulator() -> Iterator[SimulatorHandle]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def environment_of(
    tmp_path: Path, database_url: str, simulator: SimulatorHandle
) -> Callable[..., dict[str, str]]:
    """The environment of a command with the given variables; None unsets one."""
    usual = command_environment(tmp_path, database_url, POLYGON_API_KEY=KEY, POLYGON_BASE_URL=simulator.url)

    def environment_of(**variables: str | None) -> dict[str, str]:
        return {name: value for name, value in {**usual, **variables}.items() if value is not None}

    return environment_of


@pytest.fixture
def process(tmp_path: Path, environment_of: Callable[..., dict[str, str]]) -> Run:
    """Runs ``marketdata`` as a process, with variables of the environment as keywords."""

    def process(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        return run_command(environment_of(**variables), tmp_path, *arguments)

    return process


@pytest.fixture
def run(
    tmp_path: Path, environment_of: Callable[..., dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> Run:
    """As ``process``, in this process."""

    def run(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        return run_in_process(environment_of(**variables), tmp_path, capfd, *arguments)

    return run


@pytest.fixture
def run_marketdata(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """As ``run``, through the console script's function in this process: ends before Dagster starts."""
    monkeypatch.chdir(tmp_path)

    def run_marketdata(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["marketdata", *arguments])
            for name, value in {"DATABASE_URL": database_url, "POLYGON_API_KEY": KEY, **variables}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out, err)

    return run_marketdata


def one_line(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """The command failed with ``code`` and a single line that holds every part of ``said``."""
    assert done.returncode == code, (done.args, done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    for part in said:
        assert part in line
    assert KEY not in line


def commands() -> list[list[str]]:
    """Every command, groups included."""
    found: list[list[str]] = []

    def walk(command: object, path: list[str]) -> None:
        found.append(path)
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])

    walk(get_command(app), [])
    return found


def test_every_command_explains_itself_with_an_example(run_marketdata: Run) -> None:
    listed = commands()
    assert ["symbols", "add"] in listed
    for path in listed:
        done = run_marketdata(*path, "--help")
        assert done.returncode == 0, path
        assert "Usage: marketdata" in done.stdout
        assert "\x1b" not in done.stdout
        assert "Example:" in done.stdout, path
        assert "marketdata" in done.stdout.partition("Example:")[2], path


def test_wrong_arguments_are_one_line_and_leave_nothing(run_marketdata: Run, database: Database) -> None:
    cases: list[tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]] = [
        (("--symbols", "ZZZZ"), {}, ("ZZZZ is not tracked", "marketdata symbols add ZZZZ")),
        (("--symbols", "AAPL", "--timeframes", "7m"), {}, ("unknown timeframe '7m'", "1m, 5m")),
        (("--start", "2023-07-05", "--end", "2023-07-03"), {}, ("2023-07-03", "before", "swap them")),
        (("--end", TOMORROW), {}, (TOMORROW, "future")),
        (("--start", "2019-12-31"), {}, ("MARKETDATA_START", "2019-12-31")),
        (("--start", "2023-06-31"), {}, ("--start '2023-06-31'", "YYYY-MM-DD")),
        (("--days", "0"), {}, ("--days 0", "1 or more")),
        (("--days", "99999999999999"), {}, ("--days 99999999999999", "or less")),
        (("--days", "3", "--start", "2023-07-03"), {}, ("--days and --start",)),
        (WEEK, {"DATABASE_URL": "mysql://me:hunter2@host/db"}, ("DATABASE_URL", "postgresql://")),
        (WEEK, {"DATABASE_URL": "postgresql://me:hunter2@host:port/db"}, ("DATABASE_URL", "port")),
        (WEEK, {"MARKETDATA_START": "soon"}, ("MARKETDATA_START is wrong",)),
    ]
    for arguments, variables, said in cases:
        done = run_marketdata("backfill", *arguments, **variables)
        one_line(done, 2, *said)
        assert "hunter2" not in done.stderr
    for table in ("ohlcv", "coverage", "fetch_log", "backfill_history"):
        assert database.read_frame(f"select count(*) as n from {table}").item() == 0


@pytest.mark.parametrize("command", ["backfill", "gaps", "features"])
def test_nothing_to_do_is_a_usage_error(run_marketdata: Run, database: Database, command: str) -> None:
    one_line(
        run_marketdata(command, "--timeframes", "5m"),
        2,
        "no symbol is tracked in these timeframes",
        "symbols list",
    )
    assert database.read_frame("select count(*) as n from backfill_history").item() == 0


def test_days_that_are_no_number_are_a_usage_error(run_marketdata: Run) -> None:
    one_line(run_marketdata("backfill", "--days", "many"), 2, "--days", "integer", "--help")
    one_line(run_marketdata("backfill", "--dayz", "3"), 2, "--dayz", "--help")
    one_line(run_marketdata("backfil"), 2, "backfil", "--help")


def test_no_command_shows_the_help(run_marketdata: Run) -> None:
    done = run_marketdata()
    assert done.returncode == 2
    assert "Usage: marketdata" in done.stdout
    assert done.stderr == ""


def test_an_unreachable_database_is_one_line(process: Run, database_url: str) -> None:
    with socket.socket() as bound:  # bound, not listening: refuses
        bound.bind(("127.0.0.1", 0))
        parts = urlsplit(database_url)
        url = parts._replace(netloc=f"me:hunter2@127.0.0.1:{bound.getsockname()[1]}").geturl()
        done = process("backfill", *WEEK, DATABASE_URL=url)
    one_line(done, 2, "cannot connect to postgresql://me@127.0.0.1", "DATABASE_URL")
    assert "hunter2" not in done.stderr


def failed(done: subprocess.CompletedProcess[str], *said: str) -> int:
    """Checks that a backfill failed, and said why in one line beside its plain progress; returns the code."""
    progress = re.compile(
        r"run: |[1-5]/[45] (bars|gaps|repair|features|matrix)|AAPL: tracked|open: |\d+ series ends? before"
    )
    lines = [line for line in done.stderr.splitlines() if not progress.match(line)]
    assert len(lines) == 1, done.stderr
    for part in said:
        assert part in lines[0]
    assert KEY not in done.stderr + done.stdout
    assert "\x1b" not in done.stderr + done.stdout
    return done.returncode


def nothing_stored(database: Database) -> None:
    for table in ("ohlcv", "coverage"):
        assert database.read_frame(f"select count(*) as n from {table}").item() == 0


def every_run_is_known(database: Database) -> None:
    """There is a run, and all of them carry the tag by which they are ended when their process is killed."""
    tagged = database.read_frame(
        "select exists (select from dagster.run_tags t where t.run_id = r.run_id and t.key = $1) as tagged"
        " from dagster.runs r",
        [COMMAND_TAG],
    )
    assert tagged["tagged"].to_list() == [True] * max(1, tagged.height)


ONE = ("backfill", "--symbols", "AAPL", "--timeframes", "1d", "--no-features", *WEEK)


def test_a_wrong_key_is_one_line(process: Run, database: Database) -> None:
    wrong = "wrong-key-0123456789"
    done = process(*ONE, POLYGON_API_KEY=wrong)
    assert failed(done, "marketdata: ", "POLYGON_API_KEY") == 2
    assert wrong not in done.stderr + done.stdout
    nothing_stored(database)


def test_a_missing_key_is_one_line(run: Run, database: Database) -> None:
    done = run(*ONE, POLYGON_API_KEY=None)
    assert failed(done, "no API key", "POLYGON_API_KEY") == 2
    nothing_stored(database)
    history = database.read_frame("select status from backfill_history")
    assert history["status"].to_list() == ["failed"]


# slow: a whole pipeline of Dagster
@pytest.mark.slow
def test_simulated_and_real_bars_do_not_mix(run: Run, database: Database) -> None:
    assert run(*ONE).returncode == 0
    stored = database.read_frame("select count(*) as n from ohlcv").item()
    # Nothing is asked of the real vendor: the refusal comes first.
    done = run(*ONE, "--force", POLYGON_BASE_URL="https://api.massive.com")
    assert failed(done, "simulated bars", "MARKETDATA_HOME") == 2
    assert database.read_frame("select count(*) as n from ohlcv").item() == stored


# slow: a whole pipeline of Dagster
@pytest.mark.slow
def test_bars_that_are_all_broken_are_one_line(
    run: Run, database: Database, simulator: SimulatorHandle
) -> None:
    simulator.fail(FaultKind.INVALID_BARS)
    done = run(*ONE)
    assert failed(done, "failed: AAPL", "broke a rule", "ohlcv_quarantine") == 1
    nothing_stored(database)
    history = database.read_frame("select status from backfill_history")
    assert history["status"].to_list() == ["failed"]


# slow: a whole process
@pytest.mark.slow
def test_a_backfill_in_a_pipe_is_plain_and_its_json_parses(
    process: Run, run: Run, database: Database, tmp_path: Path
) -> None:
    done = process(*ONE, "--json", "-")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["summary"]
    assert (facts["rows_inserted"], facts["requests"], facts["failures"]) == (2, 1, {})
    assert "\x1b" not in done.stderr
    again = run(*ONE, "--json", "summary.json")
    assert again.returncode == 0, again.stderr
    assert "bars: 0 inserted, 0 changed, 0 unchanged, 0 quarantined" in again.stdout.splitlines()
    assert json.loads((tmp_path / "summary.json").read_text())["summary"]["requests"] == 0
    assert database.read_frame("select count(*) as n from ohlcv").item() == 2


def test_the_life_of_a_tracked_symbol(run_marketdata: Run, tmp_path: Path, database: Database) -> None:
    def tracked(*options: str) -> dict[str, list[str]]:
        done = run_marketdata("symbols", "list", "--json", *options)
        assert done.returncode == 0, done.stderr
        return {one["symbol"]: one["timeframes"] for one in json.loads(done.stdout)}

    universe = tracked()
    assert len(universe) == 62
    assert universe["AAPL"] == ["1h", "1d"]

    added = run_marketdata("symbols", "add", "nflx", "ADA-EUR", "NFLX", "--timeframes", "1d,1m")
    assert added.returncode == 0, added.stderr
    assert not {"NFLX", "ADA-EUR"} & set(universe)
    assert added.stdout == "tracked: NFLX (stock)\ntracked: ADA-EUR (crypto)\n"
    assert run_marketdata("symbols", "set-timeframes", "AAPL", "1w,5m").stdout == "AAPL: 5m, 1w\n"
    assert run_marketdata("symbols", "deactivate", "TSLA").returncode == 0
    rows = database.read_frame(
        "select symbol, asset_class from tracked_symbols where symbol = any(array['NFLX','ADA-EUR'])"
    )
    assert dict(rows.iter_rows()) == {"NFLX": "stock", "ADA-EUR": "crypto"}

    (tmp_path / "more.csv").write_text(
        "symbol,asset_class,name,timeframes\nVIX,index,Volatility,1m 1d\nrio,stock,,\n"
    )
    imported = run_marketdata("symbols", "import", "more.csv")
    assert imported.stdout == "tracked: VIX (index)\ntracked: RIO (stock)\n", imported.stderr
    now = tracked()
    assert (now["NFLX"], now["AAPL"], now["VIX"], now["RIO"]) == (
        ["1m", "1d"],
        ["5m", "1w"],
        ["1m", "1d"],
        ["1h", "1d"],
    )
    assert "TSLA" not in now
    assert "TSLA" in tracked("--all")
    for changed, active in (
        (run_marketdata("symbols", "deactivate", "RIO", "VIX", "--json"), False),
        (run_marketdata("symbols", "add", "RIO", "VIX", "--json"), True),
    ):
        facts = json.loads(changed.stdout)
        assert [(one["symbol"], one["active"]) for one in facts] == [("RIO", active), ("VIX", active)]
    (changed,) = json.loads(run_marketdata("symbols", "set-timeframes", "VIX", "1h", "--json").stdout)
    assert (changed["timeframes"], changed["calendar"]) == (["1h"], "XNYS")
    plain = run_marketdata("symbols", "list").stdout
    assert plain.splitlines()[0] == "symbol\tclass\ttimeframes\tname"
    assert "AAPL\tstock\t5m,1w\t" in plain
    assert "\x1b" not in plain


def test_wrong_symbols_are_one_line_and_change_nothing(
    run_marketdata: Run, tmp_path: Path, database: Database
) -> None:
    run_marketdata("symbols", "list")
    database.transaction(
        lambda connection: connection.execute("insert into bar_counts values ('MSFT', '1d', 1)")
    )
    before = database.read_frame("select * from tracked_symbols order by symbol")
    files = {
        "heading.csv": ("ticker,kind\nRIO,stock\n", ("heading.csv", "heading")),
        "class.csv": (
            "symbol,asset_class\nRIO,stock\nXYZ,bond\n",
            ("class.csv, line 3, column 2 (asset_class)", "'bond'", "nothing was imported"),
        ),
        "twice.csv": ("symbol,asset_class\nRIO,stock\nrio,stock\n", ("line 3", "twice")),
        "timeframe.csv": (
            "symbol,asset_class,name,timeframes\nRIO,stock,,2h\n",
            ("line 2, column 4", "'2h'"),
        ),
        "doubt.csv": (
            "symbol,asset_class\nRIO,stock\nBRK-B,stock\n",
            ("doubt.csv, line 3, column symbol", "do you mean BRK.B?", "--yes"),
        ),
        "mixed.csv": ("symbol,asset_class\nRIO,stock\nAAPL,crypto\n", ("AAPL",)),
        "kind.csv": (
            "symbol,asset_class\nMSFT,index\n",
            ("kind.csv, line 2, column asset_class", "bars of MSFT are stored as stock"),
        ),
    }
    for name, (text, _) in files.items():
        (tmp_path / name).write_text(text)
    cases: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        *((("import", name), said) for name, (_, said) in files.items()),
        (("import", "absent.csv"), ("cannot read absent.csv: No such file or directory; give a CSV file",)),
        (("import", "."), ("cannot read .: Is a directory; give a CSV file",)),
        (("add", "A|B"), ("'A|B' is not a symbol",)),
        (("add", "BRK/B"), ("do you mean BRK.B?",)),
        (("add", "BRK-B"), ("do you mean BRK.B?", "--yes", "nothing was added")),
        (("add", "BTCUSD", "--class", "stock"), ("do you mean BTC-USD?", "--yes")),
        (("add", "NFLX,VIX"), ("VIX with the class index?", "`--class index` tracks", "--yes")),
        (("add", "A..B"), ("'A..B' is not a symbol of the vendor",)),
        (("add", "NFLX", "--name", "a\x1b[31mb"), ("the name of NFLX holds the control character",)),
        (("add", "NFLX", "--name", "x" * 201), ("has 201 characters",)),
        (("deactivate", "aApl"), ("aApl is not tracked, but AAPL is",)),
        (("add", "NFLX", "--class", "bond"), ("unknown asset class 'bond'",)),
        (("add", "NFLX", "--timeframes", "9h"), ("unknown timeframe '9h'",)),
        (("add", "SOL-USD", "DOGE", "--class", "crypto"), ("'DOGE' is not a crypto pair",)),
        (("set-timeframes", "ZZZZ", "1h"), ("ZZZZ is not tracked",)),
        (("deactivate", "ZZZZ"), ("ZZZZ is not tracked",)),
        (("deactivate", "SPY", "ZZZZ"), ("ZZZZ is not tracked",)),
    ]
    for arguments, said in cases:
        one_line(run_marketdata("symbols", *arguments), 2, *said)
    assert database.read_frame("select * from tracked_symbols order by symbol").equals(before)


def test_an_empty_universe_takes_what_is_added_as_it_is_written(run_marketdata: Run, tmp_path: Path) -> None:
    assert run_marketdata("symbols", "clear").stdout.startswith("62 no longer collected; their bars stay")
    empty = run_marketdata("symbols", "list")
    assert empty.stdout == "symbol\tclass\ttimeframes\tname\n"
    assert "`marketdata symbols add`" in empty.stderr
    one_line(run_marketdata("gaps"), 2, "no symbol is tracked: add one with `marketdata symbols add`")
    assert run_marketdata("symbols", "add", "BACpL,BACPL", "nflx").stdout == (
        "tracked: BACpL (stock)\ntracked: BACPL (stock)\ntracked: NFLX (stock)\n"
    )
    assert run_marketdata("symbols", "add", "BRK-B", "--yes").stdout == "tracked: BRK-B (stock)\n"
    assert run_marketdata("symbols", "add", "nflx").stderr == "already tracked like this: NFLX\n"
    one_line(run_marketdata("symbols", "deactivate", "bacpl"), 2, "bacpl may be BACPL or BACpL")
    assert run_marketdata("symbols", "deactivate", "BACpL", "nflx").stdout == (
        "BACpL: no longer collected\nNFLX: no longer collected\n"
    )
    assert [one["symbol"] for one in json.loads(run_marketdata("symbols", "list", "--json").stdout)] == [
        "BACPL",
        "BRK-B",
    ]
    (tmp_path / "latin.csv").write_bytes(b"symbol,asset_class,name\nRIO,stock,Soci\xe9t\xe9\n")
    one_line(
        run_marketdata("symbols", "import", "latin.csv"), 2, "latin.csv, line 2, byte 15: this is not UTF-8"
    )


def test_adding_a_known_symbol_takes_it_up_as_it_was(run_marketdata: Run) -> None:
    assert run_marketdata("symbols", "set-timeframes", "SPY", "1m,1w").returncode == 0
    assert run_marketdata("symbols", "deactivate", "SPY,QQQ", "AAPL").returncode == 0
    again = run_marketdata("symbols", "add", "SPY")
    assert (again.returncode, again.stdout) == (0, "tracked: SPY (etf)\n"), again.stderr
    listed = {one["symbol"]: one for one in json.loads(run_marketdata("symbols", "list", "--json").stdout)}
    assert (listed["SPY"]["asset_class"], listed["SPY"]["timeframes"]) == ("etf", ["1m", "1w"])
    assert listed["BTC-USD"]["vendor_ticker"] == "X:BTCUSD"


def test_a_symbol_added_by_hand_needs_no_ticker(run_marketdata: Run, database: Database) -> None:
    run_marketdata("symbols", "list")
    inserted = database.transaction(
        lambda connection: connection.execute(
            "insert into tracked_symbols (symbol, asset_class) values ('VIX', 'index'), ('ADA-USDT', 'crypto')"
            " returning vendor_ticker, calendar"
        ).fetchall()
    )
    assert inserted == [("I:VIX", "XNYS"), ("X:ADAUSDT", "24/7")]


def test_a_matrix_nobody_looked_for_says_what_to_run(run_marketdata: Run, tmp_path: Path) -> None:
    done = run_marketdata("matrix")
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert "run `marketdata gaps`" in line
    rows = json.loads(run_marketdata("matrix", "--json", "--symbols", "SPY").stdout)
    assert [(row["timeframe"], row["status"], row["as_of"]) for row in rows] == [
        ("1h", "unchecked", None),
        ("1d", "unchecked", None),
    ]
    assert run_marketdata("matrix", "--html", "page.html").returncode == 0
    assert "never scanned" in (tmp_path / "page.html").read_text("utf-8")


# slow: a whole pipeline of Dagster
@pytest.mark.slow
def test_a_matrix_is_summed_up_anew_and_printed(run: Run, run_marketdata: Run, database: Database) -> None:
    run_marketdata("symbols", "set-timeframes", "SPY", "1d")
    database.transaction(
        lambda connection: connection.execute(
            "insert into completeness_daily values ('SPY', '1d', '2023-07-03', 1, 1, 0, 0, 1, 'whole'),"
            " ('SPY', '1d', '2023-07-05', 1, 0, 0, 1, 0, 'empty'), ('AAPL', '1h', '2023-07-05', 7, 7, 0, 0, 1, 'whole')"
        )
    )
    done = run("matrix", "--symbols", "AAPL,SPY", "--refresh")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("matrix: 1 whole, 1 with gaps, 1 never scanned, as of ")
    heading, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    shown = [dict(zip(heading, line, strict=True)) for line in lines]
    assert [(row["symbol"], row["timeframe"], row["completeness"]) for row in shown] == [
        ("AAPL", "1h", "1.0"),
        ("AAPL", "1d", ""),
        ("SPY", "1d", "0.5"),
    ]
    assert "\x1b" not in done.stdout
    stored = json.loads(run_marketdata("matrix", "--symbols", "AAPL,SPY", "--json").stdout)
    assert [row["missing_bars"] for row in stored] == [0, 0, 1]
    assert [str(row["as_of"]) for row in stored] == [row["as_of"] for row in shown]
    assert database.read_frame("select count(*) as n from completeness_history").item() == 3
    every_run_is_known(database)


def test_a_page_of_the_matrix_replaces_the_old_one_or_leaves_it(run_marketdata: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old", encoding="utf-8")
    done = run_marketdata("matrix", "--symbols", "SPY", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert "AAPL" not in page.read_text("utf-8")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    one_line(
        run_marketdata("matrix", "--html", "nowhere/page.html"),
        2,
        "nowhere/page.html",
        "nowhere is not a folder",
    )
    one_line(
        run_marketdata("matrix", "--html", "folder"),
        2,
        "folder cannot be written",
        "not a regular file",
        "give a file",
    )
    one_line(run_marketdata("matrix", "--html", f"{'x' * 300}.html"), 2, "cannot be written")
    one_line(run_marketdata("matrix", "--symbols", "ZZZZ"), 2, "ZZZZ is not tracked")
    assert sorted(tmp_path.iterdir()) == before


# slow: a whole pipeline of Dagster
@pytest.mark.slow
def test_a_backfill_that_cannot_start_changes_nothing(run: Run, database: Database, tmp_path: Path) -> None:
    run("symbols", "list")
    before = database.read_frame("select * from tracked_symbols order by symbol")
    wider = ("backfill", "--symbols", "AAPL", "--timeframes", "5m", *WEEK)
    one_line(run(*wider, POLYGON_API_KEY=None), 2, "no API key")
    nowhere = tmp_path / "nowhere" / "summary.json"
    one_line(run(*wider, "--json", str(nowhere)), 2, "--json", "nowhere is not a folder")
    one_line(run(*wider, "--json", "summary.json", POLYGON_API_KEY=None), 2, "no API key")
    assert not (tmp_path / "summary.json").exists()
    assert database.read_frame("select * from tracked_symbols order by symbol").equals(before)


def test_a_demo_refuses_a_store_of_real_bars(run: Run, database: Database) -> None:
    run("symbols", "list")
    claim_store(database, simulated=False)
    before = database.read_frame("select * from tracked_symbols order by symbol")
    done = run("demo")
    assert done.returncode == 2
    assert "real bars" in done.stderr.splitlines()[-1]
    assert database.read_frame("select * from tracked_symbols order by symbol").equals(before)


# slow: a whole pipeline of Dagster
@pytest.mark.slow
def test_a_symbol_that_fails_is_told_and_the_others_are_counted_and_recorded(
    run: Run, database: Database, simulator: SimulatorHandle
) -> None:
    simulator.set_faults(Fault(kind=FaultKind.NOT_AUTHORIZED, ticker="MSFT", status=403))
    done = run(
        "backfill", "--symbols", "AAPL,MSFT,NVDA", "--timeframes", "1d", "--no-features", *WEEK, "--json", "-"
    )
    assert done.returncode == 1
    facts = json.loads(done.stdout)["summary"]
    assert list(facts["failures"]) == ["MSFT"]
    assert facts["rows_inserted"] == database.read_frame("select count(*) as n from ohlcv").item() == 4
    recorded = database.read_frame(
        "select distinct split_part(partition, '|', 2) as series from dagster.event_logs"
        " where dagster_event_type = 'ASSET_MATERIALIZATION' and asset_key = '[\"ohlcv\"]' order by 1"
    )
    assert recorded["series"].to_list() == ["AAPL:1d", "NVDA:1d"]


# slow: a whole process
@pytest.mark.slow
def test_corporate_actions_are_counted_and_what_the_plan_lacks_is_no_failure(
    process: Run, database: Database
) -> None:
    done = process("actions")
    assert done.returncode == 0, done.stderr
    splits, dividends, earnings = done.stdout.splitlines()
    stored = database.read_frame("select count(*) as n from splits").item()
    assert stored > 10
    assert splits == (
        f"splits: {stored} stored; {stored} inserted, 0 changed, 0 unchanged, 0 withdrawn (1 request)"
    )
    assert dividends.startswith("dividends: ")
    assert earnings == "earnings: not in your plan"
    every_run_is_known(database)
    assert "Traceback" not in done.stderr


# slow: the vendor's retries wait some six seconds of real time
@pytest.mark.slow
def test_an_unreachable_vendor_is_one_line(process: Run, database: Database) -> None:
    with socket.socket() as bound:  # bound, not listening: refuses
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        done = process(*ONE, "--json", "-", POLYGON_BASE_URL=url)
    assert done.returncode == 1
    assert list(json.loads(done.stdout)["summary"]["failures"]) == ["AAPL"]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert "no usable answer" in line
    assert "POLYGON_BASE_URL" in line
    nothing_stored(database)
