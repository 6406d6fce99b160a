"""Commands that look after the data of a stream."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, console, data, guarded, print_json
from mmcl_fast.errors import UserError

if TYPE_CHECKING:
    from mmcl_fast.streams import Stream

ENDINGS = {"tar": (".tar",), "table": (".csv", ".tsv")}  # of what a folder or file is read as; a config can say more


@data.command("check")
@guarded
def data_check(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a manifest (.jsonl, .parquet), a table (.csv, .tsv), tars or a folder of them, or a config "
            "(.toml) whose [stream] to check, with its [media].",
            show_default=False,
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
    """Read data as a stream, decode every file, and say all that is wrong.

    The exit code is 1 where a file does not decode.

    Example: `mmcl-fast data check demo/manifest.jsonl --out broken.jsonl`
    """
    from mmcl_fast import check, parallel, progress
    from mmcl_fast.streams import broken
    from mmcl_fast.streams.validate import validate_content

    stream, settings = _stream(source, overrides or [])
    threads = workers or parallel.cores()
    samples = check.samples_of(stream)
    found = check.faults(samples, workers=threads, progress=progress.make(quiet), settings=settings)
    if out is not None:
        try:
            out.write_text(broken.to_jsonl(found))
        except OSError as fault:
            raise UserError(f"{out}: can't be written ({fault.strerror}); give another --out") from None
    rows = [
        {
            "modality": m,
            "classes": sum(len(t.classes) for t in stream.tasks if t.modality == m),
            **{s: sum(len(t.split(s)) for t in stream.tasks if t.modality == m) for s in ("train", "val", "test")},
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
    if not stream.official:
        validate_content([sample for sample in samples if sample.key not in faulty])
    if found:
        raise typer.Exit(1)


def _stream(source: str, overrides: list[str]) -> tuple[Stream, dict[str, Any]]:
    """A stream with its broken files still in it, and the settings of a config's [media]."""
    from mmcl_fast.media import MODALITIES
    from mmcl_fast.streams import Stream

    if source.endswith(".toml"):
        from mmcl_fast import config as configs
        from mmcl_fast.learning.run import make_stream

        config = configs.load(source, [*overrides, "stream.check=true", "stream.on_broken=skip"])
        return make_stream(config), config.media.model_dump()
    if overrides:
        raise UserError(f"--set {overrides[0]}: {source} is no config (.toml)")
    if os.path.isdir(source):
        names = [name.lower() for name in os.listdir(source)]
        if set(names) & set(MODALITIES):
            kind = "folder"
        else:
            kind = next((k for k in ("tar", "table") if any(name.endswith(ENDINGS[k]) for name in names)), "folder")
    elif source.endswith(".tar") or any(sign in source for sign in "{*?"):
        kind = "tar"
    elif os.path.exists(source):
        kind = "table" if source.lower().endswith(ENDINGS["table"]) else "manifest"
    else:
        raise UserError(f"{source}: no such folder, manifest, table, tar or config")
    return getattr(Stream, f"from_{kind}")(source, keep_empty=True), {}
