"""The simulated market: prices that depend on seed, ticker and day only.

A ticker's daily path is drawn once for all its days (a few milliseconds): volatility clusters (AR(1) in its
logarithm), returns have fat tails and share a market factor, equities jump overnight, and the whole path is
shifted so that it passes through the ticker's base price on 2024-01-02. Minutes of a day are drawn from that
day's own generator and bridge its open and close, so that any window gives the same bars. A day bar has
separate official prices and off-exchange volume: its minutes never add up to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from marketdata_assets.domain.calendar import TradingCalendar, calendar_of, milliseconds
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator.bars import (
    MINUTE_MS,
    Bars,
    Base,
    Floats,
    Integers,
    day_number,
    day_of,
    decimals,
    local_day_number,
    midnight_ms,
    roll,
)
from marketdata_assets.simulator.instruments import (
    ETFS,
    SPLITS,
    Dividend,
    Instrument,
    Liquidity,
    Split,
    hash_of,
    instrument_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketdata_assets.simulator.config import SimulatorConfig

_FIRST, _LAST = date(2000, 1, 1), date(2040, 12, 31)
_ANCHOR = date(2024, 1, 2)
_PERSISTENCE, _VOL_OF_VOL = 0.98, 0.09
_PULL = 0.0008  # the strength with which a path is pulled back to its trend, per day
_MARKET_WEIGHT = 0.55
_NEWS_SHARE = 0.015  # of overnight moves, which are then four times as large
_OVERNIGHT_SHARE = 0.35  # of the day's standard deviation
_LIT_SHARE = 0.87  # of a day's volume that its minutes contain; the rest is auctions and off-exchange trades
_FRACTIONAL_SHARES = date(2026, 1, 1)
_CACHED_DAYS = 512  # at most 50 MB
_CACHED_TICKERS = 256

_PRE, _EXTENDED, _AFTER_LUNCH_CLOSE = 330, 960, 17 * 60 - 4 * 60  # minutes from 04:00 ET
_KERNEL = 0.94 ** np.arange(48)


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """One ticker's days. Prices are raw and printed, in the shares of each date."""

    number: Integers
    time: Integers
    previous: Floats
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    sigma: Floats
    volume: Floats


