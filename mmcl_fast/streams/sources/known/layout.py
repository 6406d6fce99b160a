"""What a known dataset's folder holds, and the reading of it: what is missing is named with the tree expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmcl_fast.errors import StreamError
from mmcl_fast.media.source import Slice
from mmcl_fast.streams.sources.table_reader import read_table_rows
from mmcl_fast.streams.sources.table_row import TableRow
from mmcl_fast.streams.sources.text_file import decode


class KnownSample(NamedTuple):
    """A sample: class name, split, place in the folder, and, where it is no file of its own, the item itself."""

    label: str
    split: str
    place: str
    item: Slice | str | None = None


def underscores_to_spaces(label: str) -> str:
    """Underscores to spaces."""
    return label.replace("_", " ")


@dataclass(frozen=True)
class Layout:
    """A dataset as it comes out of its archives.

    Attributes:
        modality: one of the five.
        tree: what its folder holds, in one line.
        read: its samples, in the classes' official order.
        splits: how many official splits, or folds to test on, it has; 1: no choice.
        text: class name -> class text.
        depth_kind: what its depth maps hold (``VisualSpec.depth_kind``).
    """

    modality: str
    tree: str
    read: Callable[[DatasetFolder], Iterable[KnownSample]]
    splits: int = 1
    text: Callable[[str], str] = underscores_to_spaces
    depth_kind: str = "depth"


class DatasetFolder:
    """The folder of a dataset. Places are relative to it, with slashes.

    Attributes:
        split: the number of the official split or test fold, from 1.
        classes: a file that lists classes, or None.
    """

    def __init__(self, name: str, layout: Layout, root: Path, split: int, classes: Path | None):
        self.name, self.layout, self.root, self.split, self.classes = name, layout, root, split, classes
        self.names = cache(self._names)

    def lacks(self, place: str) -> StreamError:
        return StreamError(
            f"{self.root / place}: not there: {self.name} is read from a folder that holds "
            f"{self.layout.tree}: unpack it like that, or correct the path"
        )

    def has(self, place: str) -> bool:
        return (self.root / place).exists()

    def first(self, *places: str) -> str:
        """The first of these that is there."""
        for place in places:
            if self.has(place):
                return place
        raise self.lacks(places[0])

    def _names(self, place: str) -> dict[str, bool]:
        """What a folder holds, sorted, and whether it is a folder; hidden names are passed over. Nothing is opened."""
        try:
            with os.scandir(self.root / place) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        except (OSError, ValueError):
            raise self.lacks(place) from None
        return dict(sorted(found))

    def folders(self, place: str) -> list[str]:
        return [name for name, folder in self.names(place).items() if folder]

    def files(self, place: str) -> list[str]:
        found = [name for name, folder in self.names(place).items() if not folder]
        if not found:
            raise StreamError(f"{self.root / place}: empty: {self.name} has files there, unpack it again")
        return found

    def file(self, folder: str, name: str) -> str:
        """The place of a file that a list names."""
        place = f"{folder}/{name}"
        above, _, last = place.rpartition("/")
        if last not in self.names(above):
            raise self.lacks(place)
        return place

    def stems(self) -> dict[str, str]:
        """Place of every file below by its name without the ending."""
        found: dict[str, str] = {}
        waiting, seen = ["."], set()
        while waiting:
            here = waiting.pop()
            real = os.path.realpath(self.root / here)
            if real in seen:  # a link to a folder above itself, or to one that is read already
                continue
            seen.add(real)
            for name, folder in self.names(here).items():
                place = name if here == "." else f"{here}/{name}"
                if folder:
                    waiting.append(place)
                else:
                    found[os.path.splitext(name)[0]] = place
        return found

    def text(self, place: str, encoding: str | None = None) -> str:
        """What a text file says, with LF as line ends; ``encoding``: None: what its first bytes tell, or UTF-8."""
        try:
            data = (self.root / place).read_bytes()
            text = data.decode(encoding) if encoding else decode(data, place)
        except FileNotFoundError:
            raise self.lacks(place) from None
        except (OSError, UnicodeDecodeError, StreamError) as error:
            raise self.fault(place, f"not readable ({error})") from None
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def lines(self, place: str) -> list[str]:
        return [line.strip() for line in self.text(place).split("\n") if line.strip()]

    def rows(self, place: str, *columns: str, header: bool = True) -> Iterator[TableRow]:
        """The rows of CSV or TSV; without a header the columns are "1", "2", ..."""
        if not self.has(place):
            raise self.lacks(place)

        def choose_columns(names: list[str]) -> tuple[str, ...]:
            for column in columns:
                if column not in names:
                    raise self.fault(place, f"no column {column!r}")
            return columns

        return read_table_rows(self.root / place, header=header, choice=choose_columns)

    def fault(self, place: str, what: str) -> StreamError:
        return StreamError(f"{self.root / place}: {what}: not as {self.name} has it, unpack it again")


def keep_classes_in_both_splits(found: Iterable[KnownSample]) -> list[KnownSample]:
    """Those of classes that have samples to train and to test on."""
    found = list(found)
    splits: dict[str, set[str]] = {}
    for sample in found:
        splits.setdefault(sample.label, set()).add(sample.split)
    return [sample for sample in found if {"train", "test"} <= splits[sample.label]]
