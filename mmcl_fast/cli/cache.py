"""Commands that look after the trunk cache."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, cache, console, guarded, print_json
from mmcl_fast.errors import UserError

Folder = Annotated[
    Path | None, typer.Option("--folder", help="The cache's folder; default: the user's.", show_default=False)
]


@cache.command("ls")
@guarded
def cache_ls(folder: Folder = None, as_json: Json = False, debug: Debug = False) -> None:
    """Say what the trunk cache holds, the last used encoder first.

    Example: `mmcl-fast cache ls`
    """
    from mmcl_fast.feature_cache.store import usage

    root = _folder(folder)
    stores = usage(root)
    if as_json:
        return print_json({"folder": str(root), "stores": [vars(store) for store in stores]})
    from rich.table import Table

    table = Table(title=str(root), title_justify="left")
    for name in ("store", "encoder", "device"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "shards", "GB", "last used"):
        table.add_column(name, justify="right")
    for store in stores:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.used)) if store.used else "-"
        table.add_row(
            store.store[:12],
            store.encoder,
            store.device,
            str(store.samples),
            str(store.shards),
            f"{store.bytes / 1e9:.3f}",
            used,
        )
    console().print(table)
    print(f"{sum(store.bytes for store in stores) / 1e9:.3f} GB in all")


@cache.command("clear")
@guarded
def cache_clear(
    encoder: Annotated[
        str | None, typer.Option(help="Only this encoder's, by its name or store as in `cache ls`.", show_default=False)
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what was last used before.", show_default=False)
    ] = None,
    folder: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: Debug = False,
) -> None:
    """Delete what the trunk cache holds, or a part of it; it is computed again when needed.

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
            raise UserError(f"--encoder {encoder}: nothing of it in {root}; see mmcl-fast cache ls")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"cache clear deletes from {root}: give --yes where nobody can be asked")
        what = f"trunk tokens of {encoder}" if encoder else "trunk tokens"
        typer.confirm(f"Delete {what} in {root}?", abort=True)
    seconds = (older_than or 0) * 86400
    shards, size = clear(root, stores, older=seconds)
    print(f"deleted {shards} shards, {size / 1e9:.3f} GB, from {root}")


def _folder(folder: Path | None) -> Path:
    from mmcl_fast.feature_cache.cache import default_folder

    if folder is not None and not folder.is_dir():
        raise UserError(f"--folder {folder}: no such folder; give the train.cache of a config")
    return folder or default_folder()
