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


class ClockError(ConfigurationError):
    """The clock of this machine and another one disagree by more than clocks drift: nothing may be written by it."""


class UnknownSeriesError(ConfigurationError):
    """The symbol is not tracked, or not collected in that timeframe."""


class UnadjustableError(ConfigurationError):
    """Adjusted prices are asked for of a symbol whose splits were never asked for.

    Attributes:
        reason: What happened and how it is mended, without how to ask for prices as traded instead: callers of the
            function, the command and the HTTP API say that in different words.
    """

    def __init__(self, symbol: str, *, is_tracked: bool) -> None:
        first = "" if is_tracked else f"take it up again (`marketdata symbols add {symbol}`), "
        self.reason = (
            f"the splits of {symbol} were never asked for, so its bars cannot be adjusted: {first}run"
            " `marketdata actions`"
        )
        super().__init__(f"{self.reason}, or read them with adjusted=False")


class AnotherInstrumentError(ConfigurationError):
    """A symbol's stored bars are those of another asset class: new ones would mix two instruments.

    Attributes:
        symbol: The symbol.
    """

    def __init__(self, message: str, *, symbol: str) -> None:
        super().__init__(message)
        self.symbol = symbol


class DoubtfulSymbolError(ConfigurationError):
    """A new symbol is not spelt as the vendor spells such an instrument; it may exist all the same.

    Attributes:
        symbol: The symbol, as it was given.
        question: What is doubtful and what is probably meant, without how to insist: commands and the HTTP API say
            that in different words.
    """

    def __init__(self, symbol: str, question: str) -> None:
        super().__init__(question)
        self.symbol = symbol
        self.question = question
