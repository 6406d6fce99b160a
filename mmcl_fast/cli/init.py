"""The command that writes a config to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, app, guarded
from mmcl_fast.errors import UserError


@app.command("init")
@guarded
def init(
    name: Annotated[str, typer.Argument(help="A config that ships (folder, demo, clip...) or a TOML file.")] = "folder",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; NAME.toml unless told.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a config with every key in it, each with its meaning, type, limits and default.

    Example: `mmcl-fast init folder --out mine.toml`
    """
    from mmcl_fast.config import load as configs
    from mmcl_fast.config import template

    written = template.text(configs.load(name), Path(name).stem)
    out = out or Path(f"{Path(name).stem}.toml")
    try:
        with open(out, "x", encoding="utf-8") as file:
            file.write(written)
    except FileExistsError:
        raise UserError(f"{out}: is there already; give another --out") from None
    except OSError as fault:
        raise UserError(f"{out}: can't be written ({fault.strerror}); give another --out") from None
    print(f"written: {out}; learn with: {shlex.join(['mmcl-fast', 'train', str(out), '--out', f'runs/{out.stem}'])}")
