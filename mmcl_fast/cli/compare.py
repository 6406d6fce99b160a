"""Commands that learn many runs and compare them in one table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmcl_fast.cli.common import CommandStopped, Debug, Json, Quiet, app, check_device, handle_errors, print_json
from mmcl_fast.errors import UserError

ConfigName = Annotated[
    str, typer.Argument(help="A folder of your own files, a TOML file, or a config that ships (demo, clip...).")
]
Seeds = Annotated[str, typer.Option(help="0..4 or 0,3,7. A seed fixes both training and the order of the tasks.")]
Jobs = Annotated[int, typer.Option(help="Runs learned at once. They share the cores.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The folder to write; default: runs/compare-CONFIG or runs/ablate-CONFIG.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config. May be given several times."),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="The row that the others are compared with; default: comm if it is there, else the first.",
        show_default=False,
    ),
]


@app.command()
@handle_errors
def compare(
    config: ConfigName,
    methods: Annotated[
        str,
        typer.Option(
            help="Names of methods with commas between. An option follows its method after a colon: "
            "comm,ridge,ridge:source=zq"
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
    """Learn a stream with several methods and seeds, and write tables, plots and tests of the differences.

    Finished runs are not learned again: the same command resumes a sweep that was stopped.

    Example: `mmcl-fast compare demo --methods comm,ridge,finetune --seeds 0..4 --jobs 2`
    """
    from mmcl_fast import progress
    from mmcl_fast.compare import compare as learn_and_compare
    from mmcl_fast.config import load_config

    base = load_config(config, overrides or ())
    check_device(base.train.device)
    out = out or Path("runs") / f"compare-{Path(config).stem}"
    words = ["compare", config, "--methods", methods, *_common_words(seeds, jobs, out, reference, overrides)]
    _run_and_print(
        lambda: learn_and_compare(
            base,
            methods,
            seeds,
            out,
            jobs=jobs,
            reference=reference,
            progress=progress.make(quiet),
            title=f"compare {config}",
        ),
        words,
        out,
        as_json,
    )


@app.command()
@handle_errors
def ablate(
    config: ConfigName,
    switches: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between: prompts, aggregation, self_regularisation, blending, relevance, "
            "realignment, drift, weighted, prompt_blocks, prompt_length, rank. Changes of options may follow: "
            "rank=8,drift=false:weighted=false. Default: all names.",
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
    """Learn a stream with COMM and with each of its parts changed, and write what `compare` writes.

    Example: `mmcl-fast ablate demo --switches prompts,blending,rank=8 --seeds 0..4 --jobs 2`
    """
    from mmcl_fast import progress
    from mmcl_fast.compare import ablate as learn_and_ablate
    from mmcl_fast.config import load_config

    base = load_config(config, overrides or ())
    check_device(base.train.device)
    out = out or Path("runs") / f"ablate-{Path(config).stem}"
    words = ["ablate", config, *(("--switches", switches) if switches is not None else ())]
    words += _common_words(seeds, jobs, out, reference, overrides)
    _run_and_print(
        lambda: learn_and_ablate(
            base,
            switches,
            seeds,
            out,
            jobs=jobs,
            reference=reference,
            progress=progress.make(quiet),
            title=f"ablate {config}",
        ),
        words,
        out,
        as_json,
    )


def _common_words(
    seeds: str, jobs: int, out: Path, reference: str | None, overrides: Sequence[str] | None
) -> list[str]:
    words = ["--seeds", seeds, "--jobs", str(jobs), "--out", str(out)]
    words += ["--reference", reference] if reference is not None else []
    return words + [part for text in overrides or () for part in ("--set", text)]


def _run_and_print(run: Callable[[], dict[str, Any]], words: Sequence[str], out: Path, as_json: bool) -> None:
    """Run a sweep and print its tables. ``words`` are the command that resumes the sweep."""
    from mmcl_fast import plugins
    from mmcl_fast.report import tables
    from mmcl_fast.runs.task_checkpoints import RunStopped

    resume = shlex.join(["mmcl-fast", *plugins.command_options(), *words])
    try:
        results = run()
    except RunStopped as stop:
        raise CommandStopped(f"go on with: {resume}", stop.signum) from None
    if as_json:
        print_json(results)
    else:
        from mmcl_fast.compare.sweep import FILES

        print(tables.write_markdown(results))
        print(f"written: {out}/{', '.join(FILES)}")
    if results["failed"]:
        cell, fault = next(iter(results["failed"].items()))
        count = len(results["failed"]) + sum(len(row["cells"]) for row in results["rows"])
        raise UserError(
            f"{len(results['failed'])} of {count} cells failed, first {cell}: {fault}; the tables hold the others; "
            f"mend the fault, then go on with: {resume}"
        )
