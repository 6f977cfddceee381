"""A simulated vendor: the endpoints of Polygon.io over a deterministic market or replayed files.

Belongs here: the vendor's answers, limits and faults. Does not belong here: code of the client, which the simulator
does not use, so that the two cannot share a misreading.
"""

from marketdata_assets.simulator.app import Simulator, create_app
from marketdata_assets.simulator.config import SimulatorConfig
from marketdata_assets.simulator.faults import Fault, FaultKind, Variant, parse_fault
from marketdata_assets.simulator.instruments import Split
from marketdata_assets.simulator.server import RunningSimulator

__all__ = [
    "Fault",
    "FaultKind",
    "RunningSimulator",
    "Simulator",
    "SimulatorConfig",
    "Split",
    "Variant",
    "create_app",
    "parse_fault",
]
