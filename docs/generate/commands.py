"""All commands with their arguments and options, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from clipjax.cli import app
from docs.generate.markdown import code, section, table, text


def commands_part() -> str:
    """A section for each command, after the options that come before every command."""
    root = typer.main.get_command(app)
    before = section("Before every command", _parameters(root))
    return before + "".join(section(path, *_command(path, each)) for path, each in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """The full name of each command, as "clipjax results list", and its object."""
    yield from _below("clipjax", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _below(f"{path} {name}", child)


def _command(path: str, command: Any) -> list[str]:
    usage = [
        path,
        *(_argument(each) for each in _arguments(command)),
        "[OPTIONS]",
    ]
    return [
        f"```text\n{' '.join(usage)}\n```",
        _help(command.help or ""),
        _parameters(command),
        _help(command.epilog or ""),
    ]


def _arguments(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "argument"]


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = name if parameter.nargs == 1 else f"{name}..."
    return name if parameter.required else f"[{name}]"


def _help(plain: str) -> str:
    """Paragraphs; those with lines that begin with spaces or a command are shown as they are."""
    shown = []
    for paragraph in plain.replace("\b", "").strip().split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        as_written = any(line.startswith((" ", "clipjax ")) for line in lines)
        shown.append("```text\n" + "\n".join(lines) + "\n```" if as_written else text(paragraph))
    return "\n\n".join(shown)


def _parameters(command: Any) -> str:
    """A table of the arguments and options."""
    rows = [
        _row(each) for each in command.params if not getattr(each, "hidden", False) and each.name != "help"
    ]
    return table(["option", "value", "default", "what it does"], rows) if rows else ""


def _row(parameter: Any) -> list[str]:
    is_argument = parameter.param_type_name == "argument"
    names = [_argument(parameter)] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    value = "" if is_argument else (parameter.metavar or "")
    return [" ".join(map(code, names)), code(value), _default(parameter), text(parameter.help or "")]


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "needed"
    if value in (None, (), [], "", False) or callable(value):
        return ""
    return code(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
