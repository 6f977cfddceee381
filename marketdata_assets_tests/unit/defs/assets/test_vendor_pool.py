"""Who holds a place in the vendor's pool."""

from __future__ import annotations

from marketdata_assets.definitions import build_definitions
from marketdata_assets.defs.assets.fetching import VENDOR_POOL


def test_what_asks_the_vendor_holds_a_place_in_its_pool_and_nothing_else_does() -> None:
    ops = [one.op for one in build_definitions().resolve_asset_graph().assets_defs if one.is_executable]
    asking = {op.name for op in ops if "polygon" in op.required_resource_keys}
    assert {"ohlcv", "gap_report", "splits"} <= asking
    assert {op.name for op in ops if op.pool == VENDOR_POOL} == asking
