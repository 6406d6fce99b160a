"""What a report says, in parts that ``markup`` writes as HTML and ``markdown`` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True)
class Picture:
    """An image file's bytes (WebP), and what is to be seen."""

    data: bytes
    alt: str


@dataclass(frozen=True)
class Example:
    """A sample: a picture of it or its first words, or neither where its file was gone."""

    picture: Picture | None
    text: str | None
    about: str


Cell = Union[str, int, Sequence[Example]]


@dataclass(frozen=True)
class Table:
    """Cells in rows; the first column names the row.

    ``kinds``: of each column, "k" for a name, "n" for a number, "v" for a value as it stands in a file, "" for words;
    None: a name, then numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kinds: Sequence[str] | None = None

    @property
    def columns(self) -> Sequence[str]:
        return ["k", *("n" for _ in self.head[1:])] if self.kinds is None else self.kinds


@dataclass(frozen=True)
class Plot:
    """A figure (a JSON object of plotly.js), what it shows in words, and its numbers."""

    figure: dict[str, Any]
    about: str
    numbers: Table


@dataclass(frozen=True)
class Scatter:
    """Figures of the same samples side by side. A point's ``customdata`` is the place of its sample in ``samples``.

    ``numbers`` says in a few rows what the plots show; ``each`` has a row for each sample, in their order.
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
    lines: Sequence[str]


@dataclass(frozen=True)
class Cards:
    """(number, what it is), in large letters."""

    cards: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Panel:
    """``hint``: how to read its plot, said where there is one."""

    title: str
    about: str
    parts: Sequence[Part]
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """Panels beside each other, where there is room."""

    panels: Sequence[Panel]


@dataclass(frozen=True)
class Fold:
    """What is shown when it is asked for."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part] = field(default_factory=list)


Part = Union[Table, Plot, Scatter, Words, Notes, Cards, Panel, Row, Fold, Section]


@dataclass(frozen=True)
class Page:
    """``source``: what it was written from."""

    title: str
    about: str
    parts: Sequence[Part]
    source: str
