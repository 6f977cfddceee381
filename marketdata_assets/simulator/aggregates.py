"""Custom bars: the query of a request, and the page that answers it (docs/vendor.md, "Bars").

``limit`` counts base bars: minutes feed minute and hour timespans, days feed day, week and longer ones. If the
limit cuts the last bar in two, the bar is dropped and begins the next page.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import numpy as np

from marketdata_assets.domain.calendar import calendar_of, milliseconds
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.domain.windows import Window, difference
from marketdata_assets.simulator.answers import bad_request
from marketdata_assets.simulator.bars import (
    MINUTE_MS,
    Bars,
    Grid,
    day_number,
    midnight_ms,
    moment_of_ms,
    roll,
    scale_prices,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from zoneinfo import ZoneInfo

    from marketdata_assets.simulator.source import BarSource

DEFAULT_LIMIT, MAX_LIMIT = 5_000, 50_000
DELAY_MS = 15 * MINUTE_MS
_TIMESPANS = ("minute", "hour", "day", "week", "month", "quarter", "year")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class AggregatesQuery:
    """A parsed request for bars. ``start_ms`` and ``end_ms`` are half-open, extended to the grid, in Unix milliseconds."""

    ticker: str
    grid: Grid
    start_ms: int
    end_ms: int
    from_text: str
    to_text: str
    adjusted: bool
    ascending: bool
    limit: int


@dataclass(frozen=True, slots=True)
class Page:
    """One answer: its bars in ascending order, the number of base bars read, and the range of the next page."""

    bars: Bars
    base_bars: int
    next_range: tuple[str, str] | None


def read_query(
    path: Mapping[str, str], params: Mapping[str, str], asset_class: AssetClass | None
) -> AggregatesQuery:
    """Parse the query of a request's path and parameters. Raises a 400 refusal in the vendor's words."""
    timezone = calendar_of(asset_class or AssetClass.STOCK).timezone
    multiplier, timespan = path["multiplier"], path["timespan"]
    if not multiplier.isdecimal() or not 0 < int(multiplier) <= MAX_LIMIT:
        error = f"The parameter 'multiplier' is not a positive number: '{multiplier}'"
        raise bad_request(error)
    if timespan not in _TIMESPANS:
        error = f"The parameter 'timespan' is not one of {', '.join(_TIMESPANS)}: '{timespan}'"
        raise bad_request(error)
    grid = Grid(int(multiplier), timespan, timezone)
    first, _ = _edges("from", path["from"], timezone)
    to_start, last = _edges("to", path["to"], timezone)
    if to_start < first and last < first:
        error = "The parameter 'to' cannot be a time that occurs before 'from'"
        raise bad_request(error)
    paging = {**params, **decode_cursor(params["cursor"])} if "cursor" in params else params
    sort = paging.get("sort", "asc")
    limit = paging.get("limit", str(DEFAULT_LIMIT))
    if sort not in ("asc", "desc"):
        error = f"The parameter 'sort' is not asc or desc: '{sort}'"
        raise bad_request(error)
    if not limit.isdecimal() or int(limit) < 1:
        error = f"The parameter 'limit' is not a positive number: '{limit}'"
        raise bad_request(error)
    return AggregatesQuery(
        ticker=path["ticker"],
        grid=grid,
        start_ms=grid.start(first),
        end_ms=grid.end(last),
        from_text=path["from"],
        to_text=path["to"],
        adjusted=params.get("adjusted", "true").lower() != "false",
        ascending=sort == "asc",
        limit=min(int(limit), MAX_LIMIT),
    )


def read_page(
    source: BarSource, query: AggregatesQuery, *, now_ms: int, since_ms: int | None, lost: Sequence[Window]
) -> Page:
    """Read the page that answers ``query``.

    Args:
        source: The source of the base bars.
        query: The parsed request.
        now_ms: The latest open of a bar, in Unix milliseconds.
        since_ms: The earliest open of a bar, from which the plan has history. None for no bound.
        lost: Windows whose base bars the vendor has lost.
    """
    grid, limit = query.grid, query.limit
    start_ms = query.start_ms if since_ms is None else max(query.start_ms, since_ms)
    base = _read(source, query, start_ms, query.end_ms, limit + 1, now_ms=now_ms, lost=lost)
    if len(base) <= limit:
        return Page(_roll_up(source, query, base, now_ms), len(base), None)
    read = limit
    if query.ascending:
        starts = grid.starts(base.time)
        kept = base.take(starts < starts[-1] if starts[-1] == starts[-2] else slice(limit))
        if not len(kept):
            # One bar is longer than the limit: it is sent completely, since paging without it would never end.
            kept = _read(
                source, query, start_ms, grid.end(int(starts[0])), MAX_LIMIT, now_ms=now_ms, lost=lost
            )
            read = len(kept)
        next_range = (str(grid.end(int(kept.time[-1]))), query.to_text)
    else:
        starts = grid.starts(base.time)
        kept = base.take(starts > starts[0] if starts[0] == starts[1] else slice(1, None))
        if not len(kept):
            kept = _read(source, query, int(starts[0]), query.end_ms, MAX_LIMIT, now_ms=now_ms, lost=lost)
            read = len(kept)
        next_range = (query.from_text, str(grid.start(int(kept.time[0])) - 1))
    return Page(_roll_up(source, query, kept, now_ms), read, next_range)


def cursor_of(query: AggregatesQuery) -> str:
    """Return the opaque cursor of ``next_url``: with limit and sort, and as recorded without ``adjusted``."""
    return encode_cursor({"limit": str(query.limit), "sort": "asc" if query.ascending else "desc"})


def encode_cursor(state: Mapping[str, str]) -> str:
    """Encode ``state`` as URL-safe base64 of a query string, without padding."""
    return base64.urlsafe_b64encode(urlencode(state).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> dict[str, str]:
    """Decode a cursor of :func:`encode_cursor`. Raises a 400 refusal for any other text."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        error = "The parameter 'cursor' is invalid"
        raise bad_request(error) from None
    return dict(parse_qsl(text, keep_blank_values=True))


