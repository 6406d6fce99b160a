"""The layout of a known dataset's folder, and reading it. An error names what is missing and the files expected."""

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
    """A sample of a known dataset.

    Attributes:
        label: class name.
        split: train or test.
        place: path in the dataset's folder, with slashes. The sample's key ends with it.
        item: the item itself, a byte range of a file or a text; None: the file at ``place`` is the item.
    """

    label: str
    split: str
    place: str
    item: Slice | str | None = None


def underscores_to_spaces(label: str) -> str:
    """Return the label with spaces in place of underscores."""
    return label.replace("_", " ")


@dataclass(frozen=True)
class Layout:
    """A dataset as unpacked from its archives.

    Attributes:
        modality: image, video, audio, depth or text.
        tree: the files that its folder holds, in one line for messages.
        read: returns its samples, with the classes in their official order.
        splits: number of official splits, or of folds that can be the test fold; 1: there is no choice.
        text: class name -> class text.
        depth_kind: the meaning of its depth values; see ``VisualSpec.depth_kind``.
    """

    modality: str
    tree: str
    read: Callable[[DatasetFolder], Iterable[KnownSample]]
    splits: int = 1
    text: Callable[[str], str] = underscores_to_spaces
    depth_kind: str = "depth"


class DatasetFolder:
    """The folder of a dataset. A ``place`` is a path relative to it, with slashes.

    Attributes:
        split: number of the official split or of the test fold, from 1.
        classes: a file that lists classes, or None.
    """

    def __init__(self, name: str, layout: Layout, root: Path, split: int, classes: Path | None):
        self.name, self.layout, self.root, self.split, self.classes = name, layout, root, split, classes
        # Lists name many files of the same folders, so each folder is read once.
        self.entries = cache(self._entries)

    def missing_error(self, place: str) -> StreamError:
        """Return the error for a file or folder that is not there."""
        return StreamError(
            f"{self.root / place}: not there: {self.name} is read from a folder that holds "
            f"{self.layout.tree}: unpack it that way, or correct the path"
        )

    def format_error(self, place: str, what: str) -> StreamError:
        """Return the error for a file with other content than the dataset's."""
        return StreamError(f"{self.root / place}: {what}: not as in {self.name}: unpack it again")

    def has(self, place: str) -> bool:
        return (self.root / place).exists()

    def first(self, *places: str) -> str:
        """Return the first of these places that is there. Raises StreamError where none is."""
        for place in places:
            if self.has(place):
                return place
        raise self.missing_error(places[0])

    def _entries(self, place: str) -> dict[str, bool]:
        """Return the sorted names in a folder, and whether each is a folder. Hidden names are passed over."""
        try:
            with os.scandir(self.root / place) as entries:
                visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        except (OSError, ValueError):
            raise self.missing_error(place) from None
        return dict(sorted(visible))

    def folders(self, place: str) -> list[str]:
        """Return the sorted names of the folders in a folder."""
        return [name for name, is_folder in self.entries(place).items() if is_folder]

    def files(self, place: str) -> list[str]:
        """Return the sorted names of the files in a folder. Raises StreamError where there is none."""
        names = [name for name, is_folder in self.entries(place).items() if not is_folder]
        if not names:
            raise StreamError(f"{self.root / place}: empty: {self.name} has files there, unpack it again")
        return names

    def file(self, folder: str, name: str) -> str:
        """Return the place of a file that a list of the dataset names. Raises StreamError where it is not there."""
        place = f"{folder}/{name}"
        parent, _, last = place.rpartition("/")
        if last not in self.entries(parent):
            raise self.missing_error(place)
        return place

    def places_by_stem(self) -> dict[str, str]:
        """Return file name without ending -> place, for every file below the dataset's folder."""
        places: dict[str, str] = {}
        waiting, seen = ["."], set()
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(self.root / folder)
            if real in seen:  # a link to a folder above itself, or to one that is read already
                continue
            seen.add(real)
            for name, is_folder in self.entries(folder).items():
                place = name if folder == "." else f"{folder}/{name}"
                if is_folder:
                    waiting.append(place)
                else:
                    places[os.path.splitext(name)[0]] = place
        return places

    def text(self, place: str, encoding: str | None = None) -> str:
        """Return the content of a text file, with LF as line ends.

        ``encoding``: None: by the file's byte order mark, and UTF-8 without one.
        """
        try:
            data = (self.root / place).read_bytes()
            text = data.decode(encoding) if encoding else decode(data, place)
        except FileNotFoundError:
            raise self.missing_error(place) from None
        except (OSError, UnicodeDecodeError, StreamError) as error:
            raise self.format_error(place, f"not readable ({error})") from None
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def lines(self, place: str) -> list[str]:
        """Return the lines of a text file that are not blank, without spaces at both ends."""
        return [line.strip() for line in self.text(place).split("\n") if line.strip()]

    def rows(self, place: str, *columns: str, header: bool = True) -> Iterator[TableRow]:
        """Return the rows of a CSV or TSV file. Without a header the columns are called "1", "2", ..."""
        if not self.has(place):
            raise self.missing_error(place)

        def choose_columns(names: list[str]) -> tuple[str, ...]:
            for column in columns:
                if column not in names:
                    raise self.format_error(place, f"no column {column!r}")
            return columns

        return read_table_rows(self.root / place, header=header, choice=choose_columns)


def keep_classes_in_both_splits(samples: Iterable[KnownSample]) -> list[KnownSample]:
    """Return the samples of classes that have training samples and test samples."""
    samples = list(samples)
    splits: dict[str, set[str]] = {}
    for sample in samples:
        splits.setdefault(sample.label, set()).add(sample.split)
    return [sample for sample in samples if {"train", "test"} <= splits[sample.label]]
