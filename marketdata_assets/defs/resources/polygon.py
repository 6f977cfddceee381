"""The vendor as a Dagster resource.

Settings that are left out come from the environment when the resource is used. The API key comes only from
there: it is not a field of the resource, so that no page of the UI and no run configuration can show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from dagster import ConfigurableResource
from pydantic import Field, SecretStr

from marketdata_assets.config import is_simulator, load_settings
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.polygon import vendor
from marketdata_assets.polygon.client import RetryPolicy, Timeouts
from marketdata_assets.polygon.vendor import FetchPlan

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from datetime import date, datetime

    import polars as pl

    from marketdata_assets.domain.actions import ActionKind
    from marketdata_assets.domain.series import AssetClass, Instrument
    from marketdata_assets.domain.timeframe import Timeframe
    from marketdata_assets.polygon.vendor import BarRequest, FetchEvent, ListedActions


class PolygonResource(ConfigurableResource[None]):
    """Bars and corporate actions from Polygon.io (Massive), under the rate limit that every process with the same key shares."""

    base_url: str | None = Field(default=None, description="Scheme and host. Default: POLYGON_BASE_URL.")
    requests_per_minute: int | None = Field(
        default=None,
        ge=0,
        description="Default: POLYGON_REQUESTS_PER_MINUTE. 0 means no limit, for a plan that has none.",
    )
    concurrency: int = Field(default=8, ge=1, le=64, description="Concurrent requests.")
    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    read_timeout_seconds: float = Field(
        default=30.0, gt=0, description="The longest pause within a response."
    )
    total_timeout_seconds: float = Field(
        default=120.0, gt=0, description="The longest time for a whole response."
    )
    max_attempts: int = Field(default=6, ge=1, description="Attempts for one page, the first included.")
    retry_budget_seconds: float = Field(
        default=300.0,
        gt=0,
        description="No new attempt for a page after this long, not counting waits for the rate limit.",
    )
    retry_first_wait_seconds: float = Field(
        default=0.5, ge=0, description="Upper bound of the first random wait; it doubles with each attempt."
    )

    @property
    def is_simulated(self) -> bool:
        """Whether the vendor is on this machine, which only a simulator is. Raises :class:`ConfigurationError`."""
        return is_simulator(self.base_url or load_settings().polygon_base_url)

    def ready(self) -> Self:
        """Return this resource. Raises :class:`ConfigurationError` if the key is not set."""
        if load_settings().polygon_api_key is None:
            raise _no_key()
        return self

    def stream(
        self, requests: Sequence[BarRequest], *, database_url: str | None = None
    ) -> Generator[FetchEvent]:
        """Fetch ``requests``, up to ``concurrency`` at once; the pages of one request come in order.

        Only a few pages are in memory, however long the caller takes. Closing the generator stops all requests.

        Args:
            requests: The requests, which are started in this order.
            database_url: The database of the shared rate limit; default DATABASE_URL.

        Raises:
            ConfigurationError: At once, when the key or the database is not set.
            AuthenticationError: When the vendor refuses the key; all other requests are dropped.
            RateLimiterUnavailableError: When the database cannot be reached.
        """
        return vendor.stream(self._plan(database_url), requests)

    def fetch_range(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: date | datetime,
        end: date | datetime,
        *,
        asset_class: AssetClass | None = None,
        database_url: str | None = None,
    ) -> pl.DataFrame:
        """Fetch the vendor's own bars of any timeframe, as ``VENDOR_SCHEMA``, sorted, one row per time (UTC).

        Args:
            symbol: The symbol, as this project writes it.
            timeframe: Any of the eight; the vendor's 4-hour and weekly bars keep the vendor's own anchors.
            start: The first local date, or an aware datetime: the earliest open, inclusive.
            end: The last local date, inclusive, or an aware datetime, exclusive.
            asset_class: Default: crypto for BASE-QUOTE, else stock.
            database_url: The database of the shared rate limit; default DATABASE_URL.

        Raises:
            ConfigurationError: When an argument or a setting is wrong.
            PolygonError: A request failed; the subclass says how.
        """
        return vendor.fetch_range(
            self._plan(database_url), symbol, timeframe, start, end, asset_class=asset_class
        )

    def actions(
        self, kind: ActionKind, symbols: Sequence[str], *, database_url: str | None = None
    ) -> ListedActions:
        """List everything of ``kind`` that the vendor has for ``symbols``, stocks and ETFs.

        The request goes to the former endpoint when the vendor does not know the current one, or the plan does not
        include it; other failures are raised.

        Args:
            kind: Splits, dividends or earnings.
            symbols: The symbols; without symbols, no request is made.
            database_url: The database of the shared rate limit; default DATABASE_URL.

        Raises:
            ConfigurationError: When the key or the database is not set.
            EntitlementError: The plan does not include an endpoint for this kind.
            EndpointNotFoundError: The vendor does not have an endpoint for this kind.
            PolygonError: A request failed for another reason; the subclass says which.
            RateLimiterUnavailableError: When the database cannot be reached.
        """
        return vendor.list_actions(self._plan(database_url), kind, symbols)

    def unlisted(
        self, instruments: Sequence[Instrument], *, database_url: str | None = None
    ) -> frozenset[Instrument]:
        """Find the ``instruments`` that the vendor's directory has neither as active nor as delisted.

        An instrument counts as listed when the directory cannot be read: the plan may not include it.

        Args:
            instruments: The instruments; each takes one or two requests.
            database_url: The database of the shared rate limit; default DATABASE_URL.

        Raises:
            ConfigurationError: When the key or the database is not set.
            AuthenticationError: When the vendor refuses the key.
            RateLimiterUnavailableError: When the database cannot be reached.
        """
        return vendor.unlisted(self._plan(database_url), instruments)

    def _plan(self, database_url: str | None) -> FetchPlan:
        settings = load_settings()
        if settings.polygon_api_key is None:
            raise _no_key()
        limit = self.requests_per_minute
        limit = settings.polygon_requests_per_minute if limit is None else limit
        if database_url is None and settings.database_url is not None:
            database_url = settings.database_url.get_secret_value()
        if limit and database_url is None:
            message = "the rate limit is kept in Postgres, and no database is given: set DATABASE_URL or pass database_url"
            raise ConfigurationError(message)
        return FetchPlan(
            base_url=self.base_url or settings.polygon_base_url,
            api_key=settings.polygon_api_key,
            requests_per_minute=limit,
            database_url=None if database_url is None else SecretStr(database_url),
            concurrency=self.concurrency,
            timeouts=Timeouts(
                self.connect_timeout_seconds, self.read_timeout_seconds, self.total_timeout_seconds
            ),
            retry=RetryPolicy(
                attempts=self.max_attempts,
                budget_seconds=self.retry_budget_seconds,
                first_wait_seconds=self.retry_first_wait_seconds,
            ),
        )


def _no_key() -> ConfigurationError:
    return ConfigurationError(
        "no API key: set POLYGON_API_KEY in the environment or in .env, "
        "or run `marketdata demo`, which needs none"
    )
