"""``python -m benchmarks [NAME ...] [--quick] [--repeat N]``: run benchmarks, print one table."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import best_of
from benchmarks.isolated import measured
from benchmarks.server import private_server

NAMES = (
    "merge",
    "ingest",
    "dagster_runs",
    "limiter",
    "gaps",
    "gap_report",
    "features",
    "feature_store",
    "api",
    "daily_run",
    "partition_page",
)


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Which of {', '.join(NAMES)}; default all.")
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the rows: to try it out.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Measure so often and print the best.")] = 1,
) -> None:
    """Measure the platform's throughput on this machine.

    Example: python -m benchmarks merge ingest --repeat 3
    """
    unknown = sorted(set(names or ()).difference(NAMES))
    if unknown:
        typer.echo(f"no benchmark is called {unknown[0]!r}: choose from {', '.join(NAMES)}", err=True)
        raise typer.Exit(2)
    chosen = [name for name in NAMES if not names or name in names]
    table = Table("benchmark", "figure", title=f"Best of {repeat}" if repeat > 1 else None)
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("beside it", overflow="fold")
    with private_server() as server_url:
        for name in chosen:
            typer.echo(f"measuring {name} ...", err=True)
            for figure in best_of([measured(name, server_url, quick=quick) for _ in range(repeat)]):
                beside = "\n".join(f"{peer} {_number(value)}" for peer, value in figure.beside.items())
                table.add_row(
                    name, figure.what, f"{_number(figure.value)} {figure.unit}", figure.target, beside
                )
            table.add_section()
    console = Console()
    # In a pipe there is no window to fit into: lines stay whole.
    console = console if console.is_terminal else Console(width=180)
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


if __name__ == "__main__":
    typer.run(main)
