"""Tokens of the service: create, list, revoke."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import typer

from automl.commands.shared import AsJson, Storage, app, open_engine, print_json, quoted
from automl.errors import InvalidInput
from automl.team import DEFAULT_PROJECT, Scope, parse_scopes

Project = Annotated[str, typer.Option("--project", metavar="NAME", help="Whose token; a service knows its own.")]

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(_UNITS_S)}])")

token = typer.Typer(help="Tokens, with which people and workers reach a service.", rich_markup_mode=None)
app.add_typer(token, name="token", epilog="Example: automl token create ci --scopes read,submit")


@token.command(epilog="Example: automl token create gpu-3 --scopes work --project vision --expires 90d")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for histories.")],
    scopes: Annotated[str, typer.Option("--scopes", metavar="A,B", help=f"What for: {', '.join(Scope)}.")],
    project: Project = DEFAULT_PROJECT,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="90d", help="Good for so long: s, m, h, d or w; else for ever.")
    ] = None,
    storage: Storage = None,
) -> None:
    """Create a token and print it, this once."""
    given = parse_scopes(scopes)
    expires_s = None if expires is None else _seconds(expires)
    text, made = open_engine(storage, project).tokens.create(name, given, expires_s=expires_s)
    print(f"token {made.id} of {made.name} is for {', '.join(made.scopes)} in project {made.project}")
    print("Keep it now, as in AUTOML_TOKEN: it will not be shown again.")
    print(text)


@token.command(epilog="Example: automl token ls --project vision")
def ls(project: Project = DEFAULT_PROJECT, storage: Storage = None, as_json: AsJson = False) -> None:
    """List the tokens of a project, without their secrets."""
    from automl.report import token_table

    found = open_engine(storage, project).tokens.all()
    if as_json:
        print_json([asdict(item) for item in found])
    else:
        token_table(found)


@token.command(epilog="Example: automl token revoke 1f2e3d4c5b6a")
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID", help="Its id, or its name.")],
    project: Project = DEFAULT_PROJECT,
    storage: Storage = None,
) -> None:
    """End a token at once, wherever it is in use."""
    open_engine(storage, project).tokens.revoke(token)
    print(f"token {quoted(token)} is revoked")


def _seconds(span: str) -> float:
    """`90d` in seconds. Raises `InvalidInput`."""
    found = _SPAN.fullmatch(span.strip())
    if found is None or float(found[1]) == 0:
        raise InvalidInput(f"--expires: {span!r}; write a number and s, m, h, d or w, as in 90d", field="expires")
    return float(found[1]) * _UNITS_S[found[2]]
