"""Fixtures of the whole suite: a clean environment, a real Postgres, the real data.

One embedded server serves a whole run, whatever the number of xdist workers: the controlling process names
its home in the environment, the first test that needs it starts it, and the controlling process stops it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from psycopg import sql

from marketdata_assets import config
from marketdata_assets.storage.connection import Timeouts, connect
from marketdata_assets.storage.embedded import EmbeddedServer
from marketdata_assets.storage.migrations import migrate
from marketdata_assets_tests.examples import register_profiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from marketdata_assets.storage.rows import Session

REPOSITORY = Path(__file__).resolve().parent.parent

_RUN_HOME = "PYTEST_MARKETDATA_RUN_HOME"
TEMPLATE = "marketdata_template"
# a crash of the test machine may lose the test data; a template must not be held by a vacuum
_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "128MB",
}


# before Hypothesis loads the profile that the command line names
register_profiles()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SlowFilesFirst())
    if not hasattr(config, "workerinput"):
        os.environ[_RUN_HOME] = tempfile.mkdtemp(prefix="marketdata-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or _RUN_HOME not in os.environ:
        return
    home = Path(os.environ.pop(_RUN_HOME))
    EmbeddedServer(home).stop()
    shutil.rmtree(home)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    unit = REPOSITORY / "marketdata_assets_tests" / "unit"
    for item in items:
        if item.path.is_relative_to(unit) and "postgres_server" in getattr(item, "fixturenames", ()):
            message = f"{item.nodeid} asks for Postgres: unit tests run without it, move it to integration/"
            raise pytest.UsageError(message)


class SlowFilesFirst:
    """Files with slow tests begin, so that no worker waits at the end for a long one of another.

    A plugin of its own: it comes after the folders' own hooks, which mark tests too.
    """

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if (
            name.startswith(("MARKETDATA_", "DAGSTER_", "POLYGON_", "MASSIVE_", "PG"))
            or name == "DATABASE_URL"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MARKETDATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config, "project_root", lambda: tmp_path)  # keeps the developer's .env out


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of the run's Postgres server, a superuser's. Tests take `database_url`, a database of their own."""
    return EmbeddedServer(Path(os.environ[_RUN_HOME]), settings=_SERVER_SETTINGS).ensure_running()


@pytest.fixture(scope="session")
def template_url(postgres_server: str) -> str:
    """URL of a migrated database that nobody may write to: the template of every `database_url`."""
    with (
        FileLock(Path(os.environ[_RUN_HOME]) / "template.lock"),
        _administrator(postgres_server) as connection,
    ):
        found = connection.execute("select from pg_database where datname = %s", [TEMPLATE]).fetchone()
        if found is None:
            draft = f"{TEMPLATE}_draft"
            connection.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(draft)))
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(draft)))
            migrate(_with_database(postgres_server, draft))
            connection.execute(
                sql.SQL("alter database {} rename to {}").format(
                    sql.Identifier(draft), sql.Identifier(TEMPLATE)
                )
            )
    return _with_database(postgres_server, TEMPLATE)


@pytest.fixture
def database_url(postgres_server: str, template_url: str) -> Iterator[str]:
    """URL of a fresh, migrated database that is dropped after the test, whoever is still connected."""
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh database without any table."""
    with fresh_database(postgres_server, template="template0") as url:
        yield url


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real bars."""
    folder = Path(os.environ.get("MARKETDATA_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set MARKETDATA_REALDATA)")
    return folder


@contextmanager
def fresh_database(server: str, *, template: str = TEMPLATE, locale: str = "") -> Iterator[str]:
    """URL of a database that lasts as long as the context; the fixture ``template_url`` makes the template.

    Raises:
        psycopg.errors.WrongObjectType: The machine of the server does not have ``locale``.
    """
    name = f"test_{uuid.uuid4().hex}"
    with _administrator(server) as connection:
        connection.execute(
            # file_copy: a third of the time of wal_log, which writes every block of the template to the log, too.
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
            + (sql.SQL(" locale {}").format(sql.Literal(locale)) if locale else sql.SQL(""))
        )
        try:
            yield _with_database(server, name)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _administrator(server: str) -> Session:
    connection = connect(
        server, application_name="tests", timeouts=Timeouts(idle_in_transaction=timedelta(0))
    )
    connection.autocommit = True
    return connection


def _with_database(server: str, name: str) -> str:
    return urlsplit(server)._replace(path=f"/{name}").geturl()
