"""The commands ``mmcl-fast data ...``, which check the data of a stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, data, handle_errors, make_console, print_json
from mmcl_fast.errors import UserError

if TYPE_CHECKING:
    from mmcl_fast.streams import DataReport


@data.command("check")
@handle_errors
def data_check(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a manifest (.jsonl, .parquet), a table (.csv, .tsv), tars or a folder of them, or a config "
            "(.toml). Of a config [stream] and [media] are read.",
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
    """Read data as a stream, decode every file, and report all that is wrong, the most harmful first.

    The exit code is 1 where something is wrong with files or classes, and 2 where no sample can be read.

    Example: `mmcl-fast data check demo/manifest.jsonl --out findings.jsonl`
    """
    from mmcl_fast import distributed, progress
    from mmcl_fast.runs.make_stream import check_source
    from mmcl_fast.streams.findings import ERROR, LEVELS, WARNING, findings_to_jsonl, format_findings

    report = check_source(
        source, overrides or (), workers=workers or distributed.available_cores(), progress=progress.make(quiet)
    )
    if as_json:
        print_json(_report_as_json(report))
    elif report.stream is not None:
        _print_counts(report, f"{source}: {len(report.stream.classes)} classes")
    sys.stdout.flush()
    # With --json the notes are in the JSON value, and the lines on standard error stay for what needs an answer.
    levels = LEVELS if report.stream is None or not as_json else (ERROR, WARNING)
    rest = f"{out or '--out FILE'} lists them"
    for line in format_findings(report.findings, levels, rest=rest):
        print(line, file=sys.stderr)
    if out is not None:
        try:
            out.write_text(findings_to_jsonl(report.findings.sorted()), encoding="ascii")
        except OSError as error:
            raise UserError(f"{out}: can't be written ({error.strerror}); give another --out") from None
    if report.stream is None:
        raise typer.Exit(2)
    if not report.passed:
        raise typer.Exit(1)


def _report_as_json(report: DataReport) -> dict[str, Any]:
    broken_keys = {sample.key for sample in report.broken}
    records = [finding.record() for finding in report.findings.sorted()]
    faults = [record for record in records if record["key"] in broken_keys]
    return {"modalities": report.counts(), "faults": faults, "findings": records}


def _print_counts(report: DataReport, title: str) -> None:
    """Print a table of classes and samples by modality, and how many files do not decode."""
    from rich.table import Table

    rows = report.counts()
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "modality" else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    make_console().print(table)
    count = len(report.broken)
    if not count:
        print("every file decodes")
    else:
        print("1 file does not decode" if count == 1 else f"{count} files do not decode")
