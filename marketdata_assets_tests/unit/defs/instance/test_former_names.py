"""Copies of ``dagster.yaml`` from earlier versions go on working: the classes that they name are found."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import yaml
from dagster._serdes import ConfigurableClassData

from marketdata_assets_tests.conftest import REPOSITORY

FORMER = {
    "storage": ("marketdata_assets.storage.dagster_storage", "MarketDataStorage"),
    "run_launcher": ("marketdata_assets.automation.launcher", "LocalRunLauncher"),
}


def named_now() -> dict[str, tuple[str, str]]:
    """What the project's own ``dagster.yaml`` names."""
    settings = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text("utf-8"))
    named = {"storage": settings["storage"]["custom"], "run_launcher": settings["run_launcher"]}
    return {part: (one["module"], one["class"]) for part, one in named.items()}


@pytest.mark.parametrize("part", FORMER)
def test_a_copy_with_a_former_name_gets_what_the_present_name_means(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (module, name), (module_now, name_now) = FORMER[part], named_now()[part]
    assert module != module_now
    assert getattr(import_module(module), name) is getattr(import_module(module_now), name_now)
    # As Dagster makes an instance's parts, with a storage that needs no database.
    monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")
    assert ConfigurableClassData(module, name, "{}").rehydrate() is not None


@pytest.mark.parametrize("module", [module for module, _ in FORMER.values()])
def test_a_former_name_imports_no_dagster_until_it_is_asked(module: str) -> None:
    script = f"import sys, {module}; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute"):
        import_module(module).Other  # noqa: B018 - the question is what it raises


def test_every_class_of_this_package_that_a_file_of_settings_names_is_there() -> None:
    for path in (REPOSITORY / "dagster.yaml", REPOSITORY / "deploy" / "compose" / "dagster.yaml"):
        named = _classes(yaml.safe_load(path.read_text("utf-8")))
        own = [(module, name) for module, name in named if module.startswith("marketdata_assets.")]
        assert own, path
        for module, name in own:
            assert hasattr(import_module(module), name), (path, module)


def _classes(settings: object) -> list[tuple[str, str]]:
    if not isinstance(settings, dict):
        return []
    own = [(settings["module"], settings["class"])] if {"module", "class"} <= set(settings) else []
    return own + [found for value in settings.values() for found in _classes(value)]
