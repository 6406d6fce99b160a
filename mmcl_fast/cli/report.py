"""Commands that show what was learned, and what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Json, app, console, guarded, print_json
from mmcl_fast.errors import UserError


@app.command("report")
@guarded
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `mmcl-fast train`.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The HTML file; default: report.html in the first run folder.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page about one run, or about several side by side, and beside it the same as Markdown.

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
