"""The HTTP API: what is stored, for any program; and what is collected, for those with an admin key.

Belongs here: routes, access, limits, formats, problem documents. It reads with the functions of ``queries``, so that an
answer is what Python gets, and it never writes bars.
Does not belong here: SQL (``storage``), decisions about bars (``domain``), Dagster (``defs``).
"""
