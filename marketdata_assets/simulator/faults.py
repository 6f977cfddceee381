"""The fault plan: the faults, their rates, their data and their duration.

Whether a request or a bar is hit depends on the seed, the fault and the request's own address and attempt, not on
other requests at the same time: a session with concurrent clients can be repeated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from marketdata_assets.domain.calendar import milliseconds
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.simulator.instruments import draw_fraction, hash_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.simulator.bars import Bars, Base


class FaultKind(StrEnum):
    """The kinds of faults. The comments describe what a client sees."""

    RATE_LIMIT = "rate_limit"  # 429, with `retry_after` or without, with a body or (`body=""`) without
    SERVER_ERROR = "server_error"  # `status` (default 500) with an HTML body, or `body`
    TIMEOUT = "timeout"  # no answer for `seconds` (default 60)
    RESET = "reset"  # the connection is aborted before a byte is sent
    TRUNCATED_JSON = "truncated_json"  # 200, and half of the page
    NON_JSON = "non_json"  # 200, and HTML
    NOT_AUTHORIZED = "not_authorized"  # `status` (default 200) with a NOT_AUTHORIZED body
    DUPLICATED_BARS = "duplicated_bars"  # `rate` of the bars are sent twice
    OUT_OF_ORDER_BARS = "out_of_order_bars"  # `rate` of the bars are sent after their successor
    INVALID_BARS = "invalid_bars"  # `rate` of the bars break a rule, see `Variant`
    LOST_HOURS = (
        "lost_hours"  # bars of `start`..`end` are missing until `returns_after` requests have missed them
    )
    HISTORY_CUT = "history_cut"  # nothing before `start`, silently


class Variant(StrEnum):
    """The ways in which an invalid bar is invalid."""

    HIGH_BELOW_LOW = "high_below_low"
    NEGATIVE_VOLUME = "negative_volume"
    ZERO_PRICE = "zero_price"
    NULL_PRICE = "null_price"
    ABSENT_FIELD = "absent_field"
    OFF_GRID = "off_grid"


BAR_FAULTS = (FaultKind.DUPLICATED_BARS, FaultKind.OUT_OF_ORDER_BARS, FaultKind.INVALID_BARS)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault.

    Attributes:
        kind: The kind of the fault.
        rate: The share of requests (for bars: of bars) that are hit, 0 to 1.
        ticker: Only requests for this ticker; None for all, reference endpoints included. In a market's day, only the
            bar of the ticker is hit: a fault that fails the ticker's requests leaves the bar out.
        start: Only requests whose window ends after this time (for bars: bars from this time on). Aware UTC.
        end: Only requests whose window begins before this time (for bars: bars before it). Aware UTC.
        skip: The number of matching requests that are spared first.
        count: The maximum number of requests that are hit; None for no maximum.
        active_from: Seconds after the simulator's start (or the plan's change) at which the fault begins.
        active_until: Seconds at which it ends; None for never.
        status: The HTTP status of server_error and not_authorized.
        retry_after: Seconds in the ``Retry-After`` of rate_limit; None sends none.
        body: The body in place of the kind's own; an empty text sends none.
        seconds: The seconds for which timeout hangs.
        variant: The way in which invalid bars are invalid; None for all ways in turn.
        returns_after: lost_hours only: the number of requests that miss the bars before they return; None for never.
    """

    kind: FaultKind
    rate: float = 1.0
    ticker: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    skip: int = 0
    count: int | None = None
    active_from: float = 0.0
    active_until: float | None = None
    status: int | None = None
    retry_after: float | None = None
    body: str | None = None
    seconds: float = 60.0
    variant: Variant | None = None
    returns_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            message = f"a fault's rate lies between 0 and 1, not {self.rate}"
            raise ValueError(message)
        if self.kind is FaultKind.LOST_HOURS and (self.start is None or self.end is None):
            message = "lost_hours needs start and end"
            raise ValueError(message)
        if self.start is not None and self.end is not None and self.end <= self.start:
            message = f"a fault's end {self.end:%Y-%m-%dT%H:%M:%SZ} lies before its start: swap them"
            raise ValueError(message)
        if self.kind is FaultKind.HISTORY_CUT and self.start is None:
            message = "history_cut needs start"
            raise ValueError(message)


class RequestedWindow(NamedTuple):
    """The window of a request for bars, half-open Unix ms, and the base bars that feed it."""

    start_ms: int
    end_ms: int
    base: Base
    is_market: bool = False
    """Whether the request is for every ticker of a market."""


