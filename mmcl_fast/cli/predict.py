"""The command that predicts: files, folders and lines of text to classes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
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
COLUMNS = (
    "file",
    "status",
    "modality",
    "rank",
    "class",
    "class_modality",
    "probability",
    "contributions",
    "error",
    "unknown",
)
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
    unknown: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Flag files that belong to none of the classes. RATE, such as 0.05, is the share of files of known "
            "classes that are flagged by mistake.",
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
    from mmcl_fast.learning.unknown_counts import lowest_flagged, require_rate
    from mmcl_fast.media.engines import isolation

    isolation.prepare()  # worker processes start while the learner loads
    learner = Learner.load(run, device=device, workers=workers, progress=None)
    if unknown is not None:
        require_rate(unknown)
        if classes is not None:
            raise UserError("--unknown: is for the classes learned; leave out --classes")
        learner.unknown.require_levels(run)
    predictions = learner.predictions(
        find_inputs(files),
        modality=modality,
        top_k=top,
        batch_size=batch_size,
        on_error="report",
        classes=None if classes is None else classes.split(","),
    )
    # On a terminal the predictions themselves show the progress.
    limit = None if unknown is None else lowest_flagged(unknown)
    counter = _Counter(predictions, progress.make(quiet or sys.stdout.isatty()))
    if as_json:
        _print_json_list(counter, limit)
    else:
        {"table": _print_table, "json": _print_json_lines, "csv": _print_csv}[form](counter, limit)
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


def _is_unknown(p: Prediction, limit: float | None) -> bool:
    """Return whether a file is said to be of none of the classes."""
    return limit is not None and p.unknown is not None and p.unknown >= limit


def _record(p: Prediction, limit: float | None) -> dict[str, Any]:
    """Return the JSON values of a prediction; with ``--unknown`` also whether it is of none of the classes."""
    return p.record() | ({} if limit is None else {"is_unknown": _is_unknown(p, limit)})


def _print_json_list(predictions: Iterable[Prediction], limit: float | None) -> None:
    """Print one list, each item as soon as it is predicted."""
    start = "["
    for p in predictions:
        print(start, to_json(_record(p, limit)), sep="\n", end="")
        start = ","
    print("\n]" if start == "," else "[]")


def _print_json_lines(predictions: Iterable[Prediction], limit: float | None) -> None:
    for p in predictions:
        print(to_json(_record(p, limit)))


def _print_csv(predictions: Iterable[Prediction], limit: float | None) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    for p in predictions:
        if p.error is not None:
            out.writerow([p.file, "error", p.modality, None, None, None, None, None, p.error, None])
        shares = ";".join(f"{m}={q:.6g}" for m, q in (p.contributions or {}).items())
        status = "unknown" if _is_unknown(p, limit) else "ok"
        score = None if p.unknown is None else f"{p.unknown:.4g}"
        for rank, ((m, c), q) in enumerate(zip(p.labels, p.probabilities), 1):
            out.writerow([p.file, status, p.modality, rank, c, m, f"{q:.6g}", shares, None, score])


def _print_table(predictions: Iterable[Prediction], limit: float | None) -> None:
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
            labels = [f"{q:6.1%}  {c}{f' ({m})' if m else ''}" for (m, c), q in zip(p.labels, p.probabilities)]
            if _is_unknown(p, limit):
                labels = [f"none of the classes: stranger than {p.unknown:.1%} of known files", *labels]
            table.add_row(
                escape(p.file),
                p.modality or "-",
                escape("\n".join(labels) if p.error is None else f"error: {p.error}"),
                "\n".join(f"{q:6.1%}  {m}" for m, q in shares if q >= 0.005) or "-",
            )
        terminal.print(table)
        first = False
