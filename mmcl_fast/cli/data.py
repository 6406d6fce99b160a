"""Commands that look after the data of a stream."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, console, data, guarded, print_json
from mmcl_fast.errors import StreamError, UserError

if TYPE_CHECKING:
    from mmcl_fast.streams import Stream
    from mmcl_fast.streams.findings import Findings

SHOWN = 5  # findings of a kind that are printed
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # packed ones, to be told to unpack them
# What the files of a folder or a file are read as; a config can say more.
ENDINGS = {"tar": TARS, "table": (".csv", ".tsv", ".jsonl", ".parquet")}


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
        Path | None, typer.Option("--out", "-o", help="Write all that is wrong as JSONL.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; all cores where left out.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read data as a stream, decode every file, and say all that is wrong, the most harmful first.

    The exit code is 1 where something is wrong with files or classes, and 2 where no sample can be read.

    Example: `mmcl-fast data check demo/manifest.jsonl --out findings.jsonl`
    """
    from mmcl_fast import distributed, progress
    from mmcl_fast.streams import file_check
    from mmcl_fast.streams.data_check import survey
    from mmcl_fast.streams.findings import Findings

    found = Findings(collect=True)
    try:
        stream, settings = _stream(source, overrides or [], found)
    except StreamError as error:
        if not any(str(error).startswith(finding.reason) for finding in found):
            found.add("unreadable", error)
        if as_json:
            print_json({"modalities": [], "faults": [], "findings": [finding.record() for finding in found.sorted()]})
        _say(found, out)
        _write(out, found)
        raise typer.Exit(2) from None
    samples = stream.samples
    broken = file_check.check_files(
        samples, workers=workers or distributed.available_cores(), progress=progress.make(quiet), settings=settings
    )
    survey(stream, samples, broken, found)
    rows = [
        {
            "modality": m,
            "classes": sum(len(t.classes) for t in stream.tasks if t.modality == m),
            **{s: sum(len(t.split(s)) for t in stream.tasks if t.modality == m) for s in ("train", "val", "test")},
        }
        for m in stream.modalities
    ]
    if as_json:
        keys = {fault.key for fault in broken}
        records = [finding.record() for finding in found.sorted()]
        faults = [record for record in records if record["key"] in keys]
        print_json({"modalities": rows, "faults": faults, "findings": records})
    else:
        from rich.table import Table

        table = Table(title=f"{source}: {len(stream.classes)} classes", title_justify="left")
        for name in rows[0]:
            table.add_column(name, justify="left" if name == "modality" else "right")
        for row in rows:
            table.add_row(*map(str, row.values()))
        console().print(table)
        some = "1 file does not decode" if len(broken) == 1 else f"{len(broken)} files do not decode"
        print(some if broken else "every file decodes")
    _say(found, out, notes=not as_json)
    _write(out, found)
    if found.count("error") or found.count("warning"):
        raise typer.Exit(1)


def _write(out: Path | None, found: Findings) -> None:
    from mmcl_fast.streams.findings import findings_to_jsonl

    if out is not None:
        try:
            out.write_text(findings_to_jsonl(found.sorted()), encoding="ascii")
        except OSError as fault:
            raise UserError(f"{out}: can't be written ({fault.strerror}); give another --out") from None


def _say(found: Findings, out: Path | None, notes: bool = True) -> None:
    """The findings, the most harmful first, some of each kind."""
    sys.stdout.flush()
    for kind, own in itertools.groupby(found.sorted(), key=lambda finding: finding.kind):
        several = list(own)
        level = several[0].level
        if level == "note" and not notes:
            continue
        for finding in several[:SHOWN]:
            print(f"{level}: {finding.reason}", file=sys.stderr)
        if several[SHOWN:]:
            lists = f"{out} lists them" if out else "--out FILE lists them"
            print(f"{level}: and {len(several) - SHOWN} more of this kind ({kind}): {lists}", file=sys.stderr)


def _stream(source: str, overrides: list[str], found: Findings) -> tuple[Stream, dict[str, Any]]:
    """A stream with its broken files still in it, and the settings of a config's [media]; what else is wrong: found."""
    from mmcl_fast.media import MODALITIES
    from mmcl_fast.streams import Stream
    from mmcl_fast.streams.sources.manifest import MANIFEST_NAMES
    from mmcl_fast.streams.sources.text_table import is_text_table

    if source.endswith(".toml"):
        from mmcl_fast.config import load_config
        from mmcl_fast.runs.train import make_stream

        config = load_config(source, [*overrides, "stream.check=true", "stream.on_broken=skip"])
        return make_stream(config, findings=found), config.media.model_dump()
    if overrides:
        raise UserError(f"--set {overrides[0]}: {source} is no config (.toml)")
    if os.path.isdir(source):
        try:
            names = [name.lower() for name in os.listdir(source)]
        except OSError as error:
            raise UserError(f"{source}: {error.strerror}: make it readable or give another folder") from None
        if set(names) & set(MODALITIES):
            kind = "folder"
        elif set(names) & set(MANIFEST_NAMES):
            kind = "manifest"
        else:
            kind = next((k for k in ("tar", "table") if any(name.endswith(ENDINGS[k]) for name in names)), "folder")
    elif source.lower().endswith(TARS) or any(sign in source for sign in "{*?"):
        kind = "tar"
    elif os.path.exists(source):
        kind = "table" if is_text_table(Path(source)) else "manifest"
    else:
        raise UserError(f"{source}: no such folder, manifest, table, tar or config")
    return getattr(Stream, f"from_{kind}")(source, keep_empty=True, findings=found), {}
