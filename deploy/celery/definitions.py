"""The platform with every step as a task of Celery: ``dagster code-server start -m deploy.celery.definitions``.

CELERY_BROKER_URL and CELERY_RESULT_URL say where the broker and its results are, e.g. ``redis://host:6379/0``.
"""

from __future__ import annotations

import dagster as dg
from dagster_celery import celery_executor

from marketdata_assets.definitions import build_definitions


@dg.definitions
def defs() -> dg.Definitions:
    """The same assets, checks, jobs and sensors; only where steps go differs."""
    return build_definitions(
        executor=celery_executor.configured(
            {"broker": {"env": "CELERY_BROKER_URL"}, "backend": {"env": "CELERY_RESULT_URL"}}, name="celery"
        )
    )
