"""The commands train and evaluate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.cli.common import (
    Debug,
    Device,
    Json,
    Quiet,
    Run,
    app,
    check_device,
    explain_stop,
    handle_errors,
    make_console,
    print_json,
    process_count,
    require_choice,
)
from mmcl_fast.errors import RunError

if TYPE_CHECKING:
    from mmcl_fast.learning import Evaluation


@app.command()
@handle_errors
def train(
    config: Annotated[
        str,
        typer.Argument(
            help="A folder of your own files, a TOML file, or a config that ships (demo, clip). With --resume and "
            "without --out: the run folder."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder to write.", show_default=False)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where the run stopped. Without --out: with the run's own config. With --out: CONFIG must be "
            "the config of the run.",
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of the config. Repeat it for more keys. With --resume: only keys that do not change "
            "what is learned. `mmcl-fast options METHOD` lists the options of a method.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Number of processes on this machine that learn together, one per GPU or sharing the cores. Without "
            "it: one process, or as many as torchrun started.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Keep no pictures, texts or trunk tokens of samples in the run folder, as train.private=true does.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a stream, task after task, into a run folder with a report.

    Example: `mmcl-fast train demo --out runs/demo --set method.options.epochs=5`. If it was stopped:
    `mmcl-fast train --resume runs/demo`
    """
    from mmcl_fast.config import load_config, read_run_config

    overrides = [*(overrides or ()), *(["train.private=true"] if private else [])]
    if out is None and not resume:
        raise RunError("--out: missing; name the run folder to write, or give --resume RUN to go on with one")
    if out is None:
        out = Path(config)
        settings = read_run_config(out, overrides)
    else:
        settings = load_config(config, overrides)
    check_device(settings.train.device)
    from mmcl_fast import distributed, plugins, progress, runs

    changes = [part for text in overrides for part in ("--set", text)]

    def resume_command() -> str:
        begun = (out / "config.json").is_file()
        words = ["--resume", str(out)] if begun else [config, "--out", str(out), *changes]
        count = process_count(devices)
        words += ["--devices", str(count)] if count > 1 else []
        return shlex.join(["mmcl-fast", *plugins.command_options(), "train", *words])

    if devices is not None:
        from mmcl_fast.cli import launch

        launch.check_device_count(devices, settings.train.device)
        if devices > 1:
            flags = {"--resume": resume, "--quiet": quiet, "--json": as_json, "--debug": debug}
            words = ["train", config, *changes, *(flag for flag, given in flags.items() if given)]
            words += [] if out == Path(config) and resume else ["--out", str(out)]
            raise typer.Exit(launch.run_processes(words, devices, resume_command))
    with explain_stop(lambda: f"go on with: {resume_command()}", debug):
        distributed.init_process_group(settings.train.device)
        display = progress.make(quiet or not distributed.is_main_process())
        result = runs.train(settings, out, resume=resume, progress=display)
    main = distributed.is_main_process()
    distributed.destroy_process_group()
    if not main:
        return
    from mmcl_fast import report

    for warning in result.warnings:
        print(f"note: {warning}", file=sys.stderr)
    page = report.write(out)
    if as_json:
        return print_json(result.summary)
    from mmcl_fast.report.console import print_tables

    print_tables(result.summary, make_console())
    print(f"report: {page}")


@app.command()
@handle_errors
def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(
            help="Labelled samples of known classes: a folder, manifest, table or tars. Without it: the run's tasks.",
            show_default=False,
        ),
    ] = None,
    setting: Annotated[str, typer.Option(help="agnostic, given or both.")] = "both",
    split: Annotated[
        str | None,
        typer.Option(help="train, val or test. Without it: test, or all samples of DATA.", show_default=False),
    ] = None,
    unknown: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Count the samples that are flagged as unknown, at this rate of false alarms, such as 0.05. DATA may "
            "then hold classes that were not learned. They do not count for accuracy.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Decoding threads.")] = 2,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run on the tasks that it has learned so far, or on other labelled data.

    With `--json` the right answers and confusions of each class are listed, and every sample with its answer.

    Example: `mmcl-fast evaluate runs/demo --split val`, or `mmcl-fast evaluate runs/demo labelled --unknown 0.05`
    """
    require_choice("--setting", setting, ("agnostic", "given", "both"))
    if split is not None:
        require_choice("--split", split, ("train", "val", "test"))
    check_device(device)
    from mmcl_fast import progress, runs

    found = runs.evaluate(
        run,
        data,
        setting=setting,
        split=split,
        unknown=unknown,
        device=device,
        workers=workers,
        progress=progress.make(quiet),
    )
    result = found.result
    if as_json:
        return print_json(
            {
                "tasks": result.names,
                "count": result.counts,
                "correct": result.correct,
                "accuracy": {name: result.accuracy(name) for name in result.correct},
                "classes": _class_rows(result),
                "samples": _sample_rows(result),
                **({} if found.flagged is None else {"unknown": found.flagged.values()}),
            }
        )
    if data is None:
        tasks = f"after {found.tasks_learned} of {found.tasks_total} tasks"
        print(f"Accuracy in % on the {split or 'test'} split {tasks}")
    else:
        print(f"Accuracy in % on {sum(result.counts)} samples of {data}")
    print(result.table())
    if found.flagged is not None:
        print(f"Flagged as unknown at a rate of {100 * found.flagged.rate:g} %")
        print(found.flagged.table())
    print(*(f"Note: {line}" for line in found.notes), sep="\n")


def _class_rows(result: Evaluation) -> list[dict[str, Any]]:
    """Return for each class of each task its samples, right answers and confusions."""
    rows = []
    confusions = {name: result.top_confusions(name, sum(result.counts)) for name in result.predicted}
    correct = {name: result.by_class(name) for name in result.predicted}
    for i, (task, classes) in enumerate(zip(result.names, result.classes)):
        for k, (modality, name) in enumerate(classes):
            rows.append(
                {
                    "task": task,
                    "class": [modality, name],
                    "count": sum(label == (modality, name) for label in result.labels[i]),
                    "correct": {s: correct[s][i][k] for s in correct},
                    "taken_for": {s: [[list(c), n] for c, n in confusions[s][i][k]] for s in confusions},
                }
            )
    return rows


def _sample_rows(result: Evaluation) -> list[dict[str, Any]]:
    """Return every sample with its true class and the class predicted in each setting."""
    return [
        {
            "key": sample.key,
            "path": None if sample.path is None else str(sample.path),
            "class": list(label),
            "predicted": {s: list(result.predicted[s][i][k]) for s in result.predicted},
        }
        for i, samples in enumerate(result.samples)
        for k, (sample, label) in enumerate(zip(samples, result.labels[i]))
    ]
