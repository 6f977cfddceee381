"""Sensors: what follows by itself when something has happened. One module each.

Belongs here: what a sensor watches, and which runs it asks for. Does not belong here: when something is asked for
again (``domain.upkeep``), and what is remembered of it (``storage.upkeep``): a sensor remembers nothing itself, but
for what ``watch`` has told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.sensors.failures import run_failure_alerts
from marketdata_assets.defs.sensors.matrix import matrix_sensor
from marketdata_assets.defs.sensors.repairs import repair_sensor
from marketdata_assets.defs.sensors.series import series_sensor
from marketdata_assets.defs.sensors.watch import watch_sensor

if TYPE_CHECKING:
    from dagster import SensorDefinition


def platform_sensors() -> list[SensorDefinition]:
    """Every sensor."""
    return [matrix_sensor(), series_sensor(), repair_sensor(), run_failure_alerts(), watch_sensor()]
