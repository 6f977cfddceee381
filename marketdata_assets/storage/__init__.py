"""Postgres: the embedded server, migrations, bulk writes and reads.

Belongs here: SQL statements, and values that are rows of a table. It imports ``domain`` and ``config``.
Does not belong here: decisions about bars, gaps or features (``domain``), in which order they are read, decided and
written (``pipeline``), Dagster (``defs``); of Dagster's own tables ``dagster_tables`` reads a few.
"""