class Market:
    """The synthetic bar source. Pure: it caches only values that can be drawn again."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._path = lru_cache(_CACHED_TICKERS)(self._draw_path)
        self._minutes = lru_cache(_CACHED_DAYS)(self._draw_minutes)

    def asset_class(self, ticker: str) -> AssetClass | None:
        """Return the asset class of the ticker; None when it is not listed."""
        instrument = self._instrument(ticker)
        return instrument.asset_class if instrument else None

    def tickers(self) -> Sequence[str]:
        """Return the tickers that have splits, and the ETFs, in order."""
        return sorted({split.ticker for split in SPLITS} | {etf for etf in ETFS if self._instrument(etf)})

    def splits(self) -> Sequence[Split]:
        """Return all splits, future ones included, as the vendor lists announced splits."""
        return [split for split in (*SPLITS, *self._config.splits) if self._instrument(split.ticker)]

    def dividends(self, ticker: str | None) -> Sequence[Dividend]:
        """Return the quarterly dividends of ``ticker``, or of every listed ticker for None, up to today."""
        names = self.tickers() if ticker is None else [ticker]
        return [dividend for name in names for dividend in self._dividends(name)]

    def base_bars(
        self,
        ticker: str,
        base: Base,
        start_ms: int,
        end_ms: int,
        max_bars: int,
        *,
        newest_first: bool,
        now_ms: int,
    ) -> Bars:
        """Return at most ``max_bars`` bars that open in ``[start_ms, end_ms)``, the oldest or newest of them.

        The bar that is still open at ``now_ms`` is included, made of the trades so far.
        """
        instrument = self._instrument(ticker)
        if instrument is None:
            return Bars.empty()
        path = self._path(ticker)
        timezone = calendar_of(instrument.asset_class).timezone
        end_ms = min(end_ms, now_ms + 1)
        first = local_day_number(start_ms, timezone)
        last = local_day_number(max(start_ms, end_ms - 1), timezone)
        low = int(np.searchsorted(path.number, first))
        high = int(np.searchsorted(path.number, last, side="right"))
        if base == "day":
            bars = self._days(instrument, path, low, high, now_ms).between(start_ms, end_ms)
            return bars.take(slice(max(0, len(bars) - max_bars), None) if newest_first else slice(max_bars))
        parts: list[Bars] = []
        found = 0
        for position in range(high - 1, low - 1, -1) if newest_first else range(low, high):
            part = _until(self._minutes(ticker, position), now_ms).between(start_ms, end_ms)
            parts.append(part)
            found += len(part)
            if found >= max_bars:
                break
        bars = Bars.concatenate(parts[::-1] if newest_first else parts)
        return bars.take(slice(max(0, len(bars) - max_bars), None) if newest_first else slice(max_bars))

    def _instrument(self, ticker: str) -> Instrument | None:
        return None if ticker in self._config.unknown else _instrument_of(ticker)

    def _dividends(self, ticker: str) -> list[Dividend]:
        instrument = self._instrument(ticker)
        if instrument is None or not instrument.dividend_yield:
            return []
        path = self._path(ticker)
        today = self._config.now().date()
        dividends = []
        for year in range(max(2010, instrument.since.year + 1), today.year + 1):
            for month in (2, 5, 8, 11):
                wanted = date(year, month, 6 + hash_of("ex", ticker, year, month) % 15)
                position = int(np.searchsorted(path.number, day_number(wanted)))
                if wanted > today or position >= len(path.number):
                    continue
                amount = round(float(path.previous[position]) * instrument.dividend_yield / 4, 4)
                dividends.append(Dividend(ticker, day_of(int(path.number[position])), amount))
        return dividends

    def _generator(self, *parts: object) -> np.random.Generator:
        return np.random.default_rng(hash_of(self._config.seed, *parts))

    def _draw_path(self, ticker: str) -> _Path:
        instrument = self._instrument(ticker)
        if instrument is None:
            raise LookupError(ticker)
        crypto = instrument.asset_class is AssetClass.CRYPTO
        calendar = calendar_of(instrument.asset_class)
        number, opens = _days_of(calendar)
        count = len(number)
        market = self._generator("market", "crypto" if crypto else "equity").standard_t(5, count)
        rng = self._generator(ticker, "path")
        shock = _MARKET_WEIGHT * market + math.sqrt(1 - _MARKET_WEIGHT**2) * rng.standard_t(5, count)
        shock *= math.sqrt(3 / 5)
        log_vol = _autoregressive(rng.standard_normal(count) * _VOL_OF_VOL, _PERSISTENCE)
        daily = instrument.volatility / math.sqrt(365 if crypto else 252)
        sigma = daily * np.exp(np.clip(log_vol, -1.2, 1.5))
        overnight = np.zeros(count)
        if not crypto:
            jump = np.where(rng.random(count) < _NEWS_SHARE, 4.0, 1.0) * _OVERNIGHT_SHARE
            overnight = jump * sigma * np.clip(rng.standard_normal(count), -4, 4)
        intraday = sigma * np.clip(shock, -6, 6) * (1 if crypto else math.sqrt(1 - _OVERNIGHT_SHARE**2))
        pull = 0.02 if ticker == "I:VIX" else _PULL
        level = _autoregressive(overnight + intraday, 1 - pull)
        trend = np.arange(count) * (0.0 if ticker == "I:VIX" else 0.06 / 252)
        log_close = level + trend
        anchor = int(np.searchsorted(number, day_number(_ANCHOR)))
        log_close += math.log(instrument.price) - log_close[anchor]
        shares = self._shares(ticker, number)
        close = np.exp(log_close) * shares
        open_ = np.exp(log_close - intraday) * shares
        # The extremes of a Brownian bridge of this variance between open and close, in closed form.
        spread = np.sqrt(intraday**2 - 2 * sigma**2 * np.log(rng.random((2, count)) * 0.98 + 0.01))
        high = open_ * np.exp((intraday + spread[0]) / 2)
        low = open_ * np.exp((intraday - spread[1]) / 2)
        volume = instrument.volume * np.exp(
            0.3 * rng.standard_normal(count) + 0.5 * log_vol + 0.25 * np.clip(np.abs(shock), 0, 3) - 0.2
        )
        volume /= shares
        volume *= np.where(_is_short(opens), 0.45, 1.0)
        digits = instrument.tick_decimals
        open_, high, low, close = (_round_to_tick(prices, digits) for prices in (open_, high, low, close))
        high = np.maximum(high, np.maximum(open_, close))
        low = np.minimum(low, np.minimum(open_, close))
        # yesterday's close in today's shares
        previous = np.concatenate((open_[:1], close[:-1] * shares[1:] / shares[:-1]))
        time = np.array([midnight_ms(int(day), calendar.timezone) for day in number], dtype=np.int64)
        since = day_number(self._config.listed.get(ticker, instrument.since))
        until = day_number(self._config.delisted.get(ticker, _LAST))
        kept = slice(int(np.searchsorted(number, since)), int(np.searchsorted(number, until, side="right")))
        columns: tuple[Any, ...] = (number, time, previous, open_, high, low, close, sigma, volume)
        return _Path(*(column[kept] for column in columns))

    def _shares(self, ticker: str, number: Integers) -> Floats:
        """Return the number of today's shares that a share of each day became."""
        shares = np.ones(len(number))
        for split in self.splits():
            if split.ticker == ticker:
                shares[number < day_number(split.execution_date)] *= split.split_to / split.split_from
        return shares

    def _days(self, instrument: Instrument, path: _Path, low: int, high: int, now_ms: int) -> Bars:
        index = instrument.asset_class is AssetClass.INDEX
        rows = slice(low, high)
        volume = path.volume[rows]
        weight = (path.number[rows] * 2_654_435_761 % 997) / 997
        mean = (path.open[rows] + path.close[rows] + (path.high[rows] + path.low[rows]) * (0.5 + weight)) / (
            3 + 2 * weight
        )
        bars = Bars(
            time=path.time[rows],
            open=path.open[rows],
            high=path.high[rows],
            low=path.low[rows],
            close=path.close[rows],
            volume=None if index else _quantities(volume, instrument, path.number[rows]),
            vwap=None if index else np.round(mean, max(4, instrument.tick_decimals)),
            transactions=None
            if index
            else np.maximum(1, volume * _trades_per_unit(instrument)).astype(np.int64),
        )
        if len(bars) and now_ms < _closes_at(instrument, int(path.number[high - 1])):
            today = _until(self._minutes(instrument.ticker, high - 1), now_ms)
            traded = roll(today, np.full(len(today), bars.time[-1], dtype=np.int64))
            bars = Bars.concatenate([bars.take(slice(len(bars) - 1)), traded])
        return bars

    def _draw_minutes(self, ticker: str, position: int) -> Bars:
        instrument = self._instrument(ticker)
        if instrument is None:
            raise LookupError(ticker)
        path = self._path(ticker)
        number = int(path.number[position])
        rng = self._generator(ticker, number, "minutes")
        if instrument.asset_class is AssetClass.CRYPTO:
            return _crypto_minutes(instrument, path, position, rng)
        return _equity_minutes(instrument, path, position, rng)


