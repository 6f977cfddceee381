"""``marketdata``: the command line.

Belongs here: arguments, progress, tables, exit codes. Does not belong here: anything that another process
could not do without a terminal.

Exit codes: 0 done, 1 finished with failures, 2 wrong usage or configuration.
"""

from marketdata_assets.cli.app import main

__all__ = ["main"]
