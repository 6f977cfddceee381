"""``marketdata keys …``: the keys that allow programs to use the HTTP API from elsewhere or to change tracked symbols."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from marketdata_assets.cli.completion import complete_key
from marketdata_assets.cli.options import JsonArray, JsonObject
from marketdata_assets.domain.errors import ConfigurationError

app = typer.Typer(
    no_args_is_help=True,
    help="Manage keys of the HTTP API.",
    epilog="Example: marketdata keys create notebook",
)


@app.command(epilog="Example: marketdata keys create notebook")
def create(
    name: Annotated[str, typer.Argument(help="The key's owner: a person or a program.")],
    *,
    scope: Annotated[
        str, typer.Option(help="read, or admin, which also changes what is collected.")
    ] = "read",
    as_json: JsonObject = False,
) -> None:
    """Create a key and print it once; only its hash is stored. Running servers accept it within 5 seconds."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.keys import Scope, create_key

    if scope not in list(Scope):
        message = f"unknown scope {scope!r}: use read or admin"
        raise ConfigurationError(message)
    with open_store() as store:
        key = create_key(store.database, name, Scope(scope))
    if as_json:
        typer.echo(json.dumps({"name": name, "scope": scope, "key": key}))
        return
    typer.echo(key)
    typer.echo(f"{name} ({scope}): send it as X-API-Key; it cannot be shown again", err=True)


@app.command("list", epilog="Example: marketdata keys list --json")
def list_(
    *,
    as_json: JsonArray = False,
) -> None:
    """List the names of all keys, revoked ones included; the keys themselves are not stored."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.keys import list_keys

    with open_store() as store:
        keys = list_keys(store.database)
    rows = [
        {
            "name": key.name,
            "scope": key.scope.value,
            "created_at": key.created_at.isoformat(),
            "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        }
        for key in keys
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if rows:
        typer.echo("name\tscope\tcreated\tstate")
    for row in rows:
        ended = f"revoked {row['revoked_at']}" if row["revoked_at"] else "works"
        typer.echo(f"{row['name']}\t{row['scope']}\tcreated {row['created_at']}\t{ended}")
    if not rows:
        typer.echo("no keys yet: `marketdata keys create NAME` creates one", err=True)


@app.command(epilog="Example: marketdata keys revoke notebook")
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.", autocompletion=complete_key)],
) -> None:
    """Revoke a key permanently. Running servers refuse it within 5 seconds."""
    from marketdata_assets.cli.session import open_store
    from marketdata_assets.storage.keys import revoke_key

    with open_store() as store:
        revoke_key(store.database, name)
    typer.echo(f"{name}: revoked")
