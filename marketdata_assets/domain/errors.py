"""The root of the error hierarchy.

Every error that the platform raises on purpose is a :class:`MarketDataError`: its text is one line that says
what happened, to which series and window, and what to do about it.
"""


class MarketDataError(Exception):
    """Something failed in a way that its message explains. Commands print it and exit with 1."""

    exit_code = 1


class ConfigurationError(MarketDataError):
    """A setting, an argument or a file that the user controls is wrong. Commands print it and exit with 2."""

    exit_code = 2


class UnknownSeriesError(ConfigurationError):
    """The symbol is not tracked, or not collected in that timeframe."""


class UnadjustableError(ConfigurationError):
    """Adjusted prices are asked for of a symbol whose splits were never asked for."""


class AnotherInstrumentError(ConfigurationError):
    """A symbol's stored bars are those of another asset class: new ones would mix two instruments."""
