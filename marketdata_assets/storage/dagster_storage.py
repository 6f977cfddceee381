"""An alias of Dagster's storage class, for copies of ``dagster.yaml`` that earlier versions wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marketdata_assets.defs.instance.storage import MarketDataStorage

__all__ = ["MarketDataStorage"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from marketdata_assets.defs.instance import storage  # noqa: PLC0415 - imports Dagster, so only on demand

        return getattr(storage, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
