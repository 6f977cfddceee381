"""The use-cases: what a run or a command does with bars, from the vendor's response to the stored rows.

Belongs here: ingest, the scan and refetch of gaps, features, adjustment, freshness, gates, health, alerts: the order of
reads, requests, decisions and writes. It imports ``domain``, ``config``, ``polygon`` and ``storage``.
Does not belong here: Dagster (``defs``), decisions without input or output (``domain``), SQL (``storage``),
requests (``polygon``).
"""
