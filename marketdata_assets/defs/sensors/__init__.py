"""Sensors: the automatic reactions to events in the store and in Dagster's instance. One module each.

Belongs here: what a sensor watches, and which runs it requests. Does not belong here: when something is requested
again (``domain.maintenance``), and the record of requests (``storage.maintenance``): a sensor keeps no state of its own, except
for the alerts that ``watch`` has sent.
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
    """Return every sensor of the platform, with ``clock`` as the clock."""
    return [
        matrix_sensor(clock),
        series_sensor(clock),
        repair_sensor(clock),
        run_failure_alerts(),
        watch_sensor(clock),
    ]
