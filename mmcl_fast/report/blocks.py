"""The parts that a report is made of; ``html_page`` writes them as HTML and ``markdown`` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True)
class Picture:
    """An image file.

    Attributes:
        data: the bytes of a WebP file.
        alt: what the image shows, in words.
    """

    data: bytes
    alt: str


@dataclass(frozen=True)
class Example:
    """A sample with its picture or its first words. Both are None if its file was gone.

    Attributes:
        about: its class and the class predicted, in words.
    """

    picture: Picture | None
    text: str | None
    about: str


CellValue = Union[str, int, Sequence[Example]]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row.

    Attributes:
        head: the names of the columns.
        rows: the cells, one sequence for each row.
        kinds: for each column "k" (a name), "n" (a number), "v" (a value quoted from a file), "w" (wide, dim words)
            or "" (words). None: a name, then numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[CellValue]]
    kinds: Sequence[str] | None = None

    @property
    def column_kinds(self) -> Sequence[str]:
        """``kinds`` with its default filled in."""
        return ["k", *("n" for _ in self.head[1:])] if self.kinds is None else self.kinds

    @property
    def has_examples(self) -> bool:
        """Whether a cell holds examples. A narrow page then shows each row as a card."""
        return any(not isinstance(cell, (str, int)) for cells in self.rows for cell in cells)


@dataclass(frozen=True)
class Plot:
    """A plot and its numbers.

    Attributes:
        figure: a JSON object for plotly.js.
        about: what the plot shows, in words.
        numbers: the plotted numbers, which Markdown shows in place of the plot.
    """

    figure: dict[str, Any]
    about: str
    numbers: Table


@dataclass(frozen=True)
class Scatter:
    """Scatter plots of the same samples, side by side.

    Attributes:
        figures: (title, figure). The ``customdata`` of a point is the index of its sample in ``samples``.
        samples: the samples of the plots.
        numbers: a summary of the plots in a few rows.
        each: one row for each sample, in the order of ``samples``.
    """

    figures: Sequence[tuple[str, dict[str, Any]]]
    samples: Sequence[Example]
    numbers: Table
    each: Table


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notes:
    """Lines in a coloured box."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Cards:
    """Large numbers: (number, what it measures)."""

    cards: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Panel:
    """A titled box.

    Attributes:
        about: an introduction; may be empty.
        hint: how to read the plot; only HTML shows it. May be empty.
    """

    title: str
    about: str
    parts: Sequence[Part]
    hint: str = ""


@dataclass(frozen=True)
class ReportRow:
    """Panels side by side if the page is wide enough, else below each other."""

    panels: Sequence[Panel]


@dataclass(frozen=True)
class Fold:
    """Parts that are hidden until a reader opens them."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class ReportSection:
    """A headline with parts below it."""

    title: str
    parts: Sequence[Part] = field(default_factory=list)


Part = Union[Table, Plot, Scatter, Words, Notes, Cards, Panel, ReportRow, Fold, ReportSection]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        about: one line below the title.
        source: the files that the report was made from, in words.
    """

    title: str
    about: str
    parts: Sequence[Part]
    source: str
