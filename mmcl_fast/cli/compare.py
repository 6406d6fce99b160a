"""Commands that learn many runs and set them beside each other."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import Debug, Json, Quiet, Stopped, app, check_device, guarded, print_json
from mmcl_fast.errors import ConfigError, UserError, suggest

if TYPE_CHECKING:
    from mmcl_fast.compare.cell import Cell
    from mmcl_fast.compare.rows import Row
    from mmcl_fast.config import Config

Name = Annotated[
    str, typer.Argument(help="A folder of your own files, a TOML file or a config that ships (demo, clip...).")
]
Seeds = Annotated[str, typer.Option(help="0..4 or 0,3,7; a seed is that of training and of the order of tasks.")]
Jobs = Annotated[int, typer.Option(help="Cells learned at once; the cores are shared out among them.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The folder to write; runs/compare-CONFIG or runs/ablate-CONFIG unless told.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config; may be given again."),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="The row that the others are compared with; comm, or the first, unless told.", show_default=False
    ),
]


@app.command()
@guarded
def compare(
    config: Name,
    methods: Annotated[
        str,
        typer.Option(
            help="Names with commas between; an option follows its method after a colon: comm,ridge,ridge:source=zq"
        ),
    ],
    seeds: Seeds = "0..4",
    jobs: Jobs = 1,
    out: Out = None,
    reference: Reference = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a stream with several methods and seeds; write tables, plots and tests of the differences.

    Cells that are finished are not learned again; the same command goes on with a sweep that was stopped.

    Example: `mmcl-fast compare demo --methods comm,ridge,finetune --seeds 0..4 --jobs 2`
    """
    from mmcl_fast.compare import rows
    from mmcl_fast.config import load_config

    base = load_config(config, overrides or ())
    _sweep(
        ["compare", config, "--methods", methods],
        base,
        rows.methods(methods, base),
        seeds,
        jobs,
        out,
        reference,
        overrides,
        quiet,
        as_json,
    )


@app.command()
@guarded
def ablate(
    config: Name,
    switches: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between, all unless told: prompts, aggregation, self_regularisation, blending, "
            "relevance, realignment, drift, weighted, prompt_blocks, prompt_length, rank; or changes of your own: "
            "rank=8,drift=false:weighted=false",
            show_default=False,
        ),
    ] = None,
    seeds: Seeds = "0..4",
    jobs: Jobs = 1,
    out: Out = None,
    reference: Reference = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a stream with COMM and with each of its switches thrown; write what `compare` writes.

    Example: `mmcl-fast ablate demo --switches prompts,blending,rank=8 --seeds 0..4 --jobs 2`
    """
    from mmcl_fast.compare import rows
    from mmcl_fast.config import load_config

    base = load_config(config, overrides or ())
    chosen, left_out = rows.switches(switches, base)
    for line in left_out if not quiet else ():
        print(line, file=sys.stderr)
    words = ["ablate", config, *(("--switches", switches) if switches is not None else ())]
    _sweep(words, base, chosen, seeds, jobs, out, reference, overrides, quiet, as_json)


def _again(seeds: str, jobs: int, out: Path, reference: str | None, overrides: Sequence[str] | None) -> list[str]:
    words = ["--seeds", seeds, "--jobs", str(jobs), "--out", str(out)]
    words += ["--reference", reference] if reference is not None else []
    return words + [part for text in overrides or () for part in ("--set", text)]


def _sweep(
    words: Sequence[str],
    base: Config,
    chosen: Sequence[Row],
    seeds: str,
    jobs: int,
    out: Path | None,
    reference: str | None,
    overrides: Sequence[str] | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Learn what is missing, then write and print the tables. ``words``: the command up to its common options."""
    from mmcl_fast import atomic_files as files
    from mmcl_fast import plugins as use
    from mmcl_fast import progress
    from mmcl_fast.compare import cell as cells
    from mmcl_fast.compare import display, rows, sweep
    from mmcl_fast.runs.task_checkpoints import Stop

    check_device(base.train.device)
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give a number from 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("torchrun: a sweep starts its own processes; start it alone, with --jobs")
    out = out or Path("runs") / f"{words[0]}-{Path(words[1]).stem}"
    again = shlex.join(["mmcl-fast", *use.words(), *words, *_again(seeds, jobs, out, reference, overrides)])
    titles = [row.title for row in chosen]
    if reference is None:
        reference = "comm" if "comm" in titles else titles[0]
    elif reference not in titles:
        raise ConfigError(f"--reference {reference}: no such row; {suggest(reference, titles)}")
    planned = cells.plan(base, chosen, rows.seeds(seeds), out)
    done = sum(cell.finished for cell in planned)
    if done and not quiet:
        print(f"{done} of {len(planned)} cells are finished already", file=sys.stderr)
    skipped = cells.check_data(planned, progress.make(quiet))
    with files.locked(out) as lock:
        try:
            with display.make(quiet, len(planned), done) as shown:
                faults = sweep.run(planned, jobs, shown, skipped=skipped, lock=lock)
        except Stop as stop:
            raise Stopped(f"go on with: {again}", stop.signum) from None
        results = _write(out, chosen, planned, faults, reference, " ".join(words[:2]))
    if as_json:
        print_json(results)
    else:
        from mmcl_fast.report import tables

        print(tables.markdown(results))
        print(f"written: {out}/table.md, table.csv, table.tex, results.json, report.html")
    if faults:
        cell, fault = next(iter(faults.items()))
        raise UserError(
            f"{len(faults)} of {len(planned)} cells failed, first {cell}: {fault}; the others are in the "
            f"table; when it is mended go on with: {again}"
        )


def _write(
    out: Path, rows: Sequence[Row], planned: Sequence[Cell], faults: dict[str, str], reference: str, title: str
) -> dict[str, Any]:
    from mmcl_fast import atomic_files as files
    from mmcl_fast.report import results as report
    from mmcl_fast.report import sweep as page
    from mmcl_fast.report import tables

    found = []
    for row in rows:
        own = [cell for cell in planned if cell.row is row]
        about = {
            "title": row.title,
            "method": row.method,
            "options": own[0].config.method.options,
            "encoder": own[0].config.encoder.model_dump(mode="json"),
        }
        found.append((about, {cell.seed: cell.folder for cell in own if cell.name not in faults}))
    results = report.collect(found, reference, faults)
    files.write_json(out / "results.json", results)
    for name, text in (
        ("table.md", tables.markdown(results)),
        ("table.tex", tables.latex(results)),
        ("table.csv", tables.csv_text(results)),
        ("report.html", page.page(results, title)),
    ):
        files.replace(out / name, text.encode())
    return results