@lru_cache(maxsize=4096)
def _instrument_of(ticker: str) -> Instrument | None:
    return instrument_of(ticker)


def _crypto_minutes(instrument: Instrument, path: _Path, position: int, rng: np.random.Generator) -> Bars:
    count = 1440
    clock = np.arange(count)
    activity = 1 + 0.5 * np.exp(
        -(((clock - 870) / 240) ** 2)
    )  # the hours in which America and Europe overlap
    wander = np.convolve(rng.standard_normal(count), _KERNEL)[:count] * 0.34
    sigma = activity * np.exp(0.35 * wander)
    logs = _bridge(path, position, sigma, rng)
    times = int(path.time[position]) + clock * MINUTE_MS
    chance = {Liquidity.LIQUID: 0.998, Liquidity.ACTIVE: 0.85, Liquidity.THIN: 0.2}[instrument.liquidity]
    traded = rng.random(count) < chance
    weight = activity * np.exp(0.9 * rng.standard_normal(count) + 0.5 * wander)
    scale = path.sigma[position] * sigma / np.sqrt((sigma**2).sum())
    return _bars(
        instrument, path, position, rng, times=times, logs=logs, scale=scale, traded=traded, weight=weight
    )


def _equity_minutes(instrument: Instrument, path: _Path, position: int, rng: np.random.Generator) -> Bars:
    number = int(path.number[position])
    session = calendar_of(instrument.asset_class).session(day_of(number))
    if session is None:
        return Bars.empty()
    length = int(session.regular.duration / timedelta(minutes=1))
    after = _EXTENDED - _PRE - length
    clock = np.arange(length)
    edge = np.minimum(clock, length - 1 - clock) / length
    smile = 1 + 2.2 * np.exp(-clock / 18) + 0.9 * np.exp(-(length - 1 - clock) / 22)
    wander = np.convolve(rng.standard_normal(length), _KERNEL)[:length] * 0.34
    sigma = smile**0.6 * np.exp(0.35 * wander)
    regular = _bridge(path, position, sigma, rng)
    scale = path.sigma[position] * sigma / np.sqrt((sigma**2).sum())
    start = milliseconds(session.extended.start)
    weight = smile**1.6 * np.exp(0.45 * rng.standard_normal(length) + 0.45 * wander)
    chance = _regular_chance(instrument, number, edge)
    traded = rng.random(length) < chance
    traded[[0, -1]] = True
    if instrument.asset_class is AssetClass.INDEX:
        times = milliseconds(session.regular.start) + clock * MINUTE_MS
        return _bars(
            instrument,
            path,
            position,
            rng,
            times=times,
            logs=regular,
            scale=scale,
            traded=traded,
            weight=weight,
        )
    quiet = float(scale.mean()) * 0.5
    before, later = _extended_paths(path, position, after, quiet, rng)
    logs = (
        np.concatenate((before[:-1], regular[0], later[:-1])),
        np.concatenate((before[1:], regular[1], later[1:])),
    )
    evening = np.arange(after)
    shape = {Liquidity.LIQUID: (0.95, 0.97), Liquidity.ACTIVE: (0.18, 0.12), Liquidity.THIN: (0.006, 0.004)}
    morning_peak, evening_peak = shape[instrument.liquidity]
    chance_before = morning_peak * (0.35 + 0.65 * np.arange(_PRE) / _PRE)
    chance_later = evening_peak * np.exp(-evening / 400)
    chance_later[np.arange(_PRE + length, _EXTENDED) >= _AFTER_LUNCH_CLOSE] *= length == 390  # noqa: PLR2004
    return _bars(
        instrument,
        path,
        position,
        rng,
        times=start + np.arange(_EXTENDED) * MINUTE_MS,
        logs=logs,
        scale=np.concatenate((np.full(_PRE, quiet), scale, np.full(after, quiet))),
        traded=np.concatenate((rng.random(_PRE) < chance_before, traded, rng.random(after) < chance_later)),
        weight=np.concatenate(
            (
                0.05 * rng.exponential(size=_PRE) * (0.3 + np.arange(_PRE) / _PRE),
                weight,
                0.08 * rng.exponential(size=after) * (0.3 + np.exp(-evening / 30)),
            )
        ),
    )


