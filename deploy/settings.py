"""Dagster's settings of each place, derived from the ``dagster.yaml`` at the root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import AliasChoices

from marketdata_assets.config import Settings

FOLDER: Final = Path(__file__).resolve().parent

IMAGE: Final = "marketdata-assets"
"""Name of the image that ``deploy/Dockerfile`` builds."""
NETWORK: Final = "marketdata"
"""Compose's network, in which the container of a run finds Postgres."""
COMPUTE_LOGS: Final = "marketdata-logs"
"""Compose's volume of what runs print: their containers write it, the webserver reads it."""
DAGSTER_HOME: Final = "/opt/dagster/dagster_home"
"""In the image; the chart's own default."""
SECRET: Final = "marketdata"  # noqa: S105 - the name of a Secret, not one
"""The Kubernetes Secret whose keys are environment variables (DATABASE_URL, POLYGON_API_KEY, …)."""
STORAGE_SECRET: Final = "marketdata-dagster-postgres"  # noqa: S105 - as above
"""The Kubernetes Secret with the password of Dagster's own storage, in the key that the chart asks for."""

_NOT_OF_RUNS: Final = ("home", "api_keys")
"""The image says where its home is; the keys are those of `marketdata serve`."""


def _variables() -> tuple[str, ...]:
    """The environment variables of every setting that a run goes by."""
    names: list[str] = []
    for name, setting in Settings.model_fields.items():
        if name in _NOT_OF_RUNS:
            continue
        alias = setting.validation_alias
        names += map(str, alias.choices) if isinstance(alias, AliasChoices) else [str(alias)]
    return tuple(names)


RUN_ENVIRONMENT: Final = _variables()
"""What every process of the platform and the container of a run get; the image sets the rest."""

_COMPOSE_DATABASE: Final = (
    "${MARKETDATA_DATABASE_URL:-"
    "postgresql://marketdata:${POSTGRES_PASSWORD:?set it in .env}@postgres:5432/marketdata}"
)
_COMPOSE_BLOCK: Final = re.compile(r"(?<=^x-environment: &environment\n)(?:  .*\n)+", re.MULTILINE)

_CONCURRENCY: Final = {"runs": {"max_concurrent_runs": 8}, "pools": {"default_limit": 4}}
"""Where runs do not share two cores."""
_START_TIMEOUT_SECONDS: Final = 600
"""A container may wait for its image, or for a node."""


def root_settings() -> dict[str, Any]:
    """``dagster.yaml`` at the root."""
    found: dict[str, Any] = yaml.safe_load((FOLDER.parent / "dagster.yaml").read_text(encoding="utf-8"))
    return found


def compose_settings() -> dict[str, Any]:
    """The instance under Compose: a container per run."""
    return {
        **_scaled_out(root_settings()),
        "run_launcher": {
            "module": "dagster_docker",
            "class": "DockerRunLauncher",
            "config": {
                "env_vars": list(RUN_ENVIRONMENT),
                "network": NETWORK,
                "container_kwargs": {
                    "auto_remove": True,
                    "init": True,
                    "volumes": [f"{COMPUTE_LOGS}:{DAGSTER_HOME}/storage"],
                },
            },
        },
    }


