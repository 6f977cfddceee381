"""The rules that the package's docstrings state about who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import marketdata_assets

NAME = "marketdata_assets"
PACKAGE = Path(marketdata_assets.__file__).parent

# Each part may import itself and these: the layers from the ground up. `config`, `queries` and `definitions` are modules
# beside the packages.
ALLOWED: dict[str, set[str]] = {
    "domain": set(),
    "config": {"domain"},
    "simulator": {"domain"},
    "storage": {"domain", "config"},
    "polygon": {"domain", "config", "storage"},
    "pipeline": {"domain", "config", "storage", "polygon"},
    "queries": {"domain", "config", "storage", "pipeline"},
    "defs": {"domain", "config", "storage", "polygon", "pipeline"},
    "definitions": {"config", "defs"},
    "api": {"domain", "config", "storage", "pipeline", "queries"},
    "cli": {
        "domain", "config", "simulator", "storage", "polygon", "pipeline", "queries", "defs", "definitions", "api",
    },
    "automation": set(),
}  # fmt: skip

# Former addresses of classes that copies of `dagster.yaml` name. Each only re-exports a class of `defs`.
FORMER = {"automation/launcher.py", "storage/dagster_storage.py"}

KNOW_DAGSTER = {"defs", "definitions", "cli"}
PRIVATE_DAGSTER = "defs/instance/internals.py"

DRIVERS = {"psycopg", "psycopg2", "adbc_driver_manager", "adbc_driver_postgresql", "sqlalchemy"}
# The names that translate errors of drivers. Other layers catch StoreError and StatementError.
DRIVER_ERRORS = re.compile(
    r"\b_?(DRIVER_ERRORS|is_driver_error|find_refusal|raise_store_errors|sqlstate|pgcode)\b"
)
# The module outside `storage` that may import a driver: the event log of Dagster, whose tables are SQLAlchemy's.
KNOW_DRIVERS = {PRIVATE_DAGSTER}
SQL = re.compile(
    # A string that begins as a statement does.
    r"\A\s*(select\s|with\s+(recursive\s+)?\w+\s+as\s*\(|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s"
    r"|merge\s+into\s|(create|alter|drop)\s+(table|index|view|schema|function|extension)\s|truncate\s|copy\s+\w+\s"
    r"|(un)?listen\s|notify\s)"
    # A string with a part of a statement, at any place in it.
    r"|\b(from|into|join)\s+[\w.]+(\s+(as\s+)?\w+)?\s+(where|(left\s+|inner\s+)?join|values|order\s+by|group\s+by)\s"
    r"|\b(from|into|join)\s+(ohlcv|gap_report|completeness_daily|coverage|fetch_log|tracked_symbols|bar_counts"
    r"|rate_limit|features_stale|pg_|information_schema)",
    re.IGNORECASE,
)

# What the domain needs to compute; nothing of it reads a file, a socket, a clock or the environment.
DOMAIN_IMPORTS = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "exchange_calendars",
    "fractions", "functools", "itertools", "math", "numpy", "polars", "re", "statistics", "talib", "types", "typing",
    "zoneinfo",
}  # fmt: skip


def modules(part: str = "") -> list[Path]:
    single = PACKAGE / f"{part}.py"
    return [single] if single.is_file() else sorted((PACKAGE / part).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    return imported_by(path.read_text("utf-8"), path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1])


def imported_by(text: str, parents: tuple[str, ...]) -> set[str]:
    """Return the full names that the module ``text`` in the package ``parents`` imports, at any place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` imports the module too.
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def parts_of(names: set[str]) -> set[str]:
    own = (name.split(".") for name in names if name.startswith(f"{NAME}."))
    return {name[1] for name in own if name[1] != "__version__"}


def forbidden_parts(part: str, names: set[str]) -> set[str]:
    """The parts among the imported ``names`` that ``part`` must not import."""
    return parts_of(names) - ALLOWED[part] - {part}


def dagster_in(names: set[str]) -> set[str]:
    return {name for name in names if re.match(r"dagster(_\w+)?(\.|$)", name)}


def drivers_in(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in DRIVERS}


def sql_in(text: str) -> list[str]:
    """Return the strings of the module ``text`` that are a statement or a part of one, docstrings left out."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, documented)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in prose
        and SQL.search(node.value)
    ]


def test_every_part_has_its_rule() -> None:
    found = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert found - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_run_one_way(part: str) -> None:
    wrong = {
        f"{name_of(path)} imports {other}"
        for path in modules(part)
        if name_of(path) not in FORMER
        for other in forbidden_parts(part, imports(path))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("domain", f"from {NAME} import config"),
        ("storage", f"from {NAME}.pipeline.gaps import report_gaps"),
        ("storage", "def read():\n    from ..domain import gaps\n    from ..defs import partitions"),
        ("polygon", f"import {NAME}.simulator.server"),
        ("simulator", f"from {NAME}.polygon.parser import Page"),
        ("pipeline", f"from {NAME}.defs.partitions import partition_key"),
        ("queries", f"import {NAME}.defs"),
        ("defs", f"from {NAME}.cli.session import open_store"),
        ("api", f"from {NAME}.defs.runs import history"),
    ],
)
def test_an_import_upwards_is_found(part: str, text: str) -> None:
    assert len(forbidden_parts(part, imported_by(text, (NAME, part)))) == 1


def test_a_former_address_reexports_a_class_of_defs_and_nothing_else() -> None:
    assert {path for path in FORMER if not (PACKAGE / path).is_file()} == set()
    for path in FORMER:
        assert parts_of(imports(PACKAGE / path)) == {"defs"}
        assert len((PACKAGE / path).read_text("utf-8").splitlines()) < 25


def test_only_defs_and_the_commands_import_dagster() -> None:
    for path in modules():
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        found = dagster_in(imports(path))
        assert part in KNOW_DAGSTER or not found, name_of(path)
        private = {name for name in found if re.match(r"dagster\w*\._", name)}
        assert name_of(path) == PRIVATE_DAGSTER or not private, name_of(path)


@pytest.mark.parametrize(
    "text",
    [
        "import dagster as dg",
        "from dagster_postgres import DagsterPostgresStorage",
        "from dagster._core import x",
    ],
)
def test_an_import_of_dagster_is_found(text: str) -> None:
    assert dagster_in(imported_by(text, (NAME, "pipeline")))
    assert not dagster_in({f"{NAME}.storage.dagster_tables", "dagsters"})


def test_only_storage_has_sql() -> None:
    found = {
        name_of(path)
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] != "storage" and sql_in(path.read_text("utf-8"))
    }
    assert found == set(), "statements belong in storage"


def test_a_statement_is_found_and_prose_is_not() -> None:
    statements = [
        'QUERY = "select symbol from ohlcv"',
        'def f(c):\n    c.execute(f"insert into {t} values (1)")',
        'QUERY = """\nwith wanted as (select 1)\nselect * from wanted"""',
        'c.execute("update ohlcv set close = 1")',
        'QUERY = "SELECT symbol FROM ohlcv"',
        'QUERY = "Delete From gap_report"',
        'def f(columns):\n    return f"({columns}) from bars b where b.symbol = 1"',
        'QUERY = "symbol, time " "FROM ohlcv_1m"',
        'PART = " into wanted values (1)"',
        'PART = "left join pg_class c on true"',
    ]
    assert all(sql_in(text) for text in statements)
    prose = [
        '"""select what belongs here"""',
        'def f():\n    """Select rows."""',
        'X = "Selected bars"',
        'X = "from now on"',
        'X = "split into weeks, from Monday"',
    ]
    assert not any(sql_in(text) for text in prose)


def test_only_storage_imports_drivers_of_postgres() -> None:
    found = {
        name_of(path)
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] != "storage" and drivers_in(imports(path))
    }
    assert found == KNOW_DRIVERS


def driver_errors_in(text: str) -> set[str]:
    """Return the names in the module ``text`` by which errors of drivers are recognized."""
    return {match[0] for match in DRIVER_ERRORS.finditer(text)}


def test_only_storage_knows_the_errors_of_drivers() -> None:
    found = {
        f"{name_of(path)}: {name}"
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] != "storage"
        for name in driver_errors_in(path.read_text("utf-8"))
    }
    assert not found, "storage/failures.py translates them: catch StoreError and StatementError"


@pytest.mark.parametrize(
    "text",
    [
        f"from {NAME}.storage.connection import DRIVER_ERRORS, Database",
        f"from {NAME}.storage.connection import _DRIVER_ERRORS as errors",
        "def f(error):\n    return error.sqlstate == '57014'",
        "def f(error):\n    return getattr(error, 'sqlstate', None)",
        "from ..storage import failures\nfailures.is_driver_error(ValueError())",
    ],
)
def test_a_name_of_drivers_errors_is_found(text: str) -> None:
    assert driver_errors_in(text)
    assert not driver_errors_in("except StatementError as error:\n    return error.refusal")


@pytest.mark.parametrize(
    "text", ["import psycopg", "from psycopg import sql", "def f():\n    import adbc_driver_manager"]
)
def test_an_import_of_a_driver_is_found(text: str) -> None:
    assert drivers_in(imported_by(text, (NAME, "api")))
    assert not drivers_in({f"{NAME}.storage.connection", "psycopgs"})


def test_a_session_has_one_name_and_its_rows_have_types() -> None:
    untyped = re.compile(r"Connection\[tuple\[|int\(str\(|pg_(try_)?advisory_|0x6D6\d")
    found = {
        f"{name_of(path)}: {match}"
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] == "storage" and path.name != "locks.py"
        for match in untyped.findall(path.read_text("utf-8"))
    }
    assert not found, "rows.py names the session and makes rows, locks.py takes locks"


def test_the_rules_themselves_have_no_cycle() -> None:
    done: set[str] = set()
    while ready := {part for part, others in ALLOWED.items() if others <= done} - done:
        done |= ready
    assert done == set(ALLOWED)


def test_the_domain_has_no_io_no_clock_and_no_environment() -> None:
    foreign = {
        f"{path.name} imports {name}"
        for path in modules("domain")
        for name in imports(path)
        if name.split(".")[0] not in DOMAIN_IMPORTS | {NAME}
    }
    assert not foreign
    clocks = {
        f"{path.name}, line {node.lineno}"
        for path in modules("domain")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "environ"}
    }
    assert not clocks


def loaded_by(statement: str) -> set[str]:
    """What ``statement`` adds to ``sys.modules`` in a new process."""
    script = (
        "import sys; before = set(sys.modules);"
        f"{statement}; print(*(name for name in sys.modules if name not in before))"
    )
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert answer.stderr == ""
    return set(answer.stdout.split())


def test_importing_the_package_does_nothing() -> None:
    assert loaded_by(f"import {NAME}") == {NAME}


@pytest.mark.parametrize("module", ["cli.app", "cli.status", "pipeline.backfill", "pipeline.idle"])
def test_a_command_that_has_nothing_to_do_needs_no_dagster(module: str) -> None:
    assert not dagster_in(loaded_by(f"import {NAME}.{module}"))


def test_the_function_that_reads_bars_needs_no_dagster() -> None:
    loaded = {name.split(".")[0] for name in loaded_by(f"from {NAME} import bars")}
    assert "polars" in loaded
    assert not loaded & {"dagster", "httpx", "exchange_calendars"}


@pytest.mark.parametrize("part", ["storage", "polygon", "pipeline", "queries", "api", "simulator"])
def test_a_layer_below_defs_loads_no_dagster(part: str) -> None:
    names = ",".join(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in modules(part)
        if path.stem != "__init__"
    )
    assert not dagster_in(loaded_by(f"import {names}"))


def test_importing_the_domain_loads_no_framework_and_no_driver() -> None:
    names = ",".join(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in modules("domain")
        if path.stem != "__init__"
    )
    loaded = {name.split(".")[0] for name in loaded_by(f"import {names}")}
    assert "polars" in loaded
    assert not loaded & {"dagster", "psycopg", "httpx", "pydantic", "exchange_calendars", "pandas", "talib"}


def test_every_package_says_what_belongs_in_it() -> None:
    for path in modules():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_documents_that_the_package_names_are_in_the_repository() -> None:
    named = {
        name
        for path in modules()
        for name in re.findall(r"[\w./-]+\.(?:md|json)\b(?=[,;:)\s])", path.read_text("utf-8"))
        if name.startswith("docs/") or name.isupper() or "_API" in name or "fixtures/" in name
    }
    assert named
    assert not {name for name in named if not (PACKAGE.parent / name).is_file()}
