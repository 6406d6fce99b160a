"""The command that examines this machine."""

from __future__ import annotations

import typer

from mmcl_fast.cli.common import Debug, Json, app, handle_errors, make_console, print_json


@app.command()
@handle_errors
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """List what this machine has, what is missing, and how to mend it.

    Example: `mmcl-fast doctor`
    """
    from mmcl_fast.doctor import examine, show

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        show(findings, make_console())
    if any(finding.state == "broken" and finding.core for finding in findings):
        raise typer.Exit(1)
