"""Sensors: what follows by itself when something has happened. One module each.

Belongs here: what a sensor watches, and which runs it asks for. Does not belong here: when something is asked for
again (``domain.upkeep``), and what is remembered of it (``storage.upkeep``): a sensor remembers nothing itself, but
for what ``watch`` has told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata_assets.defs.clock import read_utc_now
from marketdata_assets.defs.sensors.failures import run_failure_alerts
from marketdata_assets.defs.sensors.matrix import matrix_sensor
from marketdata_assets.defs.sensors.repairs import repair_sensor
from marketdata_assets.defs.sensors.series import series_sensor
from marketdata_assets.defs.sensors.watch import watch_sensor

if TYPE_CHECKING:
    from dagster import SensorDefinition

    from marketdata_assets.defs.clock import Clock


def platform_sensors(clock: Clock = read_utc_now) -> list[SensorDefinition]:
    """Every sensor, with the clock that it goes by."""
    return [
        matrix_sensor(clock),
        series_sensor(clock),
        repair_sensor(clock),
        run_failure_alerts(),
        watch_sensor(clock),
    ]
