"""The commands ``mmcl-fast cache ls`` and ``mmcl-fast cache clear``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, cache, handle_errors, make_console, print_json
from mmcl_fast.errors import UserError

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="The cache's folder; default: the folder in the user's cache.", show_default=False),
]


@cache.command("ls")
@handle_errors
def cache_ls(folder: Folder = None, as_json: Json = False, debug: Debug = False) -> None:
    """List the stores of the feature cache, the last used one first.

    Example: `mmcl-fast cache ls`
    """
    from mmcl_fast.feature_cache.store import usage

    root = _folder(folder)
    stores = usage(root)
    if as_json:
        return print_json({"folder": str(root), "stores": [vars(store) for store in stores]})
    from rich.table import Table

    table = Table(title=str(root), title_justify="left")
    for name in ("store", "encoder", "device", "modality"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "shards", "GB", "last used"):
        table.add_column(name, justify="right")
    for store in stores:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.used)) if store.used else "-"
        table.add_row(
            store.store[:12],
            store.encoder,
            store.device,
            store.modality,
            str(store.samples),
            str(store.shards),
            f"{store.bytes / 1e9:.3f}",
            used,
        )
    make_console().print(table)
    print(f"{sum(store.bytes for store in stores) / 1e9:.3f} GB in all")


@cache.command("clear")
@handle_errors
def cache_clear(
    encoder: Annotated[
        str | None,
        typer.Option(help="Only this encoder, by its name or its store as in `cache ls`.", show_default=False),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="DAYS", help="Only shards that were not used for so many days.", show_default=False
        ),
    ] = None,
    folder: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without a question.")] = False,
    debug: Debug = False,
) -> None:
    """Delete the feature cache, or a part of it. Deleted features are computed again when needed.

    Example: `mmcl-fast cache clear --older-than 30 --yes`
    """
    from mmcl_fast.feature_cache.store import clear, usage

    root = _folder(folder)
    stores = None
    if encoder is not None:
        stores = [
            s.store for s in usage(root) if s.encoder == encoder or (len(encoder) >= 6 and s.store.startswith(encoder))
        ]
        if not stores:
            raise UserError(f"--encoder {encoder}: no store of it in {root}; see mmcl-fast cache ls")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"cache clear deletes from {root}: there is no terminal to ask at; give --yes")
        what = f"features of {encoder}" if encoder else "features"
        typer.confirm(f"Delete {what} in {root}?", abort=True)
    seconds = (older_than or 0) * 86400
    shards, size = clear(root, stores, older=seconds)
    print(f"deleted {shards} shards, {size / 1e9:.3f} GB, from {root}")


def _folder(folder: Path | None) -> Path:
    """Return ``--folder``, or the default. Raises UserError where it does not exist."""
    from mmcl_fast.feature_cache.cache import default_folder

    if folder is not None and not folder.is_dir():
        raise UserError(f"--folder {folder}: no such folder; give the train.cache of a config")
    return folder or default_folder()
