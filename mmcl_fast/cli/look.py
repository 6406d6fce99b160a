"""Commands that use or show what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Device, Json, Run, app, check_device, console, guarded, one_of, print_json
from mmcl_fast.errors import UserError

@app.command()
@guarded
def predict(
    run: Run,
    files: Annotated[list[Path], typer.Argument(help="Files of any modality.", show_default=False)],
    modality: Annotated[
        str | None, typer.Option(help="Of all files; found from the content unless told.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each file.")] = 3,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what files are taken for; their modality need not be told.

    Example: `mmcl-fast predict runs/demo bark.wav street.mp4`
    """
    from mmcl_fast.media import MODALITIES

    if modality is not None:
        one_of("--modality", modality, MODALITIES)
    check_device(device)
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; give files to look at")
    from mmcl_fast.learning import Learner

    found = Learner.load(run, device=device).predict(files, modality=modality, top_k=top)
    if as_json:
        return print_json(
            [
                {
                    "file": str(p.file),
                    "modality": p.modality,
                    "contributions": p.contributions,
                    "labels": [
                        {"modality": m, "class": c, "probability": q}
                        for (m, c), q in zip(p.labels, p.probabilities)
                    ],
                }
                for p in found
            ]
        )
    from rich.table import Table

    table = Table()
    for name in ("file", "read as", "taken for", "prompts and gates from"):
        table.add_column(name, overflow="fold")
    for p in found:
        shares = sorted((p.contributions or {}).items(), key=lambda item: -item[1])
        table.add_row(
            str(p.file),
            p.modality,
            "\n".join(f"{q:6.1%}  {c} ({m})" for (m, c), q in zip(p.labels, p.probabilities)),
            "\n".join(f"{q:6.1%}  {m}" for m, q in shares if q >= 0.005) or "-",
        )
    console().print(table)


@app.command("report")
@guarded
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `mmcl-fast train`.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The HTML file; default: report.html in the first run folder.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page about one run, or about several side by side.

    Example: `mmcl-fast report runs/comm runs/ridge --out compare.html`
    """
    from mmcl_fast import report

    if len(runs) > 1 and out is None:
        raise UserError("report: several runs need --out FILE.html")
    print(f"report: {report.write(runs, out)}")


@app.command()
@guarded
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what this machine has, what is missing, and how to mend it.

    Example: `mmcl-fast doctor`
    """
    from mmcl_fast import doctor as examination

    findings = examination.examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        examination.show(findings, console())
    if any(finding.state == "broken" and finding.core for finding in findings):
        raise typer.Exit(1)
