"""The HTTP API: stored data for any program, and the tracked symbols for holders of an admin key.

Belongs here: routes, access, limits, formats, problem documents. The API reads with the functions of ``queries``, so
that a response holds what Python gets, and it never writes bars.
Does not belong here: SQL (``storage``), decisions about bars (``domain``), Dagster (``defs``).
"""
