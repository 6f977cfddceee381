"""``marketdata``: the command line.

Belongs here: arguments, progress, tables, exit codes. Does not belong here: anything that works without a terminal.

Exit codes: 0 done, 1 finished with failures, 2 wrong usage or configuration, or a store that cannot be used,
130 interrupted.
"""

from marketdata_assets.cli.interrupts import INTERRUPTED, exit_with, report_interrupt, watch_signals

__all__ = ["main"]


def main() -> None:
    """Run the command line as a process of its own. Commands are imported after the handlers of signals are set."""
    try:
        watch_signals()
        from marketdata_assets.cli.app import run

        code = run()
    except KeyboardInterrupt:
        report_interrupt()
        code = INTERRUPTED
    exit_with(code)
