"""The fault plan: what goes wrong, how often, with which data and for how long.

Whether a request or a bar is hit depends on the seed, the fault and the request's own address and attempt,
never on what other requests did meanwhile: a run with concurrent clients can be repeated.
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
    """What can go wrong. The comment says what a client sees."""

    RATE_LIMIT = "rate_limit"  # 429, with `retry_after` or without, with a body or (`body=""`) without
    SERVER_ERROR = "server_error"  # `status` (default 500) with an HTML body, or `body`
    TIMEOUT = "timeout"  # no answer for `seconds` (default 60)
    RESET = "reset"  # the connection is aborted before a byte is sent
    TRUNCATED_JSON = "truncated_json"  # 200, and half of the page
    NON_JSON = "non_json"  # 200, and HTML
    NOT_AUTHORIZED = "not_authorized"  # `status` (default 200) with a NOT_AUTHORIZED body
    DUPLICATED_BARS = "duplicated_bars"  # `rate` of the bars come twice
    OUT_OF_ORDER_BARS = "out_of_order_bars"  # `rate` of the bars come after their successor
    INVALID_BARS = "invalid_bars"  # `rate` of the bars break a rule, see `Variant`
    LOST_HOURS = (
        "lost_hours"  # bars of `start`..`end` are missing until `returns_after` requests asked for them
    )
    HISTORY_CUT = "history_cut"  # nothing before `start`, silently


class Variant(StrEnum):
    """How an invalid bar is invalid."""

    HIGH_BELOW_LOW = "high_below_low"
    NEGATIVE_VOLUME = "negative_volume"
    ZERO_PRICE = "zero_price"
    NULL_PRICE = "null_price"
    ABSENT_FIELD = "absent_field"
    OFF_GRID = "off_grid"


BAR_FAULTS = (FaultKind.DUPLICATED_BARS, FaultKind.OUT_OF_ORDER_BARS, FaultKind.INVALID_BARS)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: What happens.
        rate: The share of requests (for bars: of bars) that are hit, 0 to 1.
        ticker: Only requests for this ticker; None for all, reference endpoints included. In a market's day, only the
            bar of the ticker is hit: what fails its requests leaves it out.
        start: Only requests whose window reaches past this moment (for bars: bars from here on). Aware UTC.
        end: Only requests whose window begins before this moment (for bars: bars before it). Aware UTC.
        skip: How many matching requests are spared first.
        count: How many requests may be hit in all; None for no end.
        active_from: Seconds after the simulator's start (or the plan's change) at which the fault begins.
        active_until: Seconds at which it ends; None for never.
        status: The HTTP status of server_error and not_authorized.
        retry_after: Seconds in the ``Retry-After`` of rate_limit; None sends none.
        body: The body in place of the kind's own; an empty text sends none.
        seconds: How long timeout hangs.
        variant: How invalid bars are invalid; None for all ways in turn.
        returns_after: lost_hours only: how many requests miss the bars before they come back; None for never.
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
    """Whether it asks for every ticker of a market."""


def parse_fault(text: str) -> Fault:
    """The fault of ``KIND[:name=value,...]``; raises :class:`ConfigurationError` that names what is wrong.

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
    """The fault of a JSON object; raises :class:`ConfigurationError` that names what is wrong."""
    unknown = options.keys() - Fault.__dataclass_fields__.keys()
    if unknown:
        message = f"a fault has no option {min(unknown)!r}: it has {', '.join(Fault.__dataclass_fields__)}"
        raise ConfigurationError(message)
    try:
        fault = msgspec.convert(options, Fault, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        message = f"fault {options.get('kind')!r} is wrong: {error}; kinds are {', '.join(FaultKind)}"
        raise ConfigurationError(message) from None
    return replace(fault, start=_aware(fault.start), end=_aware(fault.end))


def _fails_ticker(fault: Fault) -> bool:
    """Whether a fault fails requests for one ticker; in a market's day it only leaves the ticker out."""
    return fault.ticker is not None and fault.kind not in (
        *BAR_FAULTS,
        FaultKind.LOST_HOURS,
        FaultKind.HISTORY_CUT,
    )


def _spans_day(fault: Fault) -> bool:
    """Whether a day bar can be lost with the hours: it opens at midnight."""
    return fault.start is not None and fault.end is not None and fault.end - fault.start >= timedelta(days=1)


def _aware(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class FaultPlan:
    """The faults of one simulator and what they have done so far."""

    def __init__(self, faults: Sequence[Fault], seed: int, started: float) -> None:
        self.faults = tuple(faults)
        self._seed = seed
        self._started = started
        self._seen: Counter[int] = Counter()
        self._hits: Counter[int] = Counter()
        self._attempts: Counter[str] = Counter()

    def due(self, address: str, ticker: str | None, asked: RequestedWindow | None, now: float) -> list[Fault]:
        """The faults that hit this request.

        Args:
            address: Path and query without the key; repeated requests for one address are its attempts.
            ticker: The ticker that is asked for.
            asked: The bars that are asked for; None for any other request.
            now: The limiter's clock.
        """
        attempt = self._attempts[address]
        self._attempts[address] += 1
        return [
            fault
            for position, fault in enumerate(self.faults)
            if self._matches(fault, ticker, asked, now - self._started)
            and self._draw(
                position,
                fault,
                address,
                attempt,
                is_counted=not (asked and asked.is_market and _fails_ticker(fault)),
            )
        ]

    def _draw(self, position: int, fault: Fault, address: str, attempt: int, *, is_counted: bool) -> bool:
        """Whether a matching fault hits a request, which ``skip`` and ``count`` count unless it is not one for the ticker."""
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
    def _matches(fault: Fault, ticker: str | None, asked: RequestedWindow | None, elapsed: float) -> bool:
        is_market = asked is not None and asked.is_market
        if fault.ticker is not None and fault.ticker != ticker and not is_market:
            return False
        if elapsed < fault.active_from or (fault.active_until is not None and elapsed >= fault.active_until):
            return False
        if fault.kind is FaultKind.HISTORY_CUT:
            return asked is not None
        if fault.kind is FaultKind.LOST_HOURS and asked and asked.base == "day" and not _spans_day(fault):
            return False
        if fault.start is not None and (asked is None or asked.end_ms <= milliseconds(fault.start)):
            return False
        return fault.end is None or (asked is not None and asked.start_ms < milliseconds(fault.end))

    def spoil(self, faults: Sequence[Fault], bars: Bars, ticker: str) -> list[dict[str, Any]] | None:
        """``bars`` as rows, damaged as ``faults`` say; None when no fault damages bars."""
        wanted = [fault for fault in faults if fault.kind in BAR_FAULTS]
        if not wanted:
            return None
        rows: list[dict[str, Any]] = bars.frame().to_dicts()
        for fault in wanted:
            rows = self._spoil(fault, rows, ticker)
        return rows

    def _spoil(self, fault: Fault, rows: list[dict[str, Any]], ticker: str) -> list[dict[str, Any]]:
        low = milliseconds(fault.start) if fault.start else -(2**62)
        high = milliseconds(fault.end) if fault.end else 2**62
        spoilt: list[dict[str, Any]] = []
        held: dict[str, Any] | None = None
        for row in rows:
            hit = (
                low <= row["t"] < high
                and draw_fraction(self._seed, fault.kind, ticker, row["t"]) < fault.rate
            )
            late, held = held, None
            if hit and fault.kind is FaultKind.OUT_OF_ORDER_BARS and late is None:
                held = row
            elif hit and fault.kind is FaultKind.INVALID_BARS:
                spoilt.append(_invalid(row, fault.variant or self._variant(ticker, row["t"])))
            else:
                spoilt.append(row)
                if hit and fault.kind is FaultKind.DUPLICATED_BARS:
                    spoilt.append(dict(row))
            if late is not None:
                spoilt.append(late)
        if held is not None:
            spoilt.append(held)
        return spoilt

    def _variant(self, ticker: str, time: int) -> Variant:
        variants = list(Variant)
        return variants[hash_of(self._seed, "variant", ticker, time) % len(variants)]


def _invalid(row: dict[str, Any], variant: Variant) -> dict[str, Any]:
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
