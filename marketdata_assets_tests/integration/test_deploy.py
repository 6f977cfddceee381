"""What is in ``deploy/``: made from ``dagster.yaml``, and accepted by those who will read it."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dagster import DagsterInstance, RunsFilter

from deploy.settings import (
    COMPUTE_LOGS,
    DAGSTER_HOME,
    FOLDER,
    IMAGE,
    NETWORK,
    RUN_ENVIRONMENT,
    SECRET,
    generated,
    helm_values,
    root_settings,
)
from marketdata_assets.config import load_settings
from marketdata_assets.defs.instance.environment import BATCHING
from marketdata_assets.defs.instance.launcher import LocalRunLauncher

if TYPE_CHECKING:
    from pathlib import Path

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: test, user: {}}]
"""


def compose() -> dict[str, Any]:
    text = (FOLDER / "compose" / "docker-compose.yml").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text("utf-8")


@pytest.fixture
def storage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


def loaded(folder: Path, settings: dict[str, Any]) -> DagsterInstance:
    """The instance of ``settings``, as every process of Dagster loads it."""
    (folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return DagsterInstance.from_config(str(folder))


def in_helm(database_url: str, folder: Path) -> dict[str, Any]:
    """The ``dagster.yaml`` that the official chart writes for ``helm_values``, as its templates do.

    The cluster is one that nobody answers for, and the storage that of the test.
    """
    values = helm_values()
    daemon, concurrency = values["dagsterDaemon"], values["concurrency"]
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    return {
        "storage": {
            "postgres": {
                "postgres_url": database_url.replace(
                    "postgresql", values["postgresql"]["postgresqlScheme"], 1
                )
            }
        },
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": daemon["runCoordinator"]["config"]["queuedRunCoordinator"],
        },
        "run_launcher": {
            "module": "dagster_k8s",
            "class": values["runLauncher"]["type"],
            "config": {
                "load_incluster_config": False,
                "kubeconfig_file": str(kubeconfig),
                "job_namespace": "test",
                "service_account_name": "test",
                "dagster_home": values["global"]["dagsterHome"],
                "instance_config_map": "test",
                "postgres_password_secret": values["global"]["postgresqlSecretName"],
                "image_pull_policy": launcher["imagePullPolicy"],
                "env_secrets": [one["name"] for one in launcher["envSecrets"]],
                "resources": launcher["resources"],
            },
        },
        "run_monitoring": snake(daemon["runMonitoring"]),
        "run_retries": snake(daemon["runRetries"]),
        "concurrency": {name: snake(concurrency[name]) for name in ("runs", "pools")},
        "retention": {name: snake(values["retention"][camel]) for name, camel in RETENTION.items()},
        "telemetry": values["telemetry"],
        **values["additionalInstanceConfig"],
    }


RETENTION = {"schedule": "schedule", "sensor": "sensor", "auto_materialize": "autoMaterialize"}


def snake(settings: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"([A-Z])", r"_\1", name).lower(): value for name, value in settings.items()}


def test_the_files_are_what_the_generator_makes() -> None:
    for name, text in generated().items():
        assert (FOLDER / name).read_text("utf-8") == text, f"{name} is old: make deploy-files"


@pytest.mark.usefixtures("storage")
def test_every_place_retries_crashes_alone_and_leaves_room_beside_the_vendor(
    tmp_path: Path, database_url: str
) -> None:
    places = {
        "root": root_settings(),
        "compose": yaml.safe_load((FOLDER / "compose" / "dagster.yaml").read_text("utf-8")),
        "helm": in_helm(database_url, tmp_path),
    }
    for place, settings in places.items():
        with loaded(tmp_path, settings) as instance:
            limits = instance.get_concurrency_config()
            assert limits.run_queue_config is not None, place
            vendor = limits.pool_config.default_pool_limit
            assert vendor is not None, place
            assert 0 < vendor < limits.run_queue_config.max_concurrent_runs, place
            assert limits.pool_config.pool_granularity is not None, place
            assert limits.pool_config.pool_granularity.value == "run", place
            assert instance.run_monitoring_enabled, place
            assert instance.run_launcher.supports_check_run_worker_health, place
            assert instance.run_retries_enabled, place
            assert instance.run_retries_max_retries == 2, place
            assert not instance.run_retries_retry_on_asset_or_op_failure, place
            assert instance.freshness_enabled, place
            assert not instance.telemetry_enabled, place
            assert not instance.nux_enabled, place
            # its storage is the test's Postgres, and answers
            assert instance.get_runs(RunsFilter(job_name="none")) == [], place


