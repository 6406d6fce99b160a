"""A report as Markdown: its words and numbers; in place of plots the numbers behind them, no pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from mmcl_fast.report.blocks import (
    Cards,
    Cell,
    Fold,
    Notes,
    Page,
    Panel,
    Part,
    Plot,
    Row,
    Scatter,
    Section,
    Table,
    Words,
)

SIGNS = re.compile(r"[\\`*<]|(?<!\w)_|_(?!\w)|\](?=[(\[])|^[#>+-](?= )|^#+(?= )")


def render(page: Page) -> str:
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"# {plain(page.title)}", plain(page.about), *_parts(page.parts, 2)]
    return "\n\n".join([*parts, f"Written by mmcl-fast, {written}, from {page.source}."]) + "\n"


def _parts(parts: Sequence[Part], level: int) -> Iterator[str]:
    for part in parts:
        yield from _part(part, level)


def _part(part: Part, level: int) -> Iterator[str]:
    if isinstance(part, (Section, Panel, Fold)):
        yield f"{'#' * min(level, 6)} {plain(part.title)}"
        if isinstance(part, Panel) and part.about:
            yield plain(part.about)
        yield from _parts(part.parts, level + 1)
    elif isinstance(part, Row):
        yield from _parts(part.panels, level)
    elif isinstance(part, (Plot, Scatter)):
        yield table(part.numbers)
    elif isinstance(part, Table):
        yield table(part)
    elif isinstance(part, Notes):
        yield "\n".join(f"- {plain(line)}" for line in part.lines)
    elif isinstance(part, Cards):
        yield "\n".join(f"- {plain(about)}: **{plain(value)}**" for value, about in part.cards)
    elif isinstance(part, Words):
        yield plain(part.text)


def table(part: Table) -> str:
    rule = "|" + "".join("---:|" if kind == "n" else "---|" for kind in part.columns)
    return "\n".join([line(part.head), rule, *map(line, part.rows)])


def line(cells: Sequence[Cell]) -> str:
    """A row of a table."""
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: Cell) -> str:
    if isinstance(cell, (str, int)):
        return plain(str(cell)).replace("|", "\\|")
    return "; ".join(plain(example.about).replace("|", "\\|") for example in cell)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SIGNS.sub(r"\\\g<0>", " ".join(text.split()))
