from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from marketdata_assets.config import Settings
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.storage.connection import Database, redacted, resolve_database_url


def settings(url: str) -> Settings:
    return Settings.model_construct(database_url=SecretStr(url), home=Path("unused"))


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "mysql://me:hunter2@localhost/bars",
        "postgresql+psycopg2://me:hunter2@localhost/bars",
        "host=localhost password=hunter2",
        "postgresql://me:hunter2@localhost:port/bars",
        "postgresql://me:hunter2@localhost:99999/bars",
        "postgresql://me:hun ter2@localhost/bars",
        "postgresql://me:hunter2%zz@localhost/bars",
        "postgresql://localhost/bars?pasword=hunter2",
        "postgresql://me:hunter2@[::1/bars",
        "postgresql://me:hunter2#x@localhost:1:2/bars",
        "postgresql://me:hunt@hunter@localhost/bars",
        "postgresql://me:hunt@@hunter2@localhost/bars",
        "postgresql://me:12/hunter2@localhost/bars",
        "postgresql://me:12/hunt@er2@localhost/bars?sslmode=require",
        "postgresql://m%40e:12/hunter2@localhost/bars",
        "postgresql://me:a?b@hunter2@localhost/bars",
        "postgresql://me:p%40a@hunter2@localhost/bars",
        "postgresql://me:%40@hunter2@localhost/bars?password=%40%40",
        "postgresql://me:%40%40?a@hunter2@localhost/bars",
        "postgresql://me:%40%40#a@hunter2@localhost/bars",
        "postgresql://me:12/hunt@er2@localhost/bars?application_name=%40%40%40",
        "postgresql://me:12/hunter2@localhost/bars?application_name=%40%40%40",
        "postgresql://localhost?password=hunter2@x",
        "postgresql://localhost#hunter2@x",
    ],
)
def test_a_malformed_url_is_one_line_that_quotes_none_of_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL .*postgresql://user:password@host") as caught:
        resolve_database_url(settings(url))
    assert "\n" not in str(caught.value)
    assert "hun" not in str(caught.value)
    assert "hun" not in redacted(url)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("postgresql://me:hunter2@db.example:5433/bars", "postgresql://me@db.example:5433/bars"),
        ("postgres://me@db.example/bars?password=hunter2&sslmode=require", "postgresql://me@db.example/bars"),
        ("postgresql://m%40e:hunter2@[::1]:5432/b%2Fars", "postgresql://m%40e@[::1]:5432/b%2Fars"),
        ("postgresql://me:hunter2@a:1,b:2/bars", "postgresql://me@a:1,b:2/bars"),
        ("postgresql:///bars?host=/run/postgresql", "postgresql://%2Frun%2Fpostgresql/bars"),
        ("postgresql://", "postgresql:///"),
        ("postgresql://m%40e:p%40ss%2Fword@db.example/b%40rs", "postgresql://m%40e@db.example/b%40rs"),
        ("postgresql://me:a?b@db.example/bars", "postgresql://me@db.example/bars"),
        ("postgresql://me@db.example/b%40rs?password=a@b", "postgresql://me@db.example/b%40rs"),
        ("postgresql://me:p%40%2F%3F%23@db.example/bars", "postgresql://me@db.example/bars"),
    ],
)
def test_a_url_is_accepted_and_printed_without_its_password(url: str, safe: str) -> None:
    assert resolve_database_url(settings(url)) == url
    assert redacted(url) == safe
    assert repr(Database(url)) == f"Database({safe!r})"
