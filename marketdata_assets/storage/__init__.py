"""Postgres: the embedded server, migrations, bulk writes and reads, and Dagster's IO manager.

Belongs here: every SQL statement of the platform, except the rate limiter's.
Does not belong here: decisions about bars, gaps or features (``domain``).
"""
