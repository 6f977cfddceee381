"""Throughput figures of the platform, each beside a floor or a peer: ``python -m benchmarks``.

Belongs here: what is measured, and how. Does not belong here: anything that passes or fails; nothing asserts
a time. README.md beside this file says what each figure means and what was seen.
"""
