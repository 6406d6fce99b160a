"""The commands that teach a run more and look after its versions: learn, diff, history, rollback and prune."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl_fast.cli.common import (
    REFUSED,
    Debug,
    Json,
    Quiet,
    Run,
    app,
    explain_stop,
    handle_errors,
    make_console,
    print_json,
    process_count,
    require_choice,
)
from mmcl_fast.errors import RunError

if TYPE_CHECKING:
    from mmcl_fast.runs import Comparison, Version, VersionResult

MAX_CLASSES = 10  # classes of a printed comparison; --json has all
MAX_ANSWERS = 10  # changed answers, likewise
SCOPES = {"all": "all tasks", "modality": "modality", "task": "task", "class": "class"}


@app.command()
@handle_errors
def learn(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(
            help="The new data: a folder, manifest, table or tars, a TOML file, or a config that ships.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write a new run folder instead of a version.", show_default=False),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Refuse the new version if an old task, modality or class falls by more points, clear of chance.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the version that was stopped.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of the new data's [stream], such as stream.classes_per_task=4. Repeat it for more.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Number of processes on this machine that learn together, one per GPU or sharing the cores.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Teach a run more: new classes, more samples of known ones, or new modalities.

    The run gets a new version, which becomes the current one. A table shows what rose and what fell. If `--max-drop`
    refuses the version, it is kept, and the exit code is 4.

    Example: `mmcl-fast learn runs/demo new_classes --max-drop 1`
    """
    from mmcl_fast import distributed, progress, runs
    from mmcl_fast.config import read_run_config
    from mmcl_fast.learning.current_version import current_folder
    from mmcl_fast.learning.versions import require_run

    require_run(run)
    device = read_run_config(current_folder(run), [o for o in overrides or () if o.startswith("train.")]).train.device
    if devices is not None:
        from mmcl_fast.cli import launch

        launch.check_device_count(devices, device)
        if devices > 1:
            flags = {"--resume": resume, "--quiet": quiet, "--json": as_json, "--debug": debug}
            words = ["learn", str(run), *([] if data is None else [data]), *(f for f, given in flags.items() if given)]
            words += [] if out is None else ["--out", str(out)]
            words += [] if max_drop is None else ["--max-drop", str(max_drop)]
            words += [part for text in overrides or () for part in ("--set", text)]
            raise typer.Exit(launch.run_processes(words, devices, lambda: resume_command(run, out, devices)))
    with explain_stop(lambda: how_to_resume(run, out, devices, begun=resume), debug):
        distributed.init_process_group(device)
        main = distributed.is_main_process()
        found = runs.learn(
            run,
            data,
            out=out,
            overrides=overrides or (),
            max_drop=max_drop,
            resume=resume,
            progress=progress.make(quiet or not main),
        )
    distributed.destroy_process_group()
    if not main:
        return
    page = write_report(found)
    if as_json:
        print_json(
            {
                "folder": str(found.folder),
                "version": found.number,
                "refused": found.refused,
                "comparison": found.comparison.values(),
                "summary": found.run.summary,
            }
        )
    else:
        print_comparison(found.comparison)
        print(f"report: {page}")
        if found.refused:
            print(f"refused: {found.refused}")
            use = f"; to use it: mmcl-fast rollback {run} --to {found.number}" if out is None else f" in {out}"
            print(f"the new version is kept{use}")
        elif out is None:
            print(f"version {found.number} is current; to go back: mmcl-fast rollback {run}")
    if found.refused:
        raise typer.Exit(REFUSED)


