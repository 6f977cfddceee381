"""Market data as Dagster software-defined assets.

``bars``, ``features``, ``gaps`` and ``completeness`` read what is stored as Polars frames; see
:mod:`marketdata_assets.queries`. Importing this package does nothing: no settings are read, no connection is opened, and
what these functions need is loaded when one is named.

Imports run one way: ``domain`` <- ``config``, ``simulator`` <- ``polygon``, ``storage`` <- ``pipeline`` <- ``queries``,
``defs`` <- ``api``, ``definitions`` <- ``cli``. ``domain`` decides, ``storage`` has the SQL, ``pipeline`` the use-cases,
``defs`` everything that knows Dagster.
"""

TYPE_CHECKING = False  # importing typing would cost more than this whole package
if TYPE_CHECKING:
    from marketdata_assets.queries import IncompleteHistoryWarning, bars, completeness, features, gaps

__all__ = ["IncompleteHistoryWarning", "bars", "completeness", "features", "gaps"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from marketdata_assets import queries  # noqa: PLC0415 - only when it is wanted

        return getattr(queries, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
