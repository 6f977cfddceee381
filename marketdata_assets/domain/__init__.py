"""Pure functions on Polars frames and small values: the decisions of the platform.

Belongs here: what a bar, a slot, a window or a series is, and every rule about them.
Does not belong here: Dagster, input or output of any kind, a clock, randomness, the environment. A function
whose result depends on the present time takes ``now`` as an argument.
"""