@pytest.mark.usefixtures("storage")
def test_runs_are_processes_containers_and_pods(tmp_path: Path, database_url: str) -> None:
    from dagster_docker import DockerRunLauncher  # noqa: PLC0415 - a second of imports for two tests
    from dagster_k8s import K8sRunLauncher  # noqa: PLC0415 - as above

    with loaded(tmp_path, root_settings()) as instance:
        assert isinstance(instance.run_launcher, LocalRunLauncher)
    with loaded(tmp_path, yaml.safe_load((FOLDER / "compose" / "dagster.yaml").read_text())) as instance:
        assert isinstance(instance.run_launcher, DockerRunLauncher)
    with loaded(tmp_path, in_helm(database_url, tmp_path)) as instance:
        assert isinstance(instance.run_launcher, K8sRunLauncher)


def test_the_image_sets_the_batching_of_every_process_and_runs_without_root() -> None:
    final = dockerfile().rsplit("FROM", 1)[1]
    for name, value in BATCHING.items():
        assert f"{name}={value}" in final
    assert f"DAGSTER_HOME={DAGSTER_HOME}" in final
    assert re.search(r"^USER (?!0\b)\d+$", final, re.MULTILINE)
    assert "--constraint constraints.txt" in dockerfile()
    services = compose()["services"]
    assert {one["image"].split(":")[0] for name, one in services.items() if name != "postgres"} == {IMAGE}
    assert not set(BATCHING) & {name for one in services.values() for name in one.get("environment", {})}


def test_a_run_in_a_container_gets_what_its_daemon_has() -> None:
    found = compose()
    daemon = found["services"]["daemon"]
    # The launcher refuses to start a run whose variables the daemon does not have.
    for name in ("code", "webserver", "daemon"):
        assert set(RUN_ENVIRONMENT) <= set(found["services"][name]["environment"]), name
    assert set(found["x-environment"]) == set(RUN_ENVIRONMENT)
    assert {"DATABASE_URL", "MARKETDATA_RETENTION", "MARKETDATA_WEBHOOK_URL"} <= set(RUN_ENVIRONMENT)
    assert found["networks"]["default"]["name"] == NETWORK
    assert found["volumes"]["logs"]["name"] == COMPUTE_LOGS
    assert found["services"]["code"]["environment"]["DAGSTER_CURRENT_IMAGE"] == daemon["image"]
    (socket,) = [one for one in daemon["volumes"] if "docker.sock" in one]
    assert socket in found["services"]["webserver"]["volumes"]


def test_a_variable_that_compose_leaves_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RUN_ENVIRONMENT:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MASSIVE_API_KEY", "the-other-name")
    settings = load_settings()
    assert settings.polygon_api_key is not None
    assert settings.polygon_api_key.get_secret_value() == "the-other-name"
    assert (settings.retention, settings.start.year) == (None, 2020)


def test_the_ui_of_compose_is_open_to_this_machine_alone() -> None:
    published = [port for one in compose()["services"].values() for port in one.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_file_holds_a_secret() -> None:
    values = helm_values()
    assert "postgresqlPassword" not in values["postgresql"]
    assert not values["generatePostgresqlPasswordSecret"]
    for part in (
        values["dagsterWebserver"],
        values["dagsterDaemon"],
        values["dagster-user-deployments"]["deployments"][0],
    ):
        assert part["envSecrets"] == [{"name": SECRET}]
    example = (FOLDER / "compose" / ".env.example").read_text("utf-8")
    assert re.search(r"^POSTGRES_PASSWORD=$", example, re.MULTILINE)
    assert re.search(r"^POLYGON_API_KEY=$", example, re.MULTILINE)


def test_compose_accepts_its_file() -> None:
    command = next((one for one in (["docker", "compose"], ["docker-compose"]) if answers(one)), None)
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    done = subprocess.run(
        [*command, "--file", str(FOLDER / "compose" / "docker-compose.yml"), "config", "--quiet"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "POSTGRES_PASSWORD": "for-this-test"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def answers(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0