def helm_values() -> dict[str, Any]:
    """Values of Dagster's official chart: an external Postgres, a pod per run."""
    settings = _scaled_out(root_settings())
    # The chart writes dagster.yaml itself: its own words for what it knows, the rest as it is.
    monitoring, retries = settings.pop("run_monitoring"), settings.pop("run_retries")
    concurrency, retention = settings.pop("concurrency"), settings.pop("retention")
    telemetry = settings.pop("telemetry")
    for replaced in ("storage", "run_coordinator", "run_launcher", "code_servers"):
        settings.pop(replaced)
    image = {"repository": IMAGE, "tag": "latest", "pullPolicy": "IfNotPresent"}
    secrets = [{"name": SECRET}]
    return {
        "global": {"postgresqlSecretName": STORAGE_SECRET, "dagsterHome": DAGSTER_HOME},
        "generatePostgresqlPasswordSecret": False,
        "generateCeleryConfigSecret": False,
        "postgresql": {
            "enabled": False,
            "postgresqlHost": "postgres.example.internal",
            "postgresqlUsername": "dagster",
            "postgresqlDatabase": "dagster",
            # SQLAlchemy 2.1 takes psycopg 3 otherwise, with which dagster-postgres fails.
            "postgresqlScheme": "postgresql+psycopg2",
            "postgresqlParams": {},
            "service": {"port": 5432},
        },
        "rabbitmq": {"enabled": False},
        "redis": {"enabled": False, "internal": False},
        "dagsterWebserver": {"image": image, "envSecrets": secrets},
        "dagster-user-deployments": {
            "enabled": True,
            "deployments": [
                {
                    "name": "marketdata-assets",
                    "image": image,
                    "codeServerArgs": ["-m", "marketdata_assets.definitions"],
                    "port": 3030,
                    "envSecrets": secrets,
                    "includeConfigInLaunchedRuns": {"enabled": True},
                }
            ],
        },
        "runLauncher": {
            "type": "K8sRunLauncher",
            "config": {
                "k8sRunLauncher": {
                    "imagePullPolicy": "IfNotPresent",
                    "envSecrets": secrets,
                    "resources": {
                        "requests": {"cpu": "500m", "memory": "1Gi"},
                        "limits": {"memory": "4Gi"},
                    },
                }
            },
        },
        "computeLogManager": {"type": "NoOpComputeLogManager"},
        "dagsterDaemon": {
            "image": image,
            "envSecrets": secrets,
            # Its limits are those of `concurrency` below.
            "runCoordinator": {
                "enabled": True,
                "type": "QueuedRunCoordinator",
                "config": {"queuedRunCoordinator": {}},
            },
            "runMonitoring": {
                "enabled": monitoring["enabled"],
                "startTimeoutSeconds": monitoring["start_timeout_seconds"],
                "cancelTimeoutSeconds": monitoring["cancel_timeout_seconds"],
                "pollIntervalSeconds": monitoring["poll_interval_seconds"],
                "maxResumeRunAttempts": 0,
            },
            "runRetries": {
                "enabled": retries["enabled"],
                "maxRetries": retries["max_retries"],
                "retryOnAssetOrOpFailure": retries["retry_on_asset_or_op_failure"],
            },
        },
        "concurrency": {
            "enabled": True,
            "runs": {"maxConcurrentRuns": concurrency["runs"]["max_concurrent_runs"]},
            "pools": {
                "granularity": concurrency["pools"]["granularity"],
                "defaultLimit": concurrency["pools"]["default_limit"],
            },
        },
        "retention": {
            "enabled": True,
            "schedule": {"purgeAfterDays": retention["schedule"]["purge_after_days"]},
            "sensor": {"purgeAfterDays": retention["sensor"]["purge_after_days"]},
            "autoMaterialize": {"purgeAfterDays": retention["auto_materialize"]["purge_after_days"]},
        },
        "telemetry": {"enabled": telemetry["enabled"]},
        "additionalInstanceConfig": settings,
    }


def compose_file() -> str:
    """Compose's file, as it is but for its environment: each variable is that of ``.env``, or empty, which is unset."""
    values = {name: f"${{{name}:-}}" for name in RUN_ENVIRONMENT} | {"DATABASE_URL": _COMPOSE_DATABASE}
    lines = "".join(f"  {name}: {value}\n" for name, value in values.items())
    text = (FOLDER / "compose" / "docker-compose.yml").read_text(encoding="utf-8")
    return _COMPOSE_BLOCK.sub(lambda _: lines, text)


def generated() -> dict[str, str]:
    """The text of each generated file by its path under ``deploy/``."""
    return {
        "compose/dagster.yaml": _text(compose_settings()),
        "compose/docker-compose.yml": compose_file(),
        "helm/values.yaml": _text(helm_values()),
    }


def _scaled_out(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` where each run has a container of its own."""
    return {
        **settings,
        "concurrency": {
            name: {**settings["concurrency"][name], **changed} for name, changed in _CONCURRENCY.items()
        },
        "run_monitoring": {
            **settings["run_monitoring"],
            "start_timeout_seconds": _START_TIMEOUT_SECONDS,
        },
    }


class _Plain(yaml.SafeDumper):
    """Writes every value out: anchors make a file of settings hard to edit."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def _text(settings: dict[str, Any]) -> str:
    head = "# Written by `make deploy-files` from dagster.yaml and deploy/settings.py: change those.\n"
    return head + yaml.dump(settings, Dumper=_Plain, sort_keys=False, width=110)
