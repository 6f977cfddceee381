"""Postgres: the embedded server, migrations, bulk writes and reads.

Belongs here: SQL statements, and values that are rows of a table. The package imports ``domain`` and ``config``.
Does not belong here: decisions about bars, gaps or features (``domain``), the order of reading, deciding and writing
(``pipeline``), Dagster (``defs``). Only ``dagster_tables`` reads a few of Dagster's own tables.
"""
