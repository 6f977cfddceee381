"""``marketdata db …`` and ``marketdata migrate``: the market database from the command line.

Belongs here: arguments and output. Does not belong here: the management of a server (``storage``).
Errors are raised as :class:`MarketDataError`; the command line's entry point prints them.
"""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from marketdata_assets.cli.options import JsonObject
from marketdata_assets.config import load_settings
from marketdata_assets.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from marketdata_assets.config import Settings
    from marketdata_assets.storage.embedded import EmbeddedServer, ServerStatus

app = typer.Typer(
    no_args_is_help=True,
    help="Manage the database and the embedded Postgres server.",
    epilog="Example: marketdata db status",
)


@app.command(epilog="Example: marketdata db start")
def start(*, as_json: JsonObject = False) -> None:
    """Start the embedded server, creating it on first use. Does nothing if it is already running."""
    from marketdata_assets.storage.connection import redacted

    server = _require_embedded(load_settings())
    url = redacted(server.ensure_running())
    typer.echo(json.dumps(_facts(server.status())) if as_json else f"running: {url}")


@app.command(epilog="Example: marketdata db stop")
def stop(*, as_json: JsonObject = False) -> None:
    """Stop the embedded server and end its sessions. The data stay."""
    server = _require_embedded(load_settings())
    was_running = server.stop()
    if as_json:
        typer.echo(json.dumps({**_facts(server.status()), "was_running": was_running}))
    else:
        typer.echo("stopped" if was_running else "not running")


@app.command(epilog="Example: marketdata db status --json")
def status(*, as_json: JsonObject = False) -> None:
    """Show whether the database answers and can be used; exit with 1 if not."""
    from marketdata_assets.storage.connection import redacted, resolve_database_url
    from marketdata_assets.storage.embedded import EmbeddedServer
    from marketdata_assets.storage.migrations import find_obstacle

    settings = load_settings()
    obstacle = None
    if settings.database_url is not None:
        url = resolve_database_url(settings)
        obstacle = find_obstacle(url)
        facts: dict[str, object] = {
            "running": True,
            "embedded": False,
            "url": redacted(url),
            "obstacle": obstacle,
        }
        line = f"running: {redacted(url)} (DATABASE_URL)"
    else:
        found = EmbeddedServer(settings.home).status()
        facts = _facts(found)
        line = (
            f"running: port {found.port}, pid {found.pid}, data in {found.data}"
            if found.running
            else f"not running (data in {found.data}); start it with: marketdata db start"
        )
    typer.echo(json.dumps(facts) if as_json else line)
    if obstacle is not None:
        typer.echo(f"but it cannot be used: {obstacle}", err=True)
    if obstacle is not None or not facts["running"]:
        raise typer.Exit(1)


@app.command(epilog='Example: psql "$(marketdata db url --show-password)"')
def url(
    *,
    show_password: Annotated[
        bool, typer.Option("--show-password", help="Include the password, so that psql can use the URL.")
    ] = False,
) -> None:
    """Print the URL of the database, starting the embedded server when it is down."""
    from marketdata_assets.storage.connection import redacted, resolve_database_url

    found = resolve_database_url(load_settings())
    typer.echo(found if show_password else redacted(found))
    if not show_password:
        typer.echo("the password is left out: --show-password prints it", err=True)


@app.command(epilog="Example: marketdata db dump marketdata.dump")
def dump(
    file: Annotated[Path, typer.Argument(help="The file to write; an existing file is replaced.")],
    *,
    as_json: JsonObject = False,
) -> None:
    """Dump the whole database, Dagster's history included, to a file. Needs no Postgres programs of your own."""
    from marketdata_assets.cli.files import check_writable
    from marketdata_assets.storage.connection import resolve_database_url
    from marketdata_assets.storage.dumps import dump_database

    check_writable("FILE", file)
    size = dump_database(resolve_database_url(load_settings()), file)
    typer.echo(
        json.dumps({"file": str(file), "bytes": size}) if as_json else f"dumped: {file}, {size / 1e6:,.1f} MB"
    )


@app.command(epilog="Example: marketdata db restore marketdata.dump")
def restore(
    file: Annotated[Path, typer.Argument(help="A file written by `marketdata db dump`.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a database that is not empty.")] = False,
    as_json: JsonObject = False,
) -> None:
    """Restore a dump into an empty database, completely or not at all. Stop `marketdata up` first."""
    from marketdata_assets.storage.connection import redacted, resolve_database_url
    from marketdata_assets.storage.dumps import restore_database

    found = resolve_database_url(load_settings())
    restore_database(found, file, replace=replace)
    size = file.stat().st_size
    facts = {"file": str(file), "bytes": size, "url": redacted(found)}
    typer.echo(
        json.dumps(facts) if as_json else f"restored: {file}, {size / 1e6:,.1f} MB, into {redacted(found)}"
    )


def migrate(
    *,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="List pending migrations without applying them; exit with 1 if there are any."
        ),
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Migrate the database schema. Safe to repeat, and to run in several processes at once."""
    from marketdata_assets.storage import migrations
    from marketdata_assets.storage.connection import resolve_database_url

    database = resolve_database_url(load_settings())
    names = migrations.pending(database) if check else migrations.migrate(database)
    done = "pending" if check else "applied"
    if as_json:
        typer.echo(json.dumps({done: names}))
    else:
        for name in names:
            typer.echo(f"{done}: {name}")
        if not names:
            typer.echo("up to date")
    if names and check:
        raise typer.Exit(1)


def _facts(found: ServerStatus) -> dict[str, object]:
    return {
        "running": found.running,
        "embedded": True,
        "port": found.port,
        "pid": found.pid,
        "data": str(found.data),
    }


def _require_embedded(settings: Settings) -> EmbeddedServer:
    from marketdata_assets.storage.embedded import EmbeddedServer

    if settings.database_url is not None:
        message = "DATABASE_URL is set, so this command does not manage the server: unset it, or manage that server yourself"
        raise ConfigurationError(message)
    return EmbeddedServer(settings.home)
