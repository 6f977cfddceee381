"""The use-cases: what a run or a command does with bars, from the vendor's answer to what is stored.

Belongs here: ingest, the scan and refetch of gaps, features, adjustment, freshness, gates, health, alerts: the order of
reads, requests, decisions and writes. It imports ``domain``, ``config``, ``polygon`` and ``storage``.
Does not belong here: Dagster (``defs``), decisions that need no input or output (``domain``), SQL (``storage``),
requests (``polygon``).
"""
