"""The command that predicts: files, folders and lines of text to classes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl_fast.cli.common import (
    Debug,
    Device,
    Json,
    Quiet,
    Run,
    app,
    check_device,
    handle_errors,
    make_console,
    require_choice,
)
from mmcl_fast.cli.output import to_json
from mmcl_fast.errors import UserError

if TYPE_CHECKING:
    from mmcl_fast.learning import Prediction
    from mmcl_fast.progress import Progress

FORMATS = ("table", "json", "csv")
COLUMNS = ("file", "status", "modality", "rank", "class", "class_modality", "probability", "contributions", "error")
ROWS_AT_ONCE = 64  # rows of a table that are laid out and printed together


@app.command()
@handle_errors
def predict(
    run: Run,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR|-",
            help="Files of any modality, folders, or - for lines of text from standard input. A folder gives all files "
            "below it in the order of their names, without hidden and system files.",
            show_default=False,
        ),
    ],
    modality: Annotated[
        str | None,
        typer.Option(help="The modality of all files; default: found from their content.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each file.")] = 3,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT,...",
            help="Texts to choose from in place of the classes learned. Prompts and re-alignment stay as they were "
            "learned, so a new class is scored by its text alone.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="table, json (one object a line) or csv (a row for each file and rank).")
    ] = "table",
    batch_size: Annotated[int, typer.Option(min=1, help="Files decoded and embedded together.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes.")] = 2,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict the classes of files, folders of files and lines of text. Their modality need not be given.

    A file that can't be read is named with the reason, the others are predicted, and the exit code is 1.

    Example: `mmcl-fast predict runs/demo bark.wav street.mp4 photos --top 1 --format csv`, or
    `mmcl-fast predict runs/demo photo.jpg --classes "a photo of a cat,a photo of a dog"`
    """
    from mmcl_fast import progress
    from mmcl_fast.media import MODALITIES

    require_choice("--format", form, FORMATS)
    if modality is not None:
        require_choice("--modality", modality, MODALITIES)
    check_device(device)
    from mmcl_fast.learning import Learner, find_inputs
    from mmcl_fast.media.engines import isolation

    isolation.prepare()  # worker processes start while the learner loads
    learner = Learner.load(run, device=device, workers=workers)
    predictions = learner.predictions(
        find_inputs(files),
        modality=modality,
        top_k=top,
        batch_size=batch_size,
        on_error="report",
        classes=None if classes is None else classes.split(","),
    )
    # On a terminal the predictions themselves show the progress.
    counter = _Counter(predictions, progress.make(quiet or sys.stdout.isatty()))
    if as_json:
        _print_json_list(counter)
    else:
        {"table": _print_table, "json": _print_json_lines, "csv": _print_csv}[form](counter)
    if not counter.total:
        raise UserError(f"{', '.join(map(str, files))}: no file and no line in it; give something to predict")
    if counter.failed:
        print(f"error: {counter.failed} of {counter.total} can't be read", file=sys.stderr)
        raise typer.Exit(1)


class _Counter:
    """Passes predictions on, counts them, and shows the progress."""

    def __init__(self, predictions: Iterable[Prediction], display: Progress):
        self.predictions, self.display, self.total, self.failed = predictions, display, 0, 0

    def __iter__(self) -> Iterator[Prediction]:
        with self.display.phase("predict") as phase:
            for prediction in self.predictions:
                self.total += 1
                self.failed += prediction.error is not None
                phase.advance()
                yield prediction


def _print_json_list(predictions: Iterable[Prediction]) -> None:
    """Print one list, each item as soon as it is predicted."""
    start = "["
    for p in predictions:
        print(start, to_json(p.record()), sep="\n", end="")
        start = ","
    print("\n]" if start == "," else "[]")


def _print_json_lines(predictions: Iterable[Prediction]) -> None:
    for p in predictions:
        print(to_json(p.record()))


def _print_csv(predictions: Iterable[Prediction]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    for p in predictions:
        if p.error is not None:
            out.writerow([p.file, "error", p.modality, None, None, None, None, None, p.error])
        shares = ";".join(f"{m}={q:.6g}" for m, q in (p.contributions or {}).items())
        for rank, ((m, c), q) in enumerate(zip(p.labels, p.probabilities), 1):
            out.writerow([p.file, "ok", p.modality, rank, c, m, f"{q:.6g}", shares, None])


def _print_table(predictions: Iterable[Prediction]) -> None:
    """Print tables of ``ROWS_AT_ONCE`` rows with the same layout, so that a long table is printed as it grows."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    terminal, rest, first = make_console(), iter(predictions), True
    while rows := list(islice(rest, ROWS_AT_ONCE)):
        table = Table(box=SIMPLE_HEAD, expand=True, show_header=first, show_edge=False)
        for name, share in (("file", 4), ("read as", None), ("taken for", 5), ("prompts and gates from", 3)):
            table.add_column(name, overflow="fold", ratio=share, width=None if share else 9)
        for p in rows:
            shares = sorted((p.contributions or {}).items(), key=lambda item: -item[1])
            labels = (f"{q:6.1%}  {c}{f' ({m})' if m else ''}" for (m, c), q in zip(p.labels, p.probabilities))
            table.add_row(
                escape(p.file),
                p.modality or "-",
                escape("\n".join(labels) if p.error is None else f"error: {p.error}"),
                "\n".join(f"{q:6.1%}  {m}" for m, q in shares if q >= 0.005) or "-",
            )
        terminal.print(table)
        first = False
