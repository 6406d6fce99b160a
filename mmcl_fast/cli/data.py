"""The commands ``mmcl-fast data ...``, which check the data of a stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, data, handle_errors, make_console, print_json
from mmcl_fast.errors import UserError

if TYPE_CHECKING:
    from mmcl_fast.runs.fix_leaks import Fix
    from mmcl_fast.streams import DataReport
    from mmcl_fast.streams.leaks import Leak


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
    group: Annotated[
        str,
        typer.Option(
            help="A rule as for stream.group: column:NAME, regex:PATTERN or duplicates. Without it: the config's.",
            show_default=False,
        ),
    ] = "",
    similar: Annotated[
        bool,
        typer.Option(
            "--similar", help="Also look for content that resembles other content, by the encoder's features."
        ),
    ] = False,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Take training samples that the test split also holds out of training. Files move into "
            "DATA/.left_out. Tables and manifests are written anew beside the old ones.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read data as a stream, decode every file, and report all that is wrong, the most harmful first.

    The exit code is 1 where something is wrong with files or classes, and 2 where no sample can be read.

    Example: `mmcl-fast data check demo/manifest.jsonl --out findings.jsonl`
    """
    from mmcl_fast import distributed, progress
    from mmcl_fast.runs.fix_leaks import fix_leaks
    from mmcl_fast.runs.make_stream import check_source
    from mmcl_fast.streams.findings import ERROR, LEVELS, WARNING, findings_to_jsonl, format_findings
    from mmcl_fast.streams.leaks import find_leaks, remaining_findings

    report = check_source(
        source,
        overrides or (),
        group=group,
        similar=similar,
        workers=workers or distributed.available_cores(),
        progress=progress.make(quiet),
    )
    leaks = find_leaks(report)
    fixed = fix_leaks(source, leaks, overrides or ()) if fix and leaks else None
    if as_json:
        print_json(_report_as_json(report, leaks, fixed))
    elif report.stream is not None:
        _print_counts(report, f"{source}: {len(report.stream.classes)} classes")
        for line in _leak_lines(leaks, fixed):
            print(line)
    sys.stdout.flush()
    # With --json the notes are in the JSON value, and the lines on standard error stay for what needs an answer.
    levels = LEVELS if report.stream is None or not as_json else (ERROR, WARNING)
    rest = f"{out or '--out FILE'} lists them"
    gone, stuck = (fixed.left_out, fixed.stuck) if fixed is not None else ((), ())
    remaining = remaining_findings(
        report.findings, [leak.leaves.key for leak in gone], [leak.leaves.key for leak in stuck]
    )
    for line in format_findings(remaining, levels, rest=rest):
        print(line, file=sys.stderr)
    if out is not None:
        try:
            out.write_text(findings_to_jsonl(report.findings.sorted()), encoding="ascii")
        except OSError as error:
            raise UserError(f"{out}: can't be written ({error.strerror}); give another --out") from None
    if report.stream is None:
        raise typer.Exit(2)
    if remaining.count(ERROR) or remaining.count(WARNING):
        raise typer.Exit(1)


@data.command("undo")
@handle_errors
def data_undo(
    place: Annotated[Path, typer.Argument(help="A folder such as DATA/.left_out/1.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Move back the files that `data check --fix` has moved.

    Example: `mmcl-fast data undo mine/.left_out/1`
    """
    from mmcl_fast.runs.fix_leaks import undo_moves

    count = undo_moves(place)
    print("1 file is back" if count == 1 else f"{count} files are back")


def _leak_lines(leaks: Sequence[Leak], fixed: Fix | None) -> Iterator[str]:
    """Give the lines that say which samples leak between splits, and what was done about them."""
    if leaks and fixed is None:
        samples = "1 sample leaks" if len(leaks) == 1 else f"{len(leaks)} samples leak"
        yield f"{samples} into another split; --fix leaves them out of training, and --json lists them"
    if fixed is not None and fixed.written:
        where = "they are in" if fixed.undo else "the others are in"
        yield f"left out of training: {len(fixed.left_out)}; {where} {fixed.written}"
    if fixed is not None and fixed.undo:
        yield f"to bring them back: {fixed.undo}"
    for leak in fixed.stuck if fixed is not None else ():
        yield f"not left out: {leak.leaves.key}: {leak.stuck}"


def _report_as_json(report: DataReport, leaks: Sequence[Leak], fixed: Fix | None) -> dict[str, Any]:
    broken_keys = {sample.key for sample in report.broken}
    records = [finding.record() for finding in report.findings.sorted()]
    faults = [record for record in records if record["key"] in broken_keys]
    values: dict[str, Any] = {
        "modalities": report.counts(),
        "held_out": [] if report.stream is None else [vars(held_out) for held_out in report.stream.held_out],
        "faults": faults,
        "findings": records,
        "leaks": [leak.record() for leak in (leaks if fixed is None else [*fixed.left_out, *fixed.stuck])],
    }
    if fixed is not None:
        values["fixed"] = {"left_out": len(fixed.left_out), "written": fixed.written, "undo": fixed.undo}
    return values


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
    for held_out in report.stream.held_out if report.stream is not None else ():
        print(held_out.line)
    count = len(report.broken)
    if not count:
        print("every file decodes")
    else:
        print("1 file does not decode" if count == 1 else f"{count} files do not decode")
