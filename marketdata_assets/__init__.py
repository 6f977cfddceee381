"""Market data as Dagster software-defined assets.

``bars`` reads stored bars as a Polars frame; see :func:`marketdata_assets.reading.bars`. Importing this package
does nothing: no settings are read, no connection is opened, and what ``bars`` needs is loaded when it is named.

Imports run one way: ``domain`` <- ``polygon``, ``storage`` <- ``assets``, ``checks`` <- ``automation``,
``cli``, ``api``. ``domain`` decides, ``storage`` writes, assets orchestrate.
"""

TYPE_CHECKING = False  # importing typing would cost more than this whole package
if TYPE_CHECKING:
    from marketdata_assets.reading import bars

__all__ = ["bars"]


def __getattr__(name: str) -> object:
    if name == "bars":
        from marketdata_assets.reading import bars  # noqa: PLC0415 - only when it is wanted

        return bars
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
