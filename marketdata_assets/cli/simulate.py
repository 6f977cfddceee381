"""``marketdata simulate``: a simulated vendor on this machine, for development and tests without a key."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import Annotated

import typer


def simulate(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Loopback port; 0 picks a free one.")] = 8765,
    seed: Annotated[int, typer.Option(help="Chooses the market; the same seed gives the same bars.")] = 0,
    replay: Annotated[
        Path | None, typer.Option(help="Serve the bars of this folder's lean_*.parquet files instead.")
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Answer 429 above this many requests in any 60 seconds, per key."),
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="Accept only this key (repeatable). Default: any key.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Inject a fault, as KIND:name=value,... (repeatable); see the example."),
    ] = None,
) -> None:
    """Serve a simulated Polygon.io on 127.0.0.1 until Ctrl-C.

    Example: marketdata simulate --port 8765 --requests-per-minute 150
    --fault server_error:rate=0.05,status=503
    --fault lost_hours:ticker=SPY,start=2024-01-02T15:00:00Z,end=2024-01-02T16:00:00Z,returns_after=2

    Kinds of fault: rate_limit, server_error, timeout, reset, truncated_json, non_json, not_authorized,
    duplicated_bars, out_of_order_bars, invalid_bars, lost_hours, history_cut.

    Options of a fault: rate (share of requests or bars hit), ticker, start and end (UTC), skip and count (requests),
    active_from and active_until (seconds), status, retry_after, body, seconds, variant, returns_after (requests).
    """
    # Imported here, because NumPy, Polars and the server take a second that `marketdata --help` does not need.
    from marketdata_assets.simulator import (
        RunningSimulator,
        SimulatorConfig,
        parse_fault,
    )

    config = SimulatorConfig(
        seed=seed,
        replay=replay,
        api_keys=frozenset(api_key) if api_key else None,
        requests_per_minute=requests_per_minute,
        faults=tuple(parse_fault(text) for text in fault or ()),
    )
    simulator = RunningSimulator(config, port=port)
    key = "one of the --api-key keys" if api_key else "any key"
    typer.echo(
        f"vendor simulator at {simulator.url} (Ctrl-C stops it); to use it: "
        f"export POLYGON_BASE_URL={simulator.url} and set POLYGON_API_KEY to {key}"
    )
    simulator.run_until_interrupted()
