"""The layout of ``--help``: paragraphs are wrapped to the terminal, and flags show no type."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from marketdata_assets.domain.wording import one_line

if TYPE_CHECKING:
    import typer


class _Flag(TyperOption):
    """A flag: its type, ``<bool>``, would look as if the option took a value."""

    def display_type_rich(self, ctx: Any) -> str | None:  # noqa: ANN401, ARG002 - typer's own class of contexts is private
        """Return nothing to show in the column of types."""
        return None


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's own classes are private
        """Return the options, those of help included, with flags that show no type."""
        return _hide_types_of_flags(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's own classes are private
        """Return the options of the group, with flags that show no type."""
        return _hide_types_of_flags(super().get_params(ctx))


def _hide_types_of_flags(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag:
            param.__class__ = _Flag
    return params


def lay_out_help(app: typer.Typer) -> None:
    """Change the layout of the help of every command of ``app`` and of its groups.

    Call this function after all commands are registered.
    """
    app.info.cls = _Group
    for command in app.registered_commands:
        command.cls = _Command
        command.help = join_lines(command.help or inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            lay_out_help(group.typer_instance)


def join_lines(text: str) -> str:
    """Return ``text`` with each paragraph on one line: the width of the source is not the terminal's."""
    return "\n\n".join(one_line(paragraph) for paragraph in inspect.cleandoc(text).split("\n\n"))
