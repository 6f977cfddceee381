"""``marketdata status`` and ``marketdata bars`` on a real store, in pipes and files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO
from typing import TYPE_CHECKING

import polars as pl
import pytest
from dagster import DagsterInstance, instance_for_test

from marketdata_assets import bars as read_bars
from marketdata_assets.cli import bars as bars_command
from marketdata_assets.cli.app import main
from marketdata_assets.cli.session import open_store
from marketdata_assets.cli.status import read_report, show_report
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.symbols import WantedSymbol, add_symbols, add_universe
from marketdata_assets_tests.integration.frames import run_of
from marketdata_assets_tests.integration.platform import command_environment, run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from marketdata_assets.storage.connection import Database

    RunCommand = Callable[..., subprocess.CompletedProcess[bytes]]

NOON = datetime(2024, 7, 3, 12, tzinfo=UTC)
DAY = ("--start", "2024-01-02", "--end", "2024-01-02")


@pytest.fixture
def run_marketdata(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> RunCommand:
    """Runs ``marketdata`` with arguments through the console script's function, its output as bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)

    def run_marketdata(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["marketdata", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out, err)

    return run_marketdata


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text("", encoding="utf-8")
    with instance_for_test() as instance:  # type: ignore[no-untyped-call,unused-ignore]
        yield instance


@pytest.fixture
def stored(database: Database) -> None:
    database.transaction(
        lambda session: session.execute(
            "insert into tracked_symbols (symbol, asset_class, timeframes) values ('AAPL', 'stock', '{1m}'),"
            " ('BTC-USD', 'crypto', '{1m}')"
        )
    )
    write_batch(database, BarBatch(run_of("AAPL:1m", 30)))
    write_batch(database, BarBatch(run_of("BTC-USD:1m", 5)))


@pytest.mark.usefixtures("stored")
def test_bars_are_the_same_in_every_format(
    run_marketdata: RunCommand, database_url: str, tmp_path: Path
) -> None:
    expected = read_bars("AAPL", "1m", "2024-01-02", "2024-01-02", adjusted=False, database_url=database_url)
    assert expected.height == 30
    requested = ("bars", "AAPL", "1m", "--raw", *DAY)
    as_parquet = run_marketdata(*requested, "--format", "parquet")
    assert pl.read_parquet(BytesIO(as_parquet.stdout)).equals(expected)
    as_json = json.loads(run_marketdata(*requested, "--json").stdout)
    assert as_json[0]["time"] == "2024-01-02T14:30:00Z"
    assert [row["close"] for row in as_json] == expected["close"].to_list()
    as_csv = pl.read_csv(
        run_marketdata(*requested, "--format", "csv").stdout, try_parse_dates=True, schema_overrides=None
    )
    assert as_csv["time"].to_list() == expected["time"].to_list()
    assert as_csv.columns == expected.columns
    # A pipe: every bar, a line each.
    as_lines = run_marketdata(*requested).stdout.decode()
    assert pl.read_csv(StringIO(as_lines), separator="\t")["close"].to_list() == expected["close"].to_list()
    assert "\x1b" not in as_lines
    for name in ("bars.csv", "bars.parquet", "bars.json"):
        done = run_marketdata(*requested, "-o", name)
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"30 bars" in done.stderr
    assert pl.read_parquet(tmp_path / "bars.parquet").equals(expected)
    assert json.loads((tmp_path / "bars.json").read_text()) == as_json


@pytest.mark.usefixtures("stored")
def test_bars_become_a_picture(run_marketdata: RunCommand, tmp_path: Path) -> None:
    done = run_marketdata("bars", "BTC-USD", "1m", *DAY, "--plot", "btc.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "btc.png").read_bytes().startswith(b"\x89PNG")
    empty = run_marketdata(
        "bars", "BTC-USD", "1m", "--start", "2023-01-02", "--end", "2023-01-02", "--plot", "none.png"
    )
    assert empty.returncode == 1
    assert b"no bars of BTC-USD:1m" in empty.stderr
    assert not (tmp_path / "none.png").exists()


@pytest.mark.usefixtures("stored")
def test_what_a_range_lacks_is_said_on_standard_error(run_marketdata: RunCommand) -> None:
    wanted = ("--start", "2024-01-02", "--end", "2024-01-04")
    done = run_marketdata("bars", "AAPL", "1m", "--raw", *wanted)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 + 30
    assert done.stderr.decode() == (
        "AAPL:1m: 2 sessions from 2024-01-03 to 2024-01-04 were never fetched: `marketdata backfill --symbols AAPL"
        " --timeframes 1m --start 2024-01-03 --end 2024-01-04`\n"
    )
    assert run_marketdata("bars", "AAPL", "1m", "--raw", *DAY).stderr == b""
    assert (
        len(run_marketdata("bars", "AAPL", "1m", "--raw", "--regular-hours", *DAY).stdout.splitlines())
        == 1 + 30
    )
    weekend = run_marketdata("bars", "AAPL", "1m", "--raw", "--start", "2024-01-06", "--end", "2024-01-07")
    assert b"the market was closed" in weekend.stderr


@pytest.mark.usefixtures("stored")
@pytest.mark.slow
@pytest.mark.parametrize("locale", [{"LC_ALL": "POSIX"}, {"LC_ALL": "en_US.ISO-8859-1"}, {}])
def test_commands_run_in_locales_that_lack_letters(
    database_url: str, tmp_path: Path, locale: dict[str, str]
) -> None:
    environment = {
        **command_environment(tmp_path, database_url),
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "COLUMNS": "40",
        "TTY_COMPATIBLE": "1",
        **locale,
    }
    environment.pop("TERM", None)
    for arguments in (
        ("bars", "AAPL", "1m", "--raw", *DAY),
        ("matrix",),
        ("symbols", "list"),
        ("matrix", "--help"),
    ):
        done = run_command(environment, tmp_path, *arguments)
        assert (done.returncode, b"Traceback" in done.stderr.encode()) == (0, False), done.stderr
        table = [
            line for line in re.sub("\x1b\\[[0-9;]*m", "", done.stdout).splitlines() if line[:1] in "+|│┃"
        ]
        assert max(map(len, table), default=0) <= 40
        if arguments[0] == "bars":
            assert done.stdout.count("2024-01-02 14:") == 20


def test_a_new_store_is_made_before_it_is_looked_into(run_marketdata: RunCommand, database: Database) -> None:
    database.transaction(lambda session: session.execute("drop schema public cascade; create schema public"))
    done = run_marketdata("bars", "AAPL", "1d", "--raw")
    assert done.returncode == 0, done.stderr
    assert b"no bars of AAPL:1d" in done.stderr


@pytest.mark.usefixtures("stored")
def test_what_cannot_be_shown_is_one_line(
    run_marketdata: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars_command, "_to_terminal", lambda _: True)
    for arguments, said in (
        (("ZZZZ", "1m"), "ZZZZ is not tracked"),
        (("AAPL", "7m"), "unknown timeframe '7m'"),
        (("AAPL", "1d"), "is not collected"),
        (("AAPL", "1m", *DAY), "give --raw"),
        (("AAPL", "1m", "--format", "parquet"), "give -o FILE.parquet"),
        (("AAPL", "1m", "--json", "--format", "csv"), "exclude each other"),
        (("AAPL", "1m", "--as-of", "soon"), "--as-of 'soon'"),
        (("AAPL", "1m", "-o", "nowhere/bars.csv"), "nowhere is not a folder"),
        (("AAPL", "1m", "--raw", "--as-of", "2024-01-02"), "leave one of them out"),
        (("AAPL", "1m", "--start", "2024-01-02T14:30"), "--start 2024-01-02T14:30 has no time zone"),
        (("BTC-USD", "1m", "--regular-hours"), "crypto trades at all hours"),
        (("AAPL", "1m", "--days", "0"), "give 1 or more"),
        (("AAPL", "1m", "--days", "2", "--start", "2024-01-02"), "exclude each other"),
        (("AAPL", "1m", "--end", "0001-01-02"), "lies before any bar"),
        (("AAPL", "1m", "--plot", "a.png", "-o", "a.csv"), "run it twice"),
        (("AAPL", "1m", "--plot", "a.png", "--json"), "run it twice"),
        (("AAPL", "1m", "--plot", "a.jpg"), "end the name with .png"),
        (("AAPL", "1m", "-o", "a.xlsx"), "unknown format .xlsx"),
    ):
        done = run_marketdata("bars", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        (line,) = done.stderr.decode().splitlines()
        assert said in line
        assert done.stdout == b""


def test_a_new_store_says_what_to_do_first(tmp_path: Path, database_url: str) -> None:
    environment = command_environment(tmp_path, database_url)
    done = run_command(environment, tmp_path, "status", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [one["topic"] for one in facts["attention"]] == ["daemon"]
    assert facts["runs"] == {"latest": [], "next": [], "daemon_seen": None, "daemon_alive": False}
    assert facts["vendor"]["requests_today"] == 0
    assert facts["disk"] is None  # the server is not this machine's
    assert facts["database_bytes"] > 1_000_000


@pytest.mark.usefixtures("stored")
def test_the_status_begins_with_what_needs_attention(
    database: Database,
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setattr(DagsterInstance, "get", lambda: nullcontext(instance))

    def show_noon(*, as_json: bool = False) -> str:
        with open_store() as store:
            report = read_report(store, NOON)
        show_report(report, as_json=as_json)
        return capfd.readouterr().out

    database.transaction(
        lambda session: session.execute(
            "update tracked_symbols set updated_at = '2023-01-01', active = symbol = 'AAPL'"
        )
    )
    database.transaction(
        lambda session: session.execute(
            "insert into fetch_log (id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries,"
            "  rate_limited, duration_seconds, waited_seconds, error, requested_at, finished_at)"
            " values (gen_random_uuid(), 'AAPL', '1m', '2023-07-03', '2023-07-04', '{1m}', 'failed', 0, 0, 4, 5, 1, 0,"
            "  'over the limit', %s, %s)",
            [NOON - timedelta(minutes=5)] * 2,
        )
    )
    shown = show_noon()
    assert "\x1b" not in shown
    headings = [line for line in shown.splitlines() if not line.startswith(" ")]
    assert headings == ["Attention", "Runs", "Freshness", "Vendor", "Tables", "Slow queries", "Disk"]
    attention = [line.strip() for line in shown.partition("Runs\n")[0].splitlines()]
    assert attention[1].startswith("1. the vendor refuses requests: 5 of 5")
    assert attention[3].startswith("2. nothing runs by itself")
    assert attention[5].startswith("3. minutes of 1 symbol did not arrive: AAPL:1m from 2023-07-03")
    assert attention[7].startswith("4. 1 series not fresh: AAPL:1m: newest bar 2024-01-02 14:59 UTC")
    assert "today 5 requests, 5 refused with 429, 1 windows failed" in shown
    assert f"{30 + 5:,} rows" in shown
    facts = json.loads(show_noon(as_json=True))
    assert facts["freshness"]["states"] == {"not_asked": 1}
    assert facts["as_of"] == "2024-07-03T12:00:00+00:00"
    database.transaction(
        lambda session: session.execute(
            "insert into fetch_log (id, symbol, base, window_start, window_end, timeframes, status, pages, bars, retries,"
            "  rate_limited, duration_seconds, waited_seconds, requested_at, finished_at)"
            " values (gen_random_uuid(), 'AAPL', '1m', '2024-01-01', '2024-07-03', '{1m}', 'ok', 1, 30, 0, 0, 1, 0, %s, %s)",
            [NOON - timedelta(minutes=4)] * 2,
        )
    )
    database.transaction(lambda session: session.execute("update tracked_symbols set active = true"))
    each = json.loads(show_noon(as_json=True))["freshness"]["by_series"]
    assert [(one["symbol"], one["timeframe"]) for one in each] == [("AAPL", "1m"), ("BTC-USD", "1m")]
    assert each[1]["state"] == "not_asked"
    assert each[1]["newest"] == "2024-01-02T14:34:00+00:00"


def test_gaps_does_not_list_presets_that_were_never_chosen(
    run_marketdata: RunCommand, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketdata_assets.cli.gaps._scan", lambda *_, **__: None)
    add_universe(database)
    assert b"never fetched on these days" not in run_marketdata("gaps", *DAY).stderr
    assert (
        b"2 of 2 series were never fetched on these days"
        in run_marketdata("gaps", "--symbols", "SPY", *DAY).stderr
    )
    add_symbols(database, [WantedSymbol("AAPL")])
    assert b"2 of 2 series were never fetched on these days" in run_marketdata("gaps", *DAY).stderr