@app.command()
@handle_errors
def diff(
    run: Run,
    before: Annotated[int, typer.Argument(help="Number of the first version.", show_default=False)],
    after: Annotated[int, typer.Argument(help="Number of the second version.", show_default=False)],
    setting: Annotated[str | None, typer.Option(help="agnostic, given or given_masked.", show_default=False)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two versions of a run on the test samples that both know.

    Example: `mmcl-fast diff runs/demo 1 2`
    """
    if setting is not None:
        require_choice("--setting", setting, ("agnostic", "given", "given_masked"))
    from mmcl_fast import runs

    found = runs.compare_versions(run, before, after, setting)
    if as_json:
        return print_json(found.values())
    print_comparison(found)


@app.command()
@handle_errors
def history(run: Run, as_json: Json = False, debug: Debug = False) -> None:
    """List the versions of a run: what each learned, when, and from what.

    Example: `mmcl-fast history runs/demo`
    """
    from mmcl_fast import runs
    from mmcl_fast.learning.current_version import current_version

    versions, current = runs.list_versions(run), current_version(run)
    if as_json:
        return print_json(
            {"current": current, "versions": [dataclasses.asdict(v) | {"folder": str(v.folder)} for v in versions]}
        )
    from rich.table import Table

    table = Table(box=None)
    for name in ("version", "parent", "learned at (UTC)", "tasks", "samples", "accuracy in %", "size in MB", "from"):
        table.add_column(name, justify="left" if name == "from" else "right", overflow="fold")
    for v in versions:
        table.add_row(
            f"{'* ' if v.number == current else ''}{v.number}",
            "" if v.parent is None else str(v.parent),
            v.created.removesuffix("+00:00").replace("T", " "),
            str(len(v.tasks)),
            str(v.samples),
            _state(v),
            f"{v.size / 1e6:.1f}",
            _short_path(v.source),
        )
    make_console().print(table)
    print("* is the current version; predict, serve, evaluate, report and export use it")


@app.command()
@handle_errors
def rollback(
    run: Run,
    to: Annotated[
        int | None, typer.Option(help="The version; without it: the parent of the current one.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Make another version the current one. Nothing is removed.

    Example: `mmcl-fast rollback runs/demo --to 1`
    """
    from mmcl_fast import runs

    version = runs.rollback(run, to)
    print(f"version {version.number} is current: {version.folder}")


@app.command()
@handle_errors
def prune(
    run: Run,
    versions: Annotated[
        list[int] | None, typer.Option("--version", help="Remove this version. Repeat it for more.", show_default=False)
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, help="Remove all but so many of the newest others.", show_default=False)
    ] = None,
    only_current: Annotated[bool, typer.Option("--only-current", help="Remove all others, version 1 too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    debug: Debug = False,
) -> None:
    """Remove versions of a run. The current one stays, and version 1 unless it is named.

    Example: `mmcl-fast prune runs/demo --keep 2`
    """
    from mmcl_fast import runs
    from mmcl_fast.learning.versions import require_run
    from mmcl_fast.runs.versions import prunable

    if (versions is not None) + (keep is not None) + only_current != 1:
        raise RunError("prune: give --keep N, --only-current, or --version N for each version to remove")
    require_run(run)
    chosen = prunable(run, keep, versions, only_current=only_current)
    if not chosen:
        print("nothing to remove")
        return
    size = sum(version.size for version in chosen) / 1e6
    names = ", ".join(str(version.number) for version in chosen)
    if not yes and not typer.confirm(f"Remove version {names} and free up to {size:.1f} MB?"):
        raise typer.Exit(1)
    runs.prune(run, keep=keep, numbers=versions, only_current=only_current)
    print(f"removed version {names}: up to {size:.1f} MB")


def resume_command(run: Path, out: Path | None = None, devices: int | None = None) -> str:
    """Return the command that goes on with a version of a run, or with the new run folder ``out``."""
    from mmcl_fast import plugins

    words = ["learn", str(run), "--resume", *(() if out is None else ("--out", str(out)))]
    count = process_count(devices)
    words += ["--devices", str(count)] if count > 1 else []
    return shlex.join(["mmcl-fast", *plugins.command_options(), *words])


def how_to_resume(run: Path, out: Path | None = None, devices: int | None = None, *, begun: bool = False) -> str:
    """Return the line that says how to go on. ``begun``: the command resumes what an earlier one began."""
    if begun or _has_begun(run, out):
        return f"go on with: {resume_command(run, out, devices)}"
    return "nothing was begun; give the same command again"


def write_report(found: VersionResult) -> Path:
    """Print the warnings of a new version, write its report, and return the page."""
    from mmcl_fast import report

    for warning in found.run.warnings:
        print(f"note: {warning}", file=sys.stderr)
    return report.write(found.folder)


def _has_begun(run: Path, out: Path | None) -> bool:
    """Return whether a version of the run, or the new run folder, can be resumed."""
    from mmcl_fast import runs

    if out is not None:
        return (out / "config.json").is_file()
    return any(not version.finished for version in runs.list_versions(run) if version.number != 1)


def _short_path(source: str) -> str:
    """Return a path relative to the current folder where it is inside, and else as it is."""
    path = Path(source)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else source


def _state(version: Version) -> str:
    """Return the accuracy of a version, and what else must be known of it."""
    if not version.finished:
        return "not finished"
    accuracy = "" if version.last is None else f"{version.last:.1f}"
    return f"{accuracy} (refused)" if version.refused else accuracy


def print_comparison(found: Comparison) -> None:
    """Print what rose and fell, and which answers changed."""
    from rich.table import Table

    table = Table(title=f"Accuracy on old test samples in %, {found.setting}", title_justify="left", box=None)
    for name in ("", "samples", "before", "after", "difference", "95 % interval"):
        table.add_column(name, justify="right" if name else "left")
    classes = sorted((d for d in found.differences if d.scope == "class" and d.fall > 0), key=lambda d: -d.fall)
    for d in [*(d for d in found.differences if d.scope != "class"), *classes[:MAX_CLASSES]]:
        name = SCOPES["all"] if d.scope == "all" else f"{SCOPES[d.scope]} {d.name}"
        table.add_row(
            name,
            str(d.samples),
            f"{d.before:.1f}",
            f"{d.after:.1f}",
            f"{0.0 - d.fall:+.1f}",
            f"{d.low:+.1f} to {d.high:+.1f}",
        )
    make_console().print(table)
    lost = [answer for answer in found.changed if answer.lost]
    gained = sum(answer.after == answer.label for answer in found.changed)
    total = next(d.samples for d in found.differences if d.scope == "all")
    print(f"{len(found.changed)} of {total} answers changed: {gained} became right, {len(lost)} became wrong")
    for answer in lost[:MAX_ANSWERS]:
        print(f"  {answer.key}: {answer.before} -> {answer.after}")
    if len(lost) > MAX_ANSWERS:
        print(f"  and {len(lost) - MAX_ANSWERS} more; --json lists all")
