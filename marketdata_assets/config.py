"""Typed settings, read from the environment and ``.env`` when asked for, never at import.

Every variable is optional. Secrets are :class:`pydantic.SecretStr`: they print as asterisks.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketdata_assets.domain.errors import ConfigurationError


def project_root() -> Path:
    """The folder that holds ``workspace.yaml``: the working folder or one above it, else the checkout's."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "workspace.yaml").is_file():
            return folder
    return Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Where the data lives and how the vendor is reached. The environment wins over ``.env``."""

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
        default=150, ge=1, validation_alias="POLYGON_REQUESTS_PER_MINUTE"
    )
    start: date = Field(default=date(2020, 1, 1), validation_alias="MARKETDATA_START")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("polygon_base_url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            message = "must start with http:// or https://"
            raise ValueError(message)
        return url.rstrip("/")


def load_settings() -> Settings:
    """The settings in force now. Raises :class:`ConfigurationError` naming the variable that is wrong."""
    try:
        return Settings(_env_file=project_root() / ".env")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "a setting"
        message = f"{name} is wrong: {first['msg']}; correct it in the environment or in .env"
        raise ConfigurationError(message) from None
