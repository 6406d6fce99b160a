"""Write a report as Markdown: its words and numbers, without pictures. The numbers of a plot stand in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from mmcl_fast.report.blocks import (
    Cards,
    CellValue,
    Fold,
    Notes,
    Page,
    Panel,
    Part,
    Plot,
    ReportRow,
    ReportSection,
    Scatter,
    Table,
    Words,
)

# The characters that Markdown may read as markup in the places where they may mean it: a bare _ inside a word is text.
MARKUP = re.compile(r"[\\`*<]|(?<!\w)_|_(?!\w)|\](?=[(\[])|^[#>+-](?= )|^#+(?= )")


def render_markdown(page: Page) -> str:
    """Return the page as Markdown."""
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"# {escape_markdown(page.title)}", escape_markdown(page.about), *_render_parts(page.parts, 2)]
    return "\n\n".join([*parts, f"Written by mmcl-fast, {written}, from {page.source}."]) + "\n"


def _render_parts(parts: Sequence[Part], level: int) -> Iterator[str]:
    for part in parts:
        yield from _render_part(part, level)


def _render_part(part: Part, level: int) -> Iterator[str]:
    if isinstance(part, (ReportSection, Panel, Fold)):
        yield f"{'#' * min(level, 6)} {escape_markdown(part.title)}"
        if isinstance(part, Panel) and part.about:
            yield escape_markdown(part.about)
        yield from _render_parts(part.parts, level + 1)
    elif isinstance(part, ReportRow):
        yield from _render_parts(part.panels, level)
    elif isinstance(part, (Plot, Scatter)):
        yield _render_table(part.numbers)
    elif isinstance(part, Table):
        yield _render_table(part)
    elif isinstance(part, Notes):
        yield "\n".join(f"- {escape_markdown(line)}" for line in part.lines)
    elif isinstance(part, Cards):
        yield "\n".join(f"- {escape_markdown(about)}: **{escape_markdown(value)}**" for value, about in part.cards)
    elif isinstance(part, Words):
        yield escape_markdown(part.text)


def _render_table(table: Table) -> str:
    rule = "|" + "".join("---:|" if kind == "n" else "---|" for kind in table.column_kinds)
    return "\n".join([_render_row(table.head), rule, *map(_render_row, table.rows)])


def _render_row(cells: Sequence[CellValue]) -> str:
    return "| " + " | ".join(_render_cell(cell) for cell in cells) + " |"


def _render_cell(cell: CellValue) -> str:
    if isinstance(cell, (str, int)):
        return escape_cell(str(cell))
    return "; ".join(escape_cell(example.about) for example in cell)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def escape_cell(text: str) -> str:
    """Return text that a cell of a Markdown table shows as it is."""
    return escape_markdown(text).replace("|", "\\|")
