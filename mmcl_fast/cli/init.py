"""The commands that write a config to start from, and that list the options of a method."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, app, handle_errors, make_console, print_json
from mmcl_fast.errors import UserError


@app.command("init")
@handle_errors
def init(
    name: Annotated[str, typer.Argument(help="A config that ships (folder, demo, clip...) or a TOML file.")] = "folder",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; default: NAME.toml.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key, for example method.name=ridge; may be given again."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a config with every key in it, each with its meaning, type, limits and default.

    Example: `mmcl-fast init folder --out mine.toml`
    """
    from mmcl_fast.config import load_config
    from mmcl_fast.config.template import config_to_toml

    written = config_to_toml(load_config(name, overrides or ()), Path(name).stem)
    out = out or Path(f"{Path(name).stem}.toml")
    try:
        with open(out, "x", encoding="utf-8") as file:  # never overwrites
            file.write(written)
    except FileExistsError:
        raise UserError(f"{out}: is there already; give another --out") from None
    except OSError as fault:
        raise UserError(f"{out}: can't be written ({fault.strerror}); give another --out") from None
    print(f"written: {out}; learn with: {shlex.join(['mmcl-fast', 'train', str(out), '--out', f'runs/{out.stem}'])}")


@app.command("options")
@handle_errors
def options(
    method: Annotated[str, typer.Argument(help="A method's name.")] = "comm",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the options of a method: accepted values, what `tune` searches, default, and purpose of each.

    Set one with `--set method.options.NAME=VALUE`, or in a config below `[method.options]`.

    Example: `mmcl-fast options ridge`
    """
    from dataclasses import asdict

    from mmcl_fast.config.reference import option_entries
    from mmcl_fast.methods import METHODS

    entries = list(option_entries(method))
    if as_json:
        return print_json([asdict(entry) for entry in entries])
    from rich.markup import escape
    from rich.table import Table

    head = ("option", "values", "tune searches", "default", "what it does")
    table = Table(*head, title=f"Options of {method}", title_justify="left")
    for entry in entries:
        table.add_row(*map(escape, (entry.name, entry.expected, entry.search, entry.default_text, entry.help)))
    make_console().print(table if entries else f"{method} has no options")
    print(f"Methods: {', '.join(METHODS)}")
