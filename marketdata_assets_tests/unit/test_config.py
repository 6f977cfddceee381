from __future__ import annotations

import json
import logging
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from marketdata_assets import config
from marketdata_assets.config import Settings, is_simulator, load_settings
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "key-that-nobody-may-see"
PASSWORD = "password-that-nobody-may-see"
URL = f"postgresql://me:{PASSWORD}@localhost/bars"

# The suite replaces the function, so that no test reads the developer's .env.
real_project_root: Callable[[], Path] = config.project_root


@pytest.fixture
def write_env(tmp_path: Path) -> Callable[[str], None]:
    def write(text: str) -> None:
        (tmp_path / ".env").write_text(text, "utf-8")

    return write


def secret(settings: Settings) -> str | None:
    return None if settings.polygon_api_key is None else settings.polygon_api_key.get_secret_value()


def test_every_variable_is_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MARKETDATA_HOME")
    settings = load_settings()
    assert settings.database_url is None
    assert settings.polygon_api_key is None
    assert settings.home == tmp_path / ".marketdata"
    assert settings.polygon_base_url == "https://api.massive.com"
    assert settings.polygon_requests_per_minute == 150
    assert settings.start == date(2020, 1, 1)
    assert (settings.initial_days, settings.initial_minute_days) == (365, 14)
    assert (settings.repair_runs, settings.repair_pause_minutes) == (2, 60)
    assert settings.webhook_url is None


def test_the_webhook_is_a_secret_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETDATA_WEBHOOK_URL", " https://chat.example/hooks/secret\n")
    settings = load_settings()
    assert settings.webhook_url is not None
    assert settings.webhook_url.get_secret_value() == "https://chat.example/hooks/secret"
    assert "hooks" not in repr(settings)
    monkeypatch.setenv("MARKETDATA_WEBHOOK_URL", "chat.example/hooks/secret")
    with pytest.raises(
        ConfigurationError, match=r"MARKETDATA_WEBHOOK_URL is wrong: .*https://HOST/PATH"
    ) as caught:
        load_settings()
    assert "hooks" not in str(caught.value)


def test_the_environment_is_read_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "DATABASE_URL": URL,
        "MARKETDATA_HOME": "~/bars",
        "POLYGON_API_KEY": KEY,
        "POLYGON_BASE_URL": "http://127.0.0.1:8000/",
        "POLYGON_REQUESTS_PER_MINUTE": "5",
        "MARKETDATA_START": "1998-01-02",
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == URL
    assert settings.home == tmp_path / "bars"
    assert secret(settings) == KEY
    assert settings.polygon_base_url == "http://127.0.0.1:8000"
    assert settings.polygon_requests_per_minute == 5
    assert settings.start == date(1998, 1, 2)
    monkeypatch.setenv("MARKETDATA_START", "2001-01-01")
    assert load_settings().start == date(2001, 1, 1)


@pytest.mark.parametrize("name", ["POLYGON_API_KEY", "MASSIVE_API_KEY"])
def test_the_key_has_two_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, KEY)
    assert secret(load_settings()) == KEY


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "POLYGON_API_KEY", "MARKETDATA_START", "POLYGON_REQUESTS_PER_MINUTE"):
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert (settings.database_url, settings.polygon_api_key) == (None, None)
    assert settings.start == date(2020, 1, 1)


