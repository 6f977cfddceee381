"""Replayed bars: a folder of Parquet files, served as the vendor would serve them.

``lean_<ticker>_<1m|1d>.parquet`` is a stock, ``lean_<exchange>_<pair>_<1m|1d>.parquet`` a crypto pair
(``lean_coinbase_btcusd_1m`` is ``X:BTCUSD``); a name with a capital is used as the ticker unchanged
(``lean_BACpL_1d``). Other files are ignored. Columns: ``ts`` (UTC, bar open),
``open``, ``high``, ``low``, ``close``, ``volume`` and, where present, ``vwap`` and ``transactions``. Prices
are raw. ``<ticker>.csv`` is a Lean factor file (date, price factor, split factor, close): each row is valid up
to and including its date, so a change from one row to the next takes effect in the next session.
"""

from __future__ import annotations

import csv
import itertools
import re
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from marketdata_assets.domain.calendar import calendar_of
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.series import AssetClass
from marketdata_assets.simulator.bars import Bars, Base
from marketdata_assets.simulator.instruments import Dividend, Split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FILE = re.compile(r"lean_(?:(?P<exchange>[a-z0-9]+)_)?(?P<name>[A-Za-z0-9.]+)_(?P<length>1m|1d)")
_BASES: dict[str, Base] = {"1m": "minute", "1d": "day"}
_NO_CHANGE = 1e-9


class Replay:
    """The bar source of a folder. Raises :class:`ConfigurationError` when the folder has no bars to serve."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            message = (
                f"there is no folder {folder} to replay: name one with lean_*_1m.parquet or lean_*_1d.parquet"
            )
            raise ConfigurationError(message)
        self._bars: dict[tuple[str, Base], Bars] = {}
        for file in sorted(folder.glob("lean_*.parquet")):
            matched = _FILE.fullmatch(file.stem)
            if matched:
                name = _ticker(matched["name"])
                ticker = f"X:{name}" if matched["exchange"] else name
                self._bars[ticker, _BASES[matched["length"]]] = _read(file)
        if not self._bars:
            message = (
                f"{folder} has no bars to replay: name a folder with lean_*_1m.parquet or lean_*_1d.parquet"
            )
            raise ConfigurationError(message)
        self._splits: list[Split] = []
        self._dividends: list[Dividend] = []
        for file in sorted(folder.glob("*.csv")):
            self._read_factors(file)

    def asset_class(self, ticker: str) -> AssetClass | None:
        """Return stock or crypto; None when no file has the ticker."""
        if ticker not in self.tickers():
            return None
        return AssetClass.CRYPTO if ticker.startswith("X:") else AssetClass.STOCK

    def tickers(self) -> Sequence[str]:
        """Return the tickers of the files, in order."""
        return sorted({ticker for ticker, _ in self._bars})

    def splits(self) -> Sequence[Split]:
        """Return the splits of the factor files."""
        return self._splits

    def dividends(self, ticker: str | None) -> Sequence[Dividend]:
        """Return the dividends that the factor files imply."""
        return [dividend for dividend in self._dividends if ticker in (None, dividend.ticker)]

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
        """Return at most ``max_bars`` bars that open in ``[start_ms, end_ms)``, the oldest or newest of them."""
        stored = self._bars.get((ticker, base))
        if stored is None:
            return Bars.empty()
        bars = stored.between(start_ms, min(end_ms, now_ms + 1))
        return bars.take(slice(max(0, len(bars) - max_bars), None) if newest_first else slice(max_bars))

    def _read_factors(self, file: Path) -> None:
        ticker = _ticker(file.stem)
        calendar = calendar_of(AssetClass.STOCK)
        with file.open(newline="") as lines:
            rows = [
                (datetime.strptime(row[0], "%Y%m%d").date(), float(row[1]), float(row[2]), float(row[3]))  # noqa: DTZ007  # a date
                for row in csv.reader(lines)
                if row
            ]
        for (day, price, split, close), (_, next_price, next_split, _) in itertools.pairwise(rows):
            effective = calendar.sessions(day + timedelta(days=1), day + timedelta(days=10))
            if not effective:
                continue
            if abs(next_split / split - 1) > _NO_CHANGE:
                self._splits.append(_split(ticker, effective[0], next_split / split))
            if abs(next_price / price - 1) > _NO_CHANGE:
                cash = round(close * (1 - price / next_price), 4)
                self._dividends.append(Dividend(ticker, effective[0], cash))


def _ticker(name: str) -> str:
    """Return the ticker of a file's name: a lower-case name such as ``aapl`` is put in capitals."""
    return name.upper() if name.islower() else name


def _split(ticker: str, day: date, ratio: float) -> Split:
    # Factor files round to seven digits: 6.99999 means 7.
    shares = Fraction(ratio).limit_denominator(50)
    return Split(ticker, day, shares.denominator, shares.numerator)


def _read(file: Path) -> Bars:
    frame = pl.read_parquet(file).sort("ts")
    missing = {"ts", "open", "high", "low", "close", "volume"} - set(frame.columns)
    if missing:
        message = f"{file} cannot be replayed: it has no column {min(missing)!r}"
        raise ConfigurationError(message)
    prices = {
        name: frame[name].cast(pl.Float64).to_numpy() for name in ("open", "high", "low", "close", "volume")
    }
    return Bars(
        time=frame["ts"].dt.epoch("ms").to_numpy().astype(np.int64),
        **prices,
        vwap=frame["vwap"].cast(pl.Float64).to_numpy() if "vwap" in frame.columns else None,
        transactions=frame["transactions"].cast(pl.Int64).to_numpy()
        if "transactions" in frame.columns
        else None,
    )
