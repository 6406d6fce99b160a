"""The command that writes the report of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, app, handle_errors
from mmcl_fast.errors import UserError


@app.command("report")
@handle_errors
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
    """Write an HTML page about one run, or about several side by side, and the same as Markdown.

    Example: `mmcl-fast report runs/comm runs/ridge --out compare.html`
    """
    from mmcl_fast import report

    if len(runs) > 1 and out is None:
        raise UserError("report: several runs need --out FILE.html")
    print(f"report: {report.write(runs, out)}")
