"""Commands that look after the data of a stream."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, console, data, guarded, print_json
from mmcl_fast.errors import UserError

@data.command("check")
@guarded
def data_check(
    source: Annotated[Path, typer.Argument(help="A folder or a JSONL manifest.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write what is broken, and why, as JSONL.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; all cores where left out.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a folder or manifest as a stream, decode every file, and say all that is wrong.

    Exit code 2 when anything is broken. Example: `mmcl-fast data check demo/manifest.jsonl --out broken.jsonl`
    """
    from mmcl_fast import check, progress
    from mmcl_fast.streams import Stream, broken
    from mmcl_fast.streams.validate import validate_content

    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest")
    stream = (Stream.from_folder if source.is_dir() else Stream.from_manifest)(source, keep_empty=True)
    threads = workers or len(os.sched_getaffinity(0))
    found = check.faults(check.samples_of(stream), workers=threads, progress=progress.make(quiet))
    if out is not None:
        try:
            broken.write(out, found)
        except OSError as fault:
            raise UserError(f"{out}: can't be written ({fault.strerror}); give another --out") from None
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
        print_json({"modalities": rows, "faults": [asdict(sample) for sample in found]})
    else:
        from rich.table import Table

        table = Table(title=f"{source}: {len(stream.classes)} classes", title_justify="left")
        for name in rows[0]:
            table.add_column(name, justify="left" if name == "modality" else "right")
        for row in rows:
            table.add_row(*map(str, row.values()))
        console().print(table)
        print("every file decodes" if not found else f"{len(found)} files do not decode")
    for sample in found:
        print(f"error: {sample.reason}", file=sys.stderr)
    faulty = {sample.key for sample in found}
    validate_content([sample for sample in check.samples_of(stream) if sample.key not in faulty])
    if found:
        raise typer.Exit(2)