def parse_fault(text: str) -> Fault:
    """Parse a fault, ``KIND[:name=value,...]``. Raises :class:`ConfigurationError` that describes an error in it.

    ``server_error:rate=0.1,status=503`` or
    ``lost_hours:ticker=SPY,start=2024-01-02T15:00:00Z,end=2024-01-02T16:00:00Z,returns_after=2``.
    """
    kind, _, rest = text.partition(":")
    options: dict[str, Any] = {"kind": kind}
    for part in filter(None, rest.split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            message = f"{part!r} in fault {text!r} is not name=value, as in server_error:rate=0.1,status=503"
            raise ConfigurationError(message)
        options[name] = value
    return fault_of(options)


def fault_of(options: dict[str, Any]) -> Fault:
    """Return the fault of a JSON object. Raises :class:`ConfigurationError` that describes an error in it."""
    unknown = options.keys() - Fault.__dataclass_fields__.keys()
    if unknown:
        message = f"a fault has no option {min(unknown)!r}: it has {', '.join(Fault.__dataclass_fields__)}"
        raise ConfigurationError(message)
    try:
        fault = msgspec.convert(options, Fault, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        message = f"fault {options.get('kind')!r} is wrong: {error}; kinds are {', '.join(FaultKind)}"
        raise ConfigurationError(message) from None
    return replace(fault, start=_make_aware(fault.start), end=_make_aware(fault.end))


def _fails_ticker(fault: Fault) -> bool:
    """Whether a fault fails requests for one ticker; in a market's day it only leaves the ticker out."""
    return fault.ticker is not None and fault.kind not in (
        *BAR_FAULTS,
        FaultKind.LOST_HOURS,
        FaultKind.HISTORY_CUT,
    )


def _spans_day(fault: Fault) -> bool:
    """Whether the hours of a fault can include a day bar, which opens at midnight."""
    return fault.start is not None and fault.end is not None and fault.end - fault.start >= timedelta(days=1)


def _make_aware(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class FaultPlan:
    """The faults of one simulator, and their effects so far."""

    def __init__(self, faults: Sequence[Fault], seed: int, started: float) -> None:
        self.faults = tuple(faults)
        self._seed = seed
        self._started = started
        self._seen: Counter[int] = Counter()
        self._hits: Counter[int] = Counter()
        self._attempts: Counter[str] = Counter()

    def hit_request(
        self, address: str, ticker: str | None, requested: RequestedWindow | None, now: float
    ) -> list[Fault]:
        """Return the faults that hit this request, and count them.

        Args:
            address: The path and query without the key; repeated requests of one address are its attempts.
            ticker: The requested ticker.
            requested: The requested window of bars; None for any other request.
            now: The time on the limiter's clock, in seconds.
        """
        attempt = self._attempts[address]
        self._attempts[address] += 1
        return [
            fault
            for position, fault in enumerate(self.faults)
            if self._matches(fault, ticker, requested, now - self._started)
            and self._draw(
                position,
                fault,
                address,
                attempt,
                is_counted=not (requested and requested.is_market and _fails_ticker(fault)),
            )
        ]

    def _draw(self, position: int, fault: Fault, address: str, attempt: int, *, is_counted: bool) -> bool:
        """Decide whether a matching fault hits a request, and count the request for ``skip`` and ``count`` if ``is_counted``."""
        per_request = fault.kind not in BAR_FAULTS
        if per_request and draw_fraction(self._seed, position, address, attempt) >= fault.rate:
            return False
        self._seen[position] += is_counted
        limit = fault.returns_after if fault.kind is FaultKind.LOST_HOURS else fault.count
        if self._seen[position] + (not is_counted) <= fault.skip or (
            limit is not None and self._hits[position] >= limit
        ):
            return False
        self._hits[position] += is_counted
        return True

    @staticmethod
    def _matches(fault: Fault, ticker: str | None, requested: RequestedWindow | None, elapsed: float) -> bool:
        is_market = requested is not None and requested.is_market
        if fault.ticker is not None and fault.ticker != ticker and not is_market:
            return False
        if elapsed < fault.active_from or (fault.active_until is not None and elapsed >= fault.active_until):
            return False
        if fault.kind is FaultKind.HISTORY_CUT:
            return requested is not None
        if (
            fault.kind is FaultKind.LOST_HOURS
            and requested
            and requested.base == "day"
            and not _spans_day(fault)
        ):
            return False
        if fault.start is not None and (requested is None or requested.end_ms <= milliseconds(fault.start)):
            return False
        return fault.end is None or (requested is not None and requested.start_ms < milliseconds(fault.end))

    def damage(self, faults: Sequence[Fault], bars: Bars, ticker: str) -> list[dict[str, Any]] | None:
        """Return ``bars`` as rows that ``faults`` have damaged; None when no fault damages bars."""
        wanted = [fault for fault in faults if fault.kind in BAR_FAULTS]
        if not wanted:
            return None
        rows: list[dict[str, Any]] = bars.frame().to_dicts()
        for fault in wanted:
            rows = self._damage(fault, rows, ticker)
        return rows

    def _damage(self, fault: Fault, rows: list[dict[str, Any]], ticker: str) -> list[dict[str, Any]]:
        low = milliseconds(fault.start) if fault.start else -(2**62)
        high = milliseconds(fault.end) if fault.end else 2**62
        damaged: list[dict[str, Any]] = []
        delayed: dict[str, Any] | None = None
        for row in rows:
            hit = (
                low <= row["t"] < high
                and draw_fraction(self._seed, fault.kind, ticker, row["t"]) < fault.rate
            )
            late, delayed = delayed, None
            if hit and fault.kind is FaultKind.OUT_OF_ORDER_BARS and late is None:
                delayed = row
            elif hit and fault.kind is FaultKind.INVALID_BARS:
                damaged.append(_invalidate(row, fault.variant or self._variant(ticker, row["t"])))
            else:
                damaged.append(row)
                if hit and fault.kind is FaultKind.DUPLICATED_BARS:
                    damaged.append(dict(row))
            if late is not None:
                damaged.append(late)
        if delayed is not None:
            damaged.append(delayed)
        return damaged

    def _variant(self, ticker: str, time: int) -> Variant:
        variants = list(Variant)
        return variants[hash_of(self._seed, "variant", ticker, time) % len(variants)]


def _invalidate(row: dict[str, Any], variant: Variant) -> dict[str, Any]:
    match variant:
        case Variant.HIGH_BELOW_LOW:
            return {**row, "h": round(row["l"] * 0.99, 4)}
        case Variant.NEGATIVE_VOLUME if "v" in row:
            return {**row, "v": -row["v"]}
        case Variant.ZERO_PRICE:
            return {**row, "l": 0}
        case Variant.NULL_PRICE:
            return {**row, "c": None}
        case Variant.OFF_GRID:
            return {**row, "t": row["t"] + 1234}
        case _:
            return {name: value for name, value in row.items() if name != "c"}