def _regular_chance(instrument: Instrument, number: int, edge: Floats) -> Floats:
    if instrument.liquidity is Liquidity.LIQUID:
        return np.ones(len(edge))
    # Some days are livelier than others, and midday is quieter; the brackets are one on average.
    swing = 0.1 if instrument.liquidity is Liquidity.THIN else 0.02
    day = instrument.liquidity.value * (1 + swing * math.sin(number * 0.7))
    chance: Floats = np.clip(day * (1 + swing * (1 - 4 * edge)), 0, 1)
    return chance


def _extended_paths(
    path: _Path, position: int, after: int, quiet: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw the log prices at the edges of the pre-market and after-hours minutes."""
    opened, previous = math.log(path.open[position]), math.log(path.previous[position])
    steps = np.concatenate(([0.0], rng.standard_normal(_PRE) * quiet)).cumsum()
    share = np.linspace(0, 1, _PRE + 1)
    begin = previous + 0.7 * (opened - previous)
    before = begin + steps - share * steps[-1] + share * (opened - begin)
    later = (
        math.log(path.close[position]) + np.concatenate(([0.0], rng.standard_normal(after) * quiet)).cumsum()
    )
    return before, later


def _bridge(path: _Path, position: int, sigma: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw the log prices at both edges of every minute, from the day's open to its close, within its extremes."""
    opened, closed = math.log(path.open[position]), math.log(path.close[position])
    passed = np.concatenate(([0.0], np.cumsum(sigma**2)))
    passed /= passed[-1]
    walk = np.concatenate(([0.0], np.cumsum(sigma * rng.standard_normal(len(sigma)))))
    walk *= path.sigma[position] / np.sqrt((sigma**2).sum())
    logs = opened + walk - passed * walk[-1] + passed * (closed - opened)
    top, bottom = max(opened, closed), min(opened, closed)
    above, below = logs.max() - top, bottom - logs.min()
    if above > 0:
        room = math.log(path.high[position]) - top
        logs = np.where(logs > top, top + (logs - top) * room / above, logs)
    if below > 0:
        room = bottom - math.log(path.low[position])
        logs = np.where(logs < bottom, bottom - (bottom - logs) * room / below, logs)
    return logs[:-1], logs[1:]


def _bars(  # noqa: PLR0913  # the parts of one day, assembled in one function
    instrument: Instrument,
    path: _Path,
    position: int,
    rng: np.random.Generator,
    *,
    times: Integers,
    logs: tuple[Floats, Floats],
    scale: Floats,
    traded: np.ndarray,
    weight: Floats,
) -> Bars:
    noise = rng.standard_normal((3, len(times)))
    begin = logs[0] + 0.2 * scale * noise[0]
    finish = logs[1]
    digits = instrument.tick_decimals
    open_, close = _round_to_tick(np.exp(begin), digits), _round_to_tick(np.exp(finish), digits)
    upper, lower = np.maximum(open_, close), np.minimum(open_, close)
    high = np.maximum(upper, _round_to_tick(upper * np.exp(0.35 * scale * np.abs(noise[1])), digits))
    low = np.minimum(lower, _round_to_tick(lower * np.exp(-0.35 * scale * np.abs(noise[2])), digits))
    number = np.full(len(times), path.number[position])
    if instrument.asset_class is AssetClass.INDEX:
        return Bars(times, open_, high, low, close).take(traded)
    weight = np.where(traded, weight, 0.0)
    volume = path.volume[position] * _LIT_SHARE * weight / weight.sum()
    count = np.maximum(1, volume * _trades_per_unit(instrument)).astype(np.int64)
    single = count == 1
    open_, high, low = (np.where(single, close, prices) for prices in (open_, high, low))
    position_in_range = rng.random(len(times))
    # The vendor's vwap counts trades that may not move high and low, so that it can lie outside them.
    position_in_range += np.where(rng.random(len(times)) < 0.002, 1.2, 0.0)  # noqa: PLR2004
    vwap = np.round(low + (high - low) * position_in_range, max(4, instrument.tick_decimals))
    return Bars(times, open_, high, low, close, _quantities(volume, instrument, number), vwap, count).take(
        traded
    )


def _trades_per_unit(instrument: Instrument) -> float:
    return instrument.trades / instrument.volume


def _quantities(volume: Floats, instrument: Instrument, number: Integers) -> Floats:
    if instrument.asset_class is AssetClass.CRYPTO:
        return np.maximum(np.round(volume, 8), 1e-8)
    whole = np.maximum(1.0, np.round(volume))
    fractional = number >= day_number(_FRACTIONAL_SHARES)
    return np.where(fractional, whole + np.round(volume % 1, 4), whole)


def _round_to_tick(prices: Floats, digits: int) -> Floats:
    """Round prices to their tick; below a dollar, stocks have four decimals."""
    tick = np.round(prices, digits)
    finer = prices < 1
    return np.where(finer, np.maximum(np.round(prices, max(digits, 4)), 10.0 ** -max(digits, 4)), tick)


def _autoregressive(shocks: Floats, persistence: float) -> Floats:
    values = np.empty(len(shocks))
    value = 0.0
    for position, shock in enumerate(shocks.tolist()):
        value = persistence * value + shock
        values[position] = value
    return values


def _until(bars: Bars, now_ms: int) -> Bars:
    """Return the bars that have begun; the bar in progress contains the trades so far."""
    if not len(bars) or bars.time[-1] + MINUTE_MS <= now_ms:
        return bars
    begun = bars.take(slice(int(np.searchsorted(bars.time, now_ms, side="right"))))
    if not len(begun) or begun.time[-1] + MINUTE_MS <= now_ms:
        return begun
    done, current = begun.take(slice(len(begun) - 1)), begun.take(slice(len(begun) - 1, None))
    share = max(0.01, (now_ms - int(current.time[0])) / MINUTE_MS)
    upper, lower = np.maximum(current.open, current.close), np.minimum(current.open, current.close)
    partial = replace(current, high=upper, low=lower)
    if current.volume is not None and current.transactions is not None:
        whole = bool((current.volume % 1 == 0).all())
        volume = np.maximum(1.0, np.floor(current.volume * share)) if whole else current.volume * share
        partial = replace(
            partial,
            volume=np.round(volume, 8),
            vwap=np.round((upper + lower) / 2, decimals(lower)),
            transactions=np.maximum(1, (current.transactions * share).astype(np.int64)),
        )
    return Bars.concatenate([done, partial])


def _closes_at(instrument: Instrument, number: int) -> int:
    """Return the Unix milliseconds at which the day's official bar is final."""
    calendar = calendar_of(instrument.asset_class)
    session = calendar.session(day_of(number))
    end = session.regular.end if session else calendar.day_window(day_of(number)).end
    return milliseconds(end)


@lru_cache(maxsize=4)
def _days_of(calendar: TradingCalendar) -> tuple[Integers, Sequence[int]]:
    """Return the day numbers of a calendar's sessions, and the length of each regular session in minutes."""
    sessions = calendar.sessions(_FIRST, _LAST)
    if calendar.is_always_open:
        return np.array([day_number(day) for day in sessions], dtype=np.int64), (1440,) * len(sessions)
    lengths = []
    for day in sessions:
        session = calendar.session(day)
        lengths.append(int(session.regular.duration / timedelta(minutes=1)) if session else 0)
    return np.array([day_number(day) for day in sessions], dtype=np.int64), lengths


def _is_short(lengths: Sequence[int]) -> np.ndarray:
    return np.asarray(lengths) < 300  # noqa: PLR2004  # a half day has 210 minutes
