"""The rules that the package's docstrings state about who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import marketdata_assets

NAME = "marketdata_assets"
PACKAGE = Path(marketdata_assets.__file__).parent

# Each part may import itself and these. `config`, `partitions` and `reading` are modules beside the packages.
ALLOWED: dict[str, set[str]] = {
    "domain": set(),
    "config": {"domain"},
    "partitions": {"domain"},
    "polygon": {"domain", "config"},
    "storage": {"domain", "config", "partitions"},
    "reading": {"domain", "config", "storage"},
    "assets": {"domain", "config", "partitions", "polygon", "storage"},
    "checks": {"domain", "config", "partitions", "polygon", "storage"},
    "automation": {"domain", "config", "partitions", "polygon", "storage", "assets", "checks"},
    "definitions": {
        "domain", "config", "partitions", "polygon", "storage", "assets", "checks", "automation",
    },
    "cli": {
        "domain", "config", "partitions", "polygon", "storage", "assets", "checks", "automation",
        "definitions", "api", "reading",
    },
    "api": {"domain", "config", "partitions", "storage", "reading"},
}  # fmt: skip

# What the domain needs to compute; nothing of it reads a file, a socket, a clock or the environment.
DOMAIN_IMPORTS = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "exchange_calendars",
    "fractions", "functools", "itertools", "math", "numpy", "polars", "re", "statistics", "talib", "types", "typing",
    "zoneinfo",
}  # fmt: skip


def modules(part: str = "") -> list[Path]:
    single = PACKAGE / f"{part}.py"
    return [single] if single.is_file() else sorted((PACKAGE / part).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of what a module imports, wherever in it the import stands."""
    found: set[str] = set()
    parents = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
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


def test_every_part_has_its_rule() -> None:
    found = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert found - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_run_one_way(part: str) -> None:
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in modules(part)
        for other in parts_of(imports(path)) - ALLOWED[part] - {part}
    }
    assert not wrong


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


def test_the_vendor_edge_does_not_lean_on_its_simulator() -> None:
    simulator = PACKAGE / "polygon" / "simulator"
    leaning = {
        path.name
        for path in modules("polygon")
        if not path.is_relative_to(simulator)
        and any(name.startswith(f"{NAME}.polygon.simulator") for name in imports(path))
    }
    assert not leaning


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


def test_the_function_that_reads_bars_needs_no_dagster() -> None:
    loaded = {name.split(".")[0] for name in loaded_by(f"from {NAME} import bars")}
    assert "polars" in loaded
    assert not loaded & {"dagster", "httpx", "exchange_calendars"}


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
