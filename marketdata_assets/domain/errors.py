"""The root of the error hierarchy.

Every error that the platform raises on purpose is a :class:`MarketDataError`: its text is one line that says
what happened, to which series and window, and what to do about it.
"""


class MarketDataError(Exception):
    """A failure that its message explains. Commands print the message and exit with 1."""

    exit_code = 1


class ConfigurationError(MarketDataError):
    """A setting, an argument or a file of the user's is wrong. Commands print the message and exit with 2."""

    exit_code = 2


class ClockError(ConfigurationError):
    """The clock of this machine and another clock differ by more than clocks drift: nothing may be written."""


class UnknownSeriesError(ConfigurationError):
    """A symbol is not tracked, or not collected in the given timeframe."""


class UnadjustableError(ConfigurationError):
    """A request for adjusted prices of a symbol whose splits were never fetched.

    Attributes:
        reason: What happened and what to do, without how to read prices as traded instead: the Python function, the
            command and the HTTP API each name their own option for that.
    """

    def __init__(self, symbol: str, *, is_tracked: bool) -> None:
        first = "" if is_tracked else f"track it again (`marketdata symbols add {symbol}`), "
        self.reason = (
            f"the splits of {symbol} were never fetched, so its bars cannot be adjusted: {first}run"
            " `marketdata actions`"
        )
        super().__init__(f"{self.reason}, or read them with adjusted=False")


class AnotherInstrumentError(ConfigurationError):
    """The stored bars of a symbol are those of another asset class: new ones would mix two instruments.

    Attributes:
        symbol: The symbol, as it was given.
    """

    def __init__(self, message: str, *, symbol: str) -> None:
        super().__init__(message)
        self.symbol = symbol


class DoubtfulSymbolError(ConfigurationError):
    """A new symbol is not spelt as the vendor spells such an instrument, although it may exist.

    Attributes:
        symbol: The symbol, as it was given.
        question: What is doubtful and what is probably meant, without how to add the symbol anyway: commands and the
            HTTP API each name their own option for that.
    """

    def __init__(self, symbol: str, question: str) -> None:
        super().__init__(question)
        self.symbol = symbol
        self.question = question
