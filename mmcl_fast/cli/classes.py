"""The commands for the classes of a run: classes, rename and remove."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, Run, app, explain_stop, handle_errors, make_console, print_json
from mmcl_fast.cli.versions import how_to_resume, print_comparison, write_report

if TYPE_CHECKING:
    from mmcl_fast.runs import VersionResult

MAX_TAKEN = 3  # wrong classes that are named for each class
NUMBERS = ("trained on", "tested on", "right in %", "confidence in %")


@app.command()
@handle_errors
def classes(run: Run, as_json: Json = False, debug: Debug = False) -> None:
    """List the classes of a run: samples, right answers, and what they are taken for.

    Example: `mmcl-fast classes runs/demo`
    """
    from mmcl_fast import runs

    found = runs.list_classes(run)
    if as_json:
        return print_json([dataclasses.asdict(one) for one in found])
    from rich.table import Table

    table = Table(box=None)
    for name in ("modality", "class", "trained on", "tested on", "right in %", "confidence in %", "taken for"):
        table.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold")
    for one in found:
        wrong = ", ".join(f"{name} {count}" for (_, name), count in one.taken_for[:MAX_TAKEN])
        numbers = ("" if value is None else f"{value:.1f}" for value in (one.accuracy, one.confidence))
        table.add_row(one.modality, one.name, str(one.train), str(one.test), *numbers, wrong)
    make_console().print(table)


@app.command()
@handle_errors
def rename(
    run: Run,
    old: Annotated[str, typer.Argument(help="The class: modality/name, or its name.", show_default=False)],
    new: Annotated[str, typer.Argument(help="The new name, without the modality.", show_default=False)],
    text: Annotated[
        str | None,
        typer.Option(help="The class text; without it: the new name, with spaces for underscores.", show_default=False),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rename a class of a run. The run gets a new version.

    Data with the former name still count as this class.

    Example: `mmcl-fast rename runs/demo image/bird robin`
    """
    from mmcl_fast import progress, runs

    with explain_stop(lambda: how_to_resume(run), debug):
        found = runs.rename(run, old, new, text=text, progress=progress.make(quiet))
    _print_edit(run, found, as_json)


@app.command()
@handle_errors
def remove(
    run: Run,
    name: Annotated[
        str, typer.Argument(metavar="CLASS", help="The class: modality/name, or its name.", show_default=False)
    ],
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Learn all tasks again without the class. That needs all other training data."),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take a class out of a run. The run gets a new version.

    Statistics, text, test samples, report pictures and cached trunk tokens of the class go. The command says what still
    holds a share of it. Older versions keep the class: `mmcl-fast prune RUN --only-current` removes them.

    Example: `mmcl-fast remove runs/demo image/bird`
    """
    from mmcl_fast import progress, runs

    with explain_stop(lambda: how_to_resume(run), debug):
        found, remains = runs.remove(run, name, retrain=retrain, progress=progress.make(quiet))
    _print_edit(run, found, as_json, {"remains": remains})
    if as_json:
        return
    for part in remains:
        print(f"still holds a share of the class: {part}")
    if remains:
        print("to be rid of that too: the same command with --retrain")
    print(f"older versions still hold the class; to remove them: mmcl-fast prune {run} --only-current")


def _print_edit(run: Path, found: VersionResult, as_json: bool, more: dict[str, Any] | None = None) -> None:
    """Write the report of a version that changed a class, and print what changed."""
    page = write_report(found)
    if as_json:
        values = {"folder": str(found.folder), "version": found.number, "comparison": found.comparison.values()}
        return print_json(values | (more or {}))
    print_comparison(found.comparison)
    print(f"report: {page}")
    print(f"version {found.number} is current; to go back: mmcl-fast rollback {run}")
