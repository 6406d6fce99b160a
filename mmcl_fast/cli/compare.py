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
Methods = Annotated[
    str,
    typer.Option(
        help="Names of methods with commas between. An option follows its method after a colon: "
        "comm,ridge,ridge:features=z. stream.classes_per_task=none there learns one task per modality."
    ),
]
Seeds = Annotated[
    str, typer.Option(help="0..4 or 0,3,7. A seed fixes training, the order of the tasks, and which classes they have.")
]
Jobs = Annotated[int, typer.Option(help="Runs learned at once. They share the cores.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The folder to write; default: runs/compare-CONFIG, runs/ablate-CONFIG or runs/tune-CONFIG.",
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
    methods: Methods,
    seeds: Seeds = "0..4",
    jobs: Jobs = 1,
    out: Out = None,
    reference: Reference = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            help="A folder of `mmcl-fast tune`: each row takes the options that were chosen for it.", show_default=False
        ),
    ] = None,
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
    words = ["compare", config, "--methods", methods, *(("--tuned", str(tuned)) if tuned is not None else ())]
    words += _common_words(seeds, jobs, out, reference, overrides)
    _run_and_print(
        lambda: learn_and_compare(
            base,
            methods,
            seeds,
            out,
            jobs=jobs,
            reference=reference,
            tuned=tuned,
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
            help="Names with commas between: prompts, prompt_updates, scale_shift, class_targets, reading_prompts, "
            "aggregation, self_regularisation, assimilation, token_means, blending, relevance, realignment, drift, "
            "weighted, prompt_blocks, prompt_length, rank. Changes of options may follow: "
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


@app.command()
@handle_errors
def tune(
    config: ConfigName,
    methods: Methods,
    trials: Annotated[int, typer.Option(help="Trials of each row; the first one has the row's own options.")] = 16,
    seeds: Seeds = "0",
    jobs: Jobs = 1,
    out: Out = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose the options of methods on validation samples, with the same number of trials for every row.

    `mmcl-fast options METHOD` shows what is searched. An option that a row gives itself is not searched. `compare`
    takes the options that were chosen with `--tuned`. The same command resumes a search that was stopped.

    Example: `mmcl-fast tune demo --methods comm,ridge --trials 16 --set stream.validation=0.2 --out runs/tuned`
    """
    from mmcl_fast import progress
    from mmcl_fast.compare import tune as choose_options
    from mmcl_fast.compare.tuning import write_tuned
    from mmcl_fast.config import load_config

    base = load_config(config, overrides or ())
    check_device(base.train.device)
    out = out or Path("runs") / f"tune-{Path(config).stem}"
    words = ["tune", config, "--methods", methods, "--trials", str(trials)]
    words += _common_words(seeds, jobs, out, None, overrides)
    _run_and_print(
        lambda: choose_options(base, methods, trials, seeds, out, jobs=jobs, progress=progress.make(quiet)),
        words,
        out,
        as_json,
        write_tuned,
        ("tuned.json", "tuned.md"),
    )


def _common_words(
    seeds: str, jobs: int, out: Path, reference: str | None, overrides: Sequence[str] | None
) -> list[str]:
    words = ["--seeds", seeds, "--jobs", str(jobs), "--out", str(out)]
    words += ["--reference", reference] if reference is not None else []
    return words + [part for text in overrides or () for part in ("--set", text)]


def _run_and_print(
    run: Callable[[], dict[str, Any]],
    words: Sequence[str],
    out: Path,
    as_json: bool,
    write: Callable[[dict[str, Any]], str] | None = None,
    files: Sequence[str] = (),
) -> None:
    """Run a sweep and print its tables.

    Args:
        words: the command that resumes the sweep.
        write: makes text of the results; None: the tables of a comparison.
        files: the files that the sweep wrote into ``out``; none: the files of a comparison.
    """
    from mmcl_fast import plugins
    from mmcl_fast.compare.sweep import FILES
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
        print((write or tables.write_markdown)(results))
        print(f"written: {out}/{', '.join(files or FILES)}")
    if results["failed"]:
        cell, fault = next(iter(results["failed"].items()))
        raise UserError(
            f"{len(results['failed'])} cells failed, first {cell}: {fault}; the tables hold the others; "
            f"mend the fault, then go on with: {resume}"
        )