def _edges(name: str, text: str, timezone: ZoneInfo) -> tuple[int, int]:
    """Return the first and last millisecond of ``text``, the value of ``from`` or ``to``."""
    try:
        if text.isdecimal():
            moment_of_ms(int(text))
            return int(text), int(text)
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text)
            number = day_number(day)
            day_number(day + timedelta(days=1))
            return midnight_ms(number, timezone), midnight_ms(number + 1, timezone) - 1
    except (ValueError, OverflowError):
        pass
    error = f"Could not parse the time parameter: '{name}'. Use YYYY-MM-DD or Unix MS Timestamps"
    raise bad_request(error)


def _read(
    source: BarSource,
    query: AggregatesQuery,
    start_ms: int,
    end_ms: int,
    max_bars: int,
    *,
    now_ms: int,
    lost: Sequence[Window],
) -> Bars:
    if start_ms >= end_ms:
        return Bars.empty()
    windows = difference([Window(moment_of_ms(start_ms), moment_of_ms(end_ms))], lost)
    parts: list[Bars] = []
    wanted = max_bars
    for window in windows if query.ascending else reversed(windows):
        part = source.base_bars(
            query.ticker,
            query.grid.base,
            milliseconds(window.start),
            milliseconds(window.end),
            wanted,
            newest_first=not query.ascending,
            now_ms=now_ms,
        )
        parts.append(part)
        wanted -= len(part)
        if not wanted:
            break
    return Bars.concatenate(parts if query.ascending else parts[::-1])


def _roll_up(source: BarSource, query: AggregatesQuery, base: Bars, now_ms: int) -> Bars:
    grid = query.grid
    if query.adjusted:
        base = adjust_bars(source, query.ticker, base, now_ms, grid.timezone)
    is_base = grid.multiplier == 1 and grid.timespan in ("minute", "day")
    return base if is_base else roll(base, grid.starts(base.time))


def adjust_bars(source: BarSource, ticker: str, bars: Bars, now_ms: int, timezone: ZoneInfo) -> Bars:
    """Adjust ``bars`` for splits as of now: a bar before the execution date is restated in the new shares."""
    effective = [
        (midnight_ms(day_number(split.execution_date), timezone), split.split_from / split.split_to)
        for split in source.splits()
        if split.ticker == ticker
    ]
    factor = np.ones(len(bars))
    for start, ratio in effective:
        if start <= now_ms:
            factor[bars.time < start] *= ratio
    return bars if bool((factor == 1).all()) else scale_prices(bars, factor)
