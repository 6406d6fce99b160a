"""The command that exports what was learned for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, Run, app, handle_errors, print_json, require_choice


@app.command()
@handle_errors
def export(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write; default: RUN/export-FORMAT.", show_default=False),
    ] = None,
    format: Annotated[str, typer.Option(help="onnx or torch.")] = "onnx",
    force: Annotated[bool, typer.Option("--force", help="Replace an export that exists already.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write graphs that run without this package, with a model card, and compare them with the learner.

    Example: `mmcl-fast export runs/demo --format onnx --out demo-onnx`
    """
    from mmcl_fast.export import FORMATS, export_run

    require_choice("--format", format, tuple(FORMATS))
    exported = export_run(run, out, format=format, force=force)
    if as_json:
        record = {"folder": str(exported.folder), "differences": exported.differences, "files": exported.files}
        return print_json(record)
    for modality, differences in exported.differences.items():
        print(
            f"{modality}: largest difference from the learner {max(differences.values()):.1e} "
            f"({', '.join(f'{name} {value:.1e}' for name, value in differences.items())})"
        )
    print(f"{exported.folder}: {sum(exported.files.values()) / 1e6:.1f} MB; its README.md says how to run it")
