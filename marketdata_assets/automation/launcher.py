"""The run launcher under the name that copies of ``dagster.yaml`` from earlier versions have for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marketdata_assets.defs.instance.launcher import LocalRunLauncher

__all__ = ["LocalRunLauncher"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from marketdata_assets.defs.instance import launcher  # noqa: PLC0415 - only where it is wanted

        return getattr(launcher, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
