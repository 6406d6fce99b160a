"""Find the files and lines of text to predict, from files, folders and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from mmcl_fast.learning.predict import Line
from mmcl_fast.streams.sources.folder_walk import walk_files

STDIN = "-"


def find_inputs(paths: Iterable[str | Path], stdin: IO[bytes] | None = None) -> Iterator[Path | Line]:
    """Yield the files and lines to predict, in the order of ``paths``. Nothing is read before it is asked for.

    A file is yielded as it is. A folder gives all files below it in the order of their names, then the files that its
    links lead to. Hidden files and system files such as Thumbs.db are left out. ``-`` gives the lines of standard
    input, without empty ones.

    Args:
        stdin: read in place of standard input.

    Example::

        learner = Learner.load("runs/demo")
        for p in learner.predictions(find_inputs(["bark.wav", "photos/"]), on_error="report"):
            print(p.file, p.error or p.labels[0])
    """
    for path in map(str, paths):
        if path == STDIN:
            yield from read_lines(sys.stdin.buffer if stdin is None else stdin)
        elif Path(path).is_dir():
            yield from find_files(path)
        else:
            yield Path(path)


def read_lines(stdin: IO[bytes]) -> Iterator[Line]:
    """Yield the lines that are not empty, named by their numbers, such as ``stdin:3``."""
    for number, line in enumerate(stdin, 1):
        # Bytes that are no UTF-8 become surrogates: predicting this line then says so, and the others are predicted.
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape").strip()
        if text:
            yield Line(f"stdin:{number}", text)


def find_files(folder: str | Path) -> Iterator[Path]:
    """Yield all files below a folder, then what can't be read: predicting that gives an error with its name."""
    unread: list[str] = []

    def note(kind: str, path: str, what: str) -> None:
        if kind in ("unreadable", "missing"):
            unread.append(path)

    yield from map(Path, walk_files(str(folder), note))
    yield from map(Path, unread)
