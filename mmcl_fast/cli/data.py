"""Commands that look after the data of a stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, console, data, guarded, print_json
from mmcl_fast.errors import UserError

@data.command("check")
@guarded
def data_check(
    source: Annotated[Path, typer.Argument(help="A folder or a JSONL manifest.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 2,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a folder or manifest as a stream, decode every file, and say all that is wrong.

    Example: `mmcl-fast data check demo/manifest.jsonl`
    """
    from mmcl_fast import check, progress
    from mmcl_fast.streams import Stream

    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest")
    stream = (Stream.from_folder if source.is_dir() else Stream.from_manifest)(source, check=True)
    found = check.faults(check.samples_of(stream), workers=workers, progress=progress.make(quiet))
    rows = [
        {
            "modality": m,
            "classes": sum(len(t.classes) for t in stream.tasks if t.modality == m),
            **{
                s: sum(len(t.split(s)) for t in stream.tasks if t.modality == m)
                for s in ("train", "val", "test")
            },
        }
        for m in stream.modalities
    ]
    if as_json:
        print_json({"modalities": rows, "faults": found})
    else:
        from rich.table import Table

        table = Table(title=f"{source}: {len(stream.classes)} classes", title_justify="left")
        for name in rows[0]:
            table.add_column(name, justify="left" if name == "modality" else "right")
        for row in rows:
            table.add_row(*map(str, row.values()))
        console().print(table)
        print("every file decodes" if not found else f"{len(found)} files do not decode")
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if found:
        raise typer.Exit(2)
