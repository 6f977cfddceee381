"""Dagster's instance: the storage class, the run launcher, the environment of its processes, its private parts.

Belongs here: classes that ``dagster.yaml`` names, and every private import from Dagster (``internals``).
Does not belong here: assets, checks, schedules and sensors; ``internals`` imports nothing from this package.
"""
