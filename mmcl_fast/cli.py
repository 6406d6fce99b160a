"""The command line: train, evaluate, predict, report, data check, doctor."""

from __future__ import annotations

import functools
import json
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl_fast.errors import RunError, UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="mmcl-fast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Teach one model image, video, audio, depth and text tasks, one after another.",
)
data = typer.Typer(no_args_is_help=True, help="Look after the data of a stream.")
app.add_typer(data, name="data")
bench = typer.Typer(no_args_is_help=True, help="Measure on this machine, in a checkout of the repository.")
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Run = Annotated[Path, typer.Argument(help="A run folder of `mmcl-fast train`.", show_default=False)]


class Stopped(Exception):
    """Ctrl-C, with the command that goes on from there."""

    def __init__(self, line: str):
        super().__init__(line)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of the input end a command with one line and exit code 2, an interrupt with 130."""

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **options: Any) -> None:
        try:
            command(*args, debug=debug, **options)
        except UserError as error:
            if debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, Stopped) as stop:
            print(f"\nstopped{': ' + str(stop) if str(stop) else ''}", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _check_device(name: str) -> None:
    import torch

    from mmcl_fast.config import DEVICE
    from mmcl_fast.errors import ConfigError

    if not re.fullmatch(DEVICE, name):
        raise ConfigError(f"device {name!r}: use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if name.startswith("cuda") and int(name.partition(":")[2] or "0") >= count:
        raise ConfigError(
            f"device {name!r}: torch finds {count} CUDA GPUs here; use cpu or auto "
            "(mmcl-fast doctor says what is missing)"
        )


@app.command()
@guarded
def train(
    config: Annotated[str, typer.Argument(help="A config that ships (demo, folder, clip) or a TOML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder to write.", show_default=False)],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished task of --out.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config; may be given again."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a stream, task after task, into a run folder with a report.

    Example: `mmcl-fast train demo --out runs/demo --set method.options.epochs=5`
    """
    from mmcl_fast import check, progress, report
    from mmcl_fast import config as configs

    settings = configs.load(config, overrides or ())
    _check_device(settings.train.device)
    going_on = resume and (out / "config.json").is_file()
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise RunError(f"{out}: is not empty; give --resume to go on with that run, or another --out")
    display = progress.make(quiet)
    from mmcl_fast.learning import run as runs

    try:
        stream = runs.make_stream(settings)
        if settings.stream.check and not going_on:
            check.require(stream, workers=settings.train.workers, progress=display)
        result = runs.train(settings, out, resume=resume, progress=display, stream=stream)
    except KeyboardInterrupt:
        again = ["mmcl-fast", "train", config, "--out", str(out)]
        again += [part for text in overrides or () for part in ("--set", text)]
        raise Stopped(
            f"go on after the last finished task with: {shlex.join([*again, '--resume'])}"
        ) from None
    page = report.write(out)
    if as_json:
        return _print_json(result.summary)
    console = _console()
    from mmcl_fast.report.console import show

    show(result.summary, console)
    print(f"report: {page}")