def test_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, write_env: Callable[[str], None]
) -> None:
    write_env(
        "MARKETDATA_START=2010-01-01\nPOLYGON_REQUESTS_PER_MINUTE=7\nSOMETHING_ELSE=1\nPOLYGON_API_KEY=f\n"
    )
    monkeypatch.setenv("MARKETDATA_START", "2011-01-01")
    monkeypatch.setenv("MASSIVE_API_KEY", KEY)
    settings = load_settings()
    assert settings.start == date(2011, 1, 1)
    assert settings.polygon_requests_per_minute == 7
    assert secret(settings) == KEY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLYGON_REQUESTS_PER_MINUTE", "many"),
        ("POLYGON_REQUESTS_PER_MINUTE", "0"),
        ("POLYGON_REQUESTS_PER_MINUTE", "-1"),
        ("POLYGON_REQUESTS_PER_MINUTE", "1.5"),
        ("POLYGON_REQUESTS_PER_MINUTE", "6001"),
        ("MARKETDATA_START", "01/02/2020"),
        ("MARKETDATA_START", "2020-02-30"),
        ("MARKETDATA_START", "2"),
        ("MARKETDATA_START", "1700-01-01"),
        ("MARKETDATA_START", "1969-12-31"),
        ("MARKETDATA_START", "2999-01-01"),
        ("MARKETDATA_INITIAL_DAYS", "0"),
        ("MARKETDATA_COMPLETENESS_PERCENT", "nan"),
        ("MARKETDATA_COMPLETENESS_PERCENT", "most"),
        ("MARKETDATA_RETENTION", "1m"),
        ("MARKETDATA_API_KEYS", "short"),
        ("MARKETDATA_WEBHOOK_URL", "chat.example"),
        ("DAGSTER_POSTGRES_URL", "mysql://host"),
        ("POLYGON_BASE_URL", "api.massive.com"),
        ("POLYGON_BASE_URL", f"ftp://me:{PASSWORD}@host"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True], ids=["environment", "file"])
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
    write_env: Callable[[str], None],
    name: str,
    value: str,
    *,
    from_file: bool,
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    if from_file:
        write_env(f"{name}={value}\n")
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name} is wrong: .*; correct it") as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    for word in ("Value error", "Input should", "input", "valid", "parsing"):
        assert word not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_first_day_is_one_that_bars_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETDATA_START", "1970-01-01")
    assert load_settings().start == date(1970, 1, 1)
    for value in ("1969-12-31", "2999-01-01"):
        monkeypatch.setenv("MARKETDATA_START", value)
        with pytest.raises(ConfigurationError, match=f"from 1970-01-01 to today, not {value}"):
            load_settings()


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("DATABASE_URL", URL)
    settings = load_settings()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("%s %r", settings, settings)
    told = [
        str(settings),
        repr(settings),
        caplog.text,
        settings.model_dump_json(),
        str(settings.model_dump()),
    ]
    for text in told:
        assert KEY not in text
        assert PASSWORD not in text
    assert set(json.loads(settings.model_dump_json())) == set(Settings.model_fields)


def test_the_project_root_is_above_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "workspace.yaml").write_text("load_from: [{python_module: marketdata_assets.definitions}]")
    foreign = tmp_path / "a" / "workspace.yaml"
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    foreign.write_text("load_from: [{python_module: somebody.elses}]")
    monkeypatch.chdir(folder)
    assert real_project_root() == tmp_path


def test_elsewhere_the_project_root_is_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert real_project_root() == Path(config.__file__).resolve().parent.parent


@pytest.mark.parametrize("key", ["SECRETKEY123\n", "  SECRETKEY123 "])
def test_a_key_loses_the_line_end_of_its_file(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", key)
    assert secret(load_settings()) == "SECRETKEY123"


@pytest.mark.parametrize("key", ["SECRET KEY123", "SECRETKEY\u00e9123", "SECRET\nKEY123"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_told(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", key)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "POLYGON_API_KEY" in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://api.massive.com", "clear text"),
        ("https://api.massive.com/v2", "after the host"),
        ("https://", "HOST"),
        ("ftp://127.0.0.1", "HOST"),
    ],
)
def test_a_vendor_that_the_key_must_not_go_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("POLYGON_BASE_URL", url)
    with pytest.raises(ConfigurationError, match=said):
        load_settings()


def test_a_retention_is_chosen_by_timeframe_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, write_env: Callable[[str], None]
) -> None:
    assert load_settings().retention is None
    write_env("MARKETDATA_RETENTION=1m:30, 5m:365")
    assert load_settings().retention == {Timeframe.M1: 30, Timeframe.M5: 365}
    monkeypatch.setenv("MARKETDATA_RETENTION", "1m:3")
    with pytest.raises(ConfigurationError, match=r"MARKETDATA_RETENTION is wrong.*too few to keep"):
        load_settings()


def test_a_completeness_is_a_percentage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().completeness_percent == 99.5
    monkeypatch.setenv("MARKETDATA_COMPLETENESS_PERCENT", "101")
    with pytest.raises(ConfigurationError, match="MARKETDATA_COMPLETENESS_PERCENT is wrong"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "simulated"),
    [
        ("https://api.polygon.io", False),
        ("http://127.0.0.1:8765", True),
        ("http://localhost:8765", True),
        ("http://[::1]:8765", True),
        ("https://127.example.com", False),
    ],
)
def test_a_vendor_on_this_machine_is_a_simulator(url: str, *, simulated: bool) -> None:
    assert is_simulator(url) is simulated
