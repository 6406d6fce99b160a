"""The command-line reference from the typer app: every command, argument, option, default and help text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer


def text() -> str:
    """Markdown of all commands, each under a heading of its own."""
    from mmcl_fast import cli

    group = typer.main.get_command(cli.app)
    return "\n".join([*_options_of_all(group), *_commands(group, "mmcl-fast")])


def _options_of_all(group: Any) -> Iterator[str]:
    yield from ("## Options before a command", "", "They stand between `mmcl-fast` and the command.", "")
    yield from _parameters(group)


def _commands(group: Any, words: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{words} {name}")
            continue
        yield from (f"## {words} {name}", "", *_help(command), "")
        yield from ("```text", f"{words} {name} {_usage(command)}", "```", "")
        yield from _parameters(command)


def _help(command: Any) -> list[str]:
    """A help text as Markdown paragraphs."""
    return inspect.cleandoc(command.help or "").splitlines()


def _usage(command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [f"{p.name.upper()}{'...' * (p.nargs == -1)}" for p in arguments]
    return " ".join([*(w if p.required else f"[{w}]" for w, p in zip(words, arguments)), "[OPTIONS]"])


def _parameters(command: Any) -> Iterator[str]:
    """A definition list of arguments and options, arguments first."""
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    context = typer.Context(command)
    for parameter in sorted(shown, key=lambda p: p.param_type_name != "argument"):
        yield from (
            _heading(parameter, context),
            f":   {_sentence(parameter.help or '')} {' '.join(_facts(parameter))}".rstrip(),
        )
        yield ""


def _heading(parameter: Any, context: typer.Context) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} `{parameter.metavar or parameter.display_type(context)}`"


def _facts(parameter: Any) -> Iterator[str]:
    if parameter.param_type_name == "argument" and parameter.required:
        yield "Required."
    least, most = parameter.min, parameter.max
    if least is not None or most is not None:
        yield f"{'At least' if most is None else 'From'} {least}{'' if most is None else f' to {most}'}."
    if parameter.multiple and "may be given" not in (parameter.help or "").lower():
        yield "May be given again."
    default = parameter.default
    if default not in (None, False, (), [], "") and not callable(default):
        yield f"Default: `{default}`."


def _sentence(words: str) -> str:
    words = " ".join(words.split())
    return words if not words or words.endswith((".", "`")) else words + "."