@app.command()
@guarded
def evaluate(
    run: Run,
    setting: Annotated[str, typer.Option(help="agnostic, given or both.")] = "both",
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Decoding threads.")] = 2,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate what a run has learned so far on the tasks that it has learned.

    Example: `mmcl-fast evaluate runs/demo --split val`
    """
    from mmcl_fast import config as configs
    from mmcl_fast import progress

    _one_of("--setting", setting, ("agnostic", "given", "both"))
    _one_of("--split", split, ("test", "val"))
    settings = configs.read(run)
    _check_device(device)
    from mmcl_fast.learning import Learner
    from mmcl_fast.learning.run import make_stream, notes

    stream = make_stream(settings)
    configs.check_data(run, stream.fingerprint)
    learner = Learner.load(
        run, device=device, cache_dir=settings.train.cache, workers=workers, progress=progress.make(quiet)
    )
    learned = {task["name"] for task in learner.tasks}
    result = learner.evaluate(
        [task for task in stream.tasks if task.name in learned], setting=setting, split=split
    )
    if as_json:
        return _print_json(
            {
                "tasks": result.names,
                "count": result.counts,
                "correct": result.correct,
                "accuracy": {name: result.accuracy(name) for name in result.correct},
            }
        )
    print(f"Accuracy in % on the {split} split after {len(learned)} of {len(stream)} tasks")
    print(result.table())
    print(*(f"Note: {line}" for line in notes(settings)), sep="\n")


@app.command()
@guarded
def predict(
    run: Run,
    files: Annotated[list[Path], typer.Argument(help="Files of any modality.", show_default=False)],
    modality: Annotated[
        str | None, typer.Option(help="Of all files; found from the content unless told.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each file.")] = 3,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what files are taken for; their modality need not be told.

    Example: `mmcl-fast predict runs/demo bark.wav street.mp4`
    """
    from mmcl_fast.media import MODALITIES

    if modality is not None:
        _one_of("--modality", modality, MODALITIES)
    _check_device(device)
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; give files to look at")
    from mmcl_fast.learning import Learner

    found = Learner.load(run, device=device).predict(files, modality=modality, top_k=top)
    if as_json:
        return _print_json(
            [
                {
                    "file": str(p.file),
                    "modality": p.modality,
                    "contributions": p.contributions,
                    "labels": [
                        {"modality": m, "class": c, "probability": q}
                        for (m, c), q in zip(p.labels, p.probabilities)
                    ],
                }
                for p in found
            ]
        )
    from rich.table import Table

    table = Table()
    for name in ("file", "read as", "taken for", "prompts and gates from"):
        table.add_column(name, overflow="fold")
    for p in found:
        shares = sorted((p.contributions or {}).items(), key=lambda item: -item[1])
        table.add_row(
            str(p.file),
            p.modality,
            "\n".join(f"{q:6.1%}  {c} ({m})" for (m, c), q in zip(p.labels, p.probabilities)),
            "\n".join(f"{q:6.1%}  {m}" for m, q in shares if q >= 0.005) or "-",
        )
    _console().print(table)


@app.command("report")
@guarded
def report_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `mmcl-fast train`.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The HTML file; default: report.html in the first run folder.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page about one run, or about several side by side.

    Example: `mmcl-fast report runs/comm runs/ridge --out compare.html`
    """
    from mmcl_fast import report

    if len(runs) > 1 and out is None:
        raise UserError("report: several runs need --out FILE.html")
    print(f"report: {report.write(runs, out)}")


@data.command("check")
@guarded
def data_check(
    source: Annotated[Path, typer.Argument(help="A folder or a JSONL manifest.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 2,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a folder or manifest as a stream, decode every file, and say all that is wrong.

    Example: `mmcl-fast data check demo/manifest.jsonl`
    """
    from mmcl_fast import check, progress
    from mmcl_fast.streams import Stream

    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest")
    stream = (Stream.from_folder if source.is_dir() else Stream.from_manifest)(source, check=True)
    found = check.faults(check.samples_of(stream), workers=workers, progress=progress.make(quiet))
    rows = [
        {
            "modality": m,
            "classes": sum(len(t.classes) for t in stream.tasks if t.modality == m),
            **{
                s: sum(len(t.split(s)) for t in stream.tasks if t.modality == m)
                for s in ("train", "val", "test")
            },
        }
        for m in stream.modalities
    ]
    if as_json:
        _print_json({"modalities": rows, "faults": found})
    else:
        from rich.table import Table

        table = Table(title=f"{source}: {len(stream.classes)} classes", title_justify="left")
        for name in rows[0]:
            table.add_column(name, justify="left" if name == "modality" else "right")
        for row in rows:
            table.add_row(*map(str, row.values()))
        _console().print(table)
        print("every file decodes" if not found else f"{len(found)} files do not decode")
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if found:
        raise typer.Exit(2)


@bench.command("ops")
@guarded
def bench_ops(
    select: Annotated[str, typer.Option(help="Cases by name: 'realign', '1024x1000 and float32'.")] = "",
    out: Annotated[str | None, typer.Option(help="Name of the results.", show_default=False)] = None,
    write_table: Annotated[bool, typer.Option("--write-table", help="Keep the fastest for `auto`.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="For each rival.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """Time the fused operations beside torch.compile, Liger, QuACK and others: one table, JSON kept.

    Example: `mmcl-fast bench ops --select 1024x1000 --seconds 0.2`
    """
    from mmcl_fast import bench as suite
    from mmcl_fast.ops.choice import TABLE

    arguments = ["--select", select] + (["--out", out] if out else [])
    arguments += ["--write-table", str(TABLE)] if write_table else []
    raise typer.Exit(suite.ops(arguments, seconds))


@app.command()
@guarded
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what this machine has, what is missing, and how to mend it.

    Example: `mmcl-fast doctor`
    """
    from mmcl_fast import doctor as examination

    findings = examination.examine()
    if as_json:
        _print_json([vars(finding) for finding in findings])
    else:
        examination.show(findings, _console())
    if any(finding.state == "broken" and finding.core for finding in findings):
        raise typer.Exit(1)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    from mmcl_fast.config import nearest

    if value not in known:
        raise UserError(f"{option} {value}: {nearest(value, known)} (one of {', '.join(known)})")


def _version(wanted: bool) -> None:
    if wanted:
        from mmcl_fast import __version__

        print(f"mmcl-fast {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Teach one model image, video, audio, depth and text tasks, one after another."""


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
