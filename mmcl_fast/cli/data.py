"""Commands that look after the data of a stream."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, console, data, guarded, print_json
from mmcl_fast.errors import UserError

if TYPE_CHECKING:
    from mmcl_fast.streams import Stream


@data.command("check")
@guarded
def data_check(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a manifest, or a config (.toml) whose [stream] and limits to check.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write what is broken, and why, as JSONL.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; all cores where left out.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a folder, a manifest or a config's data as a stream, decode every file, and say all that is wrong.

    Exit code 2 when anything is broken. Example: `mmcl-fast data check demo/manifest.jsonl --out broken.jsonl`
    """
    from mmcl_fast import check, progress
    from mmcl_fast.streams import broken
    from mmcl_fast.streams.validate import validate_content

    stream = _stream(source, overrides or [])
    threads = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
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


def _stream(source: str, overrides: list[str]) -> Stream:
    """Built with all that is at fault still in it, but for what makes it no stream at all."""
    from mmcl_fast.streams import Stream

    path = Path(source)
    if source.endswith(".toml"):
        from mmcl_fast import config as configs
        from mmcl_fast.learning.run import make_stream

        return make_stream(configs.load(source, [*overrides, "stream.check=true", "stream.on_broken=skip"]))
    if overrides:
        raise UserError(f"--set {overrides[0]}: {source} is no config (.toml)")
    if not path.exists():
        raise UserError(f"{source}: no such folder, manifest or config")
    return (Stream.from_folder if path.is_dir() else Stream.from_manifest)(path, keep_empty=True)
