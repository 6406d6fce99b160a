"""The command that uses what was learned: files, folders and lines of text to classes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl_fast.cli.common import Debug, Device, Json, Quiet, Run, app, check_device, console, guarded, one_of
from mmcl_fast.cli.output import to_json
from mmcl_fast.errors import UserError

if TYPE_CHECKING:
    from mmcl_fast.learning import Line, Prediction
    from mmcl_fast.progress import Progress

FORMATS = ("table", "json", "csv")
COLUMNS = ("file", "status", "modality", "rank", "class", "class_modality", "probability", "contributions", "error")
TABLE_ROWS = 64  # files of a table that are laid out and printed together


@app.command()
@guarded
def predict(
    run: Run,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR|-",
            help="Files of any modality, folders of them (all that is below, in "
            "the order of names, then what links lead to; without what is hidden or left behind by a system), or - for "
            "lines of text from standard input.",
            show_default=False,
        ),
    ],
    modality: Annotated[
        str | None, typer.Option(help="Of all files; found from the content unless told.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each file.")] = 3,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT,...",
            help="Texts that compete in place of the classes learned. Files are embedded "
            "as ever, prompts and re-alignment included, and those were fitted to the classes learned: a "
            "class that is new is scored through them, by its text alone.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="table, json (one object a line) or csv (one row for a file and rank).")
    ] = "table",
    batch_size: Annotated[int, typer.Option(min=1, help="Files decoded and embedded together.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes.")] = 2,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what files, folders of files and lines of text are taken for; their modality need not be told.

    What can't be read is named with the reason, the rest is done, and the exit code is 1.

    Example: `mmcl-fast predict runs/demo bark.wav street.mp4 photos --top 1 --format csv`, or
    `mmcl-fast predict runs/demo photo.jpg --classes "a photo of a cat,a photo of a dog"`
    """
    from mmcl_fast import progress
    from mmcl_fast.media import MODALITIES

    one_of("--format", form, FORMATS)
    if modality is not None:
        one_of("--modality", modality, MODALITIES)
    check_device(device)
    from mmcl_fast.learning import Learner
    from mmcl_fast.media.engines import isolation

    isolation.prepare()  # beside the loading of the learner
    learner = Learner.load(run, device=device, workers=workers)
    found = learner.predictions(
        _items(files),
        modality=modality,
        top_k=top,
        batch_size=batch_size,
        on_error="report",
        classes=None if classes is None else classes.split(","),
    )
    count = _Count(found, progress.make(quiet or sys.stdout.isatty()))
    if as_json:
        _json_value(count)
    else:
        {"table": _table, "json": _json_lines, "csv": _csv}[form](count)
    if not count.all:
        raise UserError(f"{', '.join(map(str, files))}: no file and no line in it; give something to look at")
    if count.failed:
        print(f"error: {count.failed} of {count.all} can't be read", file=sys.stderr)
        raise typer.Exit(1)


class _Count:
    """Predictions on their way to the output, counted and shown."""

    def __init__(self, found: Iterable[Prediction], display: Progress):
        self.found, self.display, self.all, self.failed = found, display, 0, 0

    def __iter__(self) -> Iterator[Prediction]:
        with self.display.phase("predict") as shown:
            for prediction in self.found:
                self.all += 1
                self.failed += prediction.error is not None
                shown.advance()
                yield prediction


def _items(given: Sequence[Path]) -> Iterator[Path | Line]:
    for path in given:
        if str(path) == "-":
            yield from _lines()
        elif path.is_dir():
            yield from _below(path)
        else:
            yield path


def _lines() -> Iterator[Path | Line]:
    """Lines of standard input with a word in them, named by their number."""
    from mmcl_fast.learning import Line

    for number, line in enumerate(sys.stdin.buffer, 1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape").strip()
        if text:
            yield Line(f"stdin:{number}", text)


def _below(folder: Path) -> Iterator[Path]:
    """All files below, then what can't be read, which is a fault when it is looked at."""
    from mmcl_fast.streams.sources.folder_walk import walk_files

    unread: list[str] = []

    def note(kind: str, path: str, what: str) -> None:
        if kind in ("unreadable", "missing"):
            unread.append(path)

    yield from map(Path, walk_files(str(folder), note))
    yield from map(Path, unread)


def _json_value(found: Iterable[Prediction]) -> None:
    """One list, written as it comes."""
    start = "["
    for p in found:
        print(start, to_json(p.record()), sep="\n", end="")
        start = ","
    print("\n]" if start == "," else "[]")


def _json_lines(found: Iterable[Prediction]) -> None:
    for p in found:
        print(to_json(p.record()))


def _csv(found: Iterable[Prediction]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    for p in found:
        if p.error is not None:
            out.writerow([p.file, "error", p.modality, None, None, None, None, None, p.error])
        shares = ";".join(f"{m}={q:.6g}" for m, q in (p.contributions or {}).items())
        for rank, ((m, c), q) in enumerate(zip(p.labels, p.probabilities), 1):
            out.writerow([p.file, "ok", p.modality, rank, c, m, f"{q:.6g}", shares, None])


def _table(found: Iterable[Prediction]) -> None:
    """In pieces of the same layout, so that a table of any length is printed as it comes."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    terminal, rest, first = console(), iter(found), True
    while rows := list(islice(rest, TABLE_ROWS)):
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
