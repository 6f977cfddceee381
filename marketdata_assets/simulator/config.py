"""The configuration of a simulator: its keys, plan, clock, quirks and faults."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from marketdata_assets.domain.series import AssetClass
    from marketdata_assets.simulator.faults import Fault
    from marketdata_assets.simulator.instruments import Split


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """Options of one simulator. The defaults are a paid plan with no limit, no faults and any key.

    Attributes:
        seed: The seed of the market. The same seed, ticker and day give the same bars.
        replay: A folder of Parquet files to serve instead of a market (see ``replay``).
        api_keys: The accepted keys; None accepts any non-empty key.
        requests_per_minute: The number of requests of one key that are answered in any 60 seconds; None for no limit.
        retry_after: The seconds in the ``Retry-After`` of a limiter's 429; None sends none, as the vendor does.
        plan_history: The length of the plan's history; None for all. Earlier bars are cut off or refused.
        entitled: The asset classes that the plan includes; None for all.
        delayed: Status DELAYED, and nothing of the last 15 minutes, as on plans without real-time data.
        empty_results: Whether an answer without bars leaves ``results`` out or sends ``[]``.
        foreign_next_url: Whether ``next_url`` has the vendor's own host, which a client must not follow.
        next_url_keeps_adjusted: Whether ``next_url`` repeats ``adjusted=false``; the vendor drops it.
        tickers: Tickers that trade in a market's days besides the well-known ones and those that a request has named.
        unknown: Tickers that are not listed.
        listed: First days by ticker, where they should differ from the tables.
        delisted: Last days by ticker.
        splits: Splits besides the well-known ones.
        duplicate_splits: Whether every split is listed twice, as has been reported of the vendor.
        earnings: Whether the plan includes the add-on with earnings of stocks; without it they are refused.
        refused: HTTP statuses by path: 403 for a list that the plan lacks, 404 for one that no longer exists.
        latency: The seconds that every answer takes.
        faults: The faults, and when they occur.
        now: The market's clock, aware UTC. No bar opens later.
        monotonic: The limiter's clock, in seconds.
    """

    seed: int = 0
    replay: Path | None = None
    api_keys: frozenset[str] | None = field(default=None, repr=False)
    requests_per_minute: int | None = None
    retry_after: float | None = None
    plan_history: timedelta | None = None
    entitled: frozenset[AssetClass] | None = None
    delayed: bool = False
    empty_results: Literal["absent", "list"] = "absent"
    foreign_next_url: bool = False
    next_url_keeps_adjusted: bool = False
    tickers: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    listed: Mapping[str, date] = field(default_factory=dict)
    delisted: Mapping[str, date] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()
    duplicate_splits: bool = False
    earnings: bool = False
    refused: Mapping[str, int] = field(default_factory=dict)
    latency: float = 0.0
    faults: tuple[Fault, ...] = ()
    now: Callable[[], datetime] = _utc_now
    monotonic: Callable[[], float] = time.monotonic
