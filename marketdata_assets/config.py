"""Typed settings, read from the environment and ``.env`` by :func:`load_settings`, never at import.

Every variable is optional. Secrets are :class:`pydantic.SecretStr`, which print as asterisks.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.retention import parse_retention
from marketdata_assets.domain.timeframe import Timeframe  # noqa: TC001  # pydantic reads the annotations when it runs

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHORTEST_KEY: Final = 24
"""Keys are compared by a fast hash: a key that is short enough to remember could be guessed."""


_FIRST_START: Final = date(1970, 1, 1)
"""The earliest allowed start, before any bar of the vendor; each day from the start on is a partition of every series."""


def project_root() -> Path:
    """Return the project's folder: the working folder or one above it, else the checkout's, else the working folder.

    The folder is recognized by a ``workspace.yaml`` that loads this package; those of other Dagster projects are skipped.
    """
    checkout = Path(__file__).resolve().parent.parent
    for folder in (Path.cwd(), *Path.cwd().parents, checkout):
        workspace = folder / "workspace.yaml"
        if workspace.is_file() and "marketdata_assets.definitions" in workspace.read_text(encoding="utf-8"):
            return folder
    return Path.cwd()


def is_loopback(url: str) -> bool:
    """Whether the host of ``url`` is this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_simulator(url: str) -> bool:
    """Whether the vendor at ``url`` is a simulator: the real vendor does not run on this machine."""
    return is_loopback(url)


def is_loopback_host(host: str) -> bool:
    """Whether ``host``, a name or an address, is this machine's loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """The settings, such as where the data is and how to reach the vendor. The environment takes precedence over ``.env``."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    home: Path = Field(
        default_factory=lambda: project_root() / ".marketdata", validation_alias="MARKETDATA_HOME"
    )
    polygon_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("POLYGON_API_KEY", "MASSIVE_API_KEY")
    )
    polygon_base_url: str = Field(default="https://api.massive.com", validation_alias="POLYGON_BASE_URL")
    polygon_requests_per_minute: int = Field(
        default=150, ge=1, le=6000, validation_alias="POLYGON_REQUESTS_PER_MINUTE"
    )
    dagster_postgres_url: SecretStr | None = Field(default=None, validation_alias="DAGSTER_POSTGRES_URL")
    start: date = Field(default=date(2020, 1, 1), validation_alias="MARKETDATA_START")
    initial_days: int = Field(default=365, ge=1, validation_alias="MARKETDATA_INITIAL_DAYS")
    initial_minute_days: int = Field(default=14, ge=1, validation_alias="MARKETDATA_INITIAL_MINUTE_DAYS")
    repair_runs: int = Field(default=2, ge=1, validation_alias="MARKETDATA_REPAIR_RUNS")
    repair_pause_minutes: int = Field(default=60, ge=1, validation_alias="MARKETDATA_REPAIR_PAUSE_MINUTES")
    webhook_url: SecretStr | None = Field(default=None, validation_alias="MARKETDATA_WEBHOOK_URL")
    retention: Annotated[dict[Timeframe, int] | None, NoDecode] = Field(
        default=None, validation_alias="MARKETDATA_RETENTION"
    )
    """The days that are kept, by timeframe; None when the variable is not set."""
    completeness_percent: float = Field(
        default=99.5, ge=0, le=100, validation_alias="MARKETDATA_COMPLETENESS_PERCENT"
    )
    api_keys: SecretStr | None = Field(default=None, validation_alias="MARKETDATA_API_KEYS")

    @field_validator("start")
    @classmethod
    def _require_within_history(cls, start: date) -> date:
        if not _FIRST_START <= start <= datetime.now(UTC).date():
            message = f"it must be a day from {_FIRST_START} to today, not {start}"
            raise ValueError(message)
        return start

    @field_validator("retention", mode="before")
    @classmethod
    def _parse_retention(cls, text: str | None) -> dict[Timeframe, int] | None:
        try:
            return None if text is None else parse_retention(text)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    @property
    def read_keys(self) -> tuple[str, ...]:
        """The keys that read from the HTTP API, beside those that `marketdata keys create` creates."""
        return _split_keys(self.api_keys)

    @field_validator("api_keys")
    @classmethod
    def _require_unguessable(cls, keys: SecretStr | None) -> SecretStr | None:
        for key in _split_keys(keys):
            if len(key) < _SHORTEST_KEY or not all("!" <= character <= "~" for character in key):
                message = f"each key must have {_SHORTEST_KEY} printable characters or more, and commas separate keys"
                raise ValueError(message)
        return keys

    @field_validator("home")
    @classmethod
    def _make_absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("polygon_api_key")
    @classmethod
    def _require_sendable(cls, key: SecretStr | None) -> SecretStr | None:
        """Return the key without the line end of a mounted secret; a header can hold only printable ASCII."""
        text = "" if key is None else key.get_secret_value().strip()
        if not all("!" <= character <= "~" for character in text):
            message = "it contains a character that a key cannot have"
            raise ValueError(message)
        return SecretStr(text) if text else None

    @field_validator("dagster_postgres_url")
    @classmethod
    def _require_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith("postgres"):
            message = "must be postgresql+psycopg2://USER:PASSWORD@HOST:PORT/DATABASE"
            raise ValueError(message)
        return url

    @field_validator("webhook_url")
    @classmethod
    def _require_postable(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit("" if url is None else url.get_secret_value().strip())
        if url is not None and (parts.scheme not in ("http", "https") or not parts.hostname):
            message = "must be https://HOST/PATH, or http:// within a network of your own"
            raise ValueError(message)
        return None if url is None else SecretStr(parts.geturl())

    @field_validator("polygon_base_url")
    @classmethod
    def _require_origin(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = "must be https://HOST, or http://HOST:PORT of this machine"
            raise ValueError(message)
        if parts.path.strip("/") or parts.query:
            message = "must end after the host: the paths are the vendor's"
            raise ValueError(message)
        if parts.scheme == "http" and not is_loopback(url):
            message = "must be https: the key would travel in clear text"
            raise ValueError(message)
        return url.rstrip("/")


def _split_keys(keys: SecretStr | None) -> tuple[str, ...]:
    text = "" if keys is None else keys.get_secret_value()
    return tuple(key.strip() for key in text.split(",") if key.strip())


def _describe_error(error: ErrorDetails) -> str:
    """Return what is wrong with a value, in this project's words: pydantic's own are about its types."""
    context = error.get("ctx", {})
    kind = error["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        return f"it must be {_BOUNDS[kind]} {next(iter(context.values()))}"
    expected = next(
        (words for part, words in _EXPECTED.items() if kind.startswith(part)), "another kind of value"
    )
    return f"it must be {expected}"


_BOUNDS: Final = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}
_EXPECTED: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "date": "a day such as 2024-01-31",
    "bool": "true or false",
    "path": "a folder",
    "string": "a text",
}
"""What a value must be, by the beginning of pydantic's name for the error."""


def load_settings() -> Settings:
    """Return the current settings. Raises :class:`ConfigurationError`, which names the variable that is wrong."""
    env_file = project_root() / ".env"
    try:
        return Settings(_env_file=env_file)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{env_file} cannot be read ({type(error).__name__}): it must be a file of NAME=value lines in UTF-8"
        raise ConfigurationError(message) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "a setting"
        message = f"{name} is wrong: {_describe_error(first)}; correct it in the environment or in .env"
        raise ConfigurationError(message) from None
