"""A report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from mmcl_fast.report.blocks import (
    Cards,
    Cell,
    Example,
    Fold,
    Notes,
    Page,
    Panel,
    Part,
    Picture,
    Plot,
    Row,
    Scatter,
    Section,
    Table,
    Words,
)

HERE = Path(__file__).parent
KEYS = "the arrow keys go from sample to sample, Escape leaves"


def render(page: Page) -> str:
    return _Writer().document(page)


class _Writer:
    """Numbers what must be found again: headings, and JSON blocks at the end of the file."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.sections: list[tuple[str, str]] = []

    def document(self, page: Page) -> str:
        body = self.parts(page.parts, 2)
        links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in self.sections)
        written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(page.title)}</title>'
            f'<style>{style}</style></head><body><a class="skip" href="#main">To the content</a>'
            f'<header><h1>{escape(page.title)}</h1><p class="about">{escape(page.about)}</p>'
            f'<nav aria-label="On this page"><ul>{links}</ul></nav></header>'
            f'<main id="main" tabindex="-1">{body}</main>'
            f"<footer>Written by mmcl-fast, {written}, from {escape(page.source)}.</footer>"
            f'<div id="told" role="status"></div>{"".join(self.blocks)}{_library()}<script>{script}</script>'
            "</body></html>\n"
        )

    def parts(self, parts: Sequence[Part], level: int) -> str:
        return "".join(self.part(part, level) for part in parts)

    def part(self, part: Part, level: int) -> str:
        if isinstance(part, Section):
            name = ""
            if level == 2:
                name = f' id="s{len(self.sections)}"'
                self.sections.append((f"s{len(self.sections)}", part.title))
            return f"<h{level}{name}>{escape(part.title)}</h{level}>{self.parts(part.parts, level + 1)}"
        if isinstance(part, Row):
            three = " three" if len(part.panels) == 3 else ""
            return f'<div class="grid{three}">{self.parts(part.panels, level)}</div>'
        if isinstance(part, Panel):
            said = " ".join(text for text in (part.about, part.hint) if text)
            about = f'<p class="about">{escape(said)}</p>' if said else ""
            inside = self.parts(part.parts, level + 1)
            return f'<div class="panel"><h{level}>{escape(part.title)}</h{level}>{about}{inside}</div>'
        if isinstance(part, Fold):
            return _fold(part.title, self.parts(part.parts, level + 1))
        if isinstance(part, Plot):
            plot = self.plot(part.figure, f'role="img" aria-label="{escape(part.about)}"')
            return plot + _fold(f"Numbers: {part.about}", table(part.numbers))
        if isinstance(part, Scatter):
            return self.scatter(part)
        if isinstance(part, Table):
            return table(part)
        if isinstance(part, Notes):
            return f'<div class="notes">{"".join(f"<p>{escape(line)}</p>" for line in part.lines)}</div>'
        if isinstance(part, Cards):
            cards = "".join(
                f'<div class="card"><dt>{escape(about)}</dt><dd>{escape(value)}</dd></div>'
                for value, about in part.cards
            )
            return f'<dl class="cards">{cards}</dl>'
        assert isinstance(part, Words)
        return f"<p>{escape(part.text)}</p>"

    def block(self, value: Any) -> str:
        """Keep a JSON value at the end of the file; returns the name it is found by."""
        name = f"block{len(self.blocks)}"
        text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it can end the element
        self.blocks.append(f'<script type="application/json" id="{name}">{text}</script>')
        return name

    def plot(self, figure: dict[str, Any], attributes: str) -> str:
        height = figure["layout"]["height"]
        return (
            f'<div class="scroll"><div {attributes} data-figure="{self.block(figure)}" style="height:{height}px">'
            "The plot is drawn by JavaScript in a browser of 2023 or later; its numbers are below.</div></div>"
        )

    def scatter(self, part: Scatter) -> str:
        samples = self.block(
            [
                {
                    key: value
                    for key, value in (("about", one.about), ("picture", _source(one.picture)), ("text", one.text))
                    if value
                }
                for one in part.samples
            ]
        )
        plots = "".join(
            f'<div><p class="points-of">{escape(title)}</p>'
            + self.plot(
                figure,
                f'data-samples="{samples}" tabindex="0" role="application" '
                f'aria-roledescription="scatter plot" aria-label="{escape(title)}: {KEYS}"',
            )
            + "</div>"
            for title, figure in part.figures
        )
        each = table(part.each, [f'<td data-sample="{i}"></td>' for i in range(len(part.samples))])
        return (
            f'<div class="grid">{plots}</div>{table(part.numbers)}'
            + f'<div data-samples="{samples}">{_fold("Each sample of the plots", each)}</div>'
        )


def _fold(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def table(part: Table, first: Sequence[str] | None = None) -> str:
    """``first``: HTML of a column before the others, without a name."""
    kinds = part.columns
    tall = any(not isinstance(cell, (str, int)) for cells in part.rows for cell in cells)

    def row(cells: Sequence[Cell]) -> str:
        name, *others = cells
        out = f'<th scope="row" class="{kinds[0]}">{_cell(name)}</th>'
        heads = [f' data-head="{escape(name)}"' if tall else "" for name in part.head[1:]]
        return out + "".join(
            f'<td class="{kind}"{head}>{_cell(cell)}</td>' for cell, kind, head in zip(others, kinds[1:], heads)
        )

    head = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>' if name else "<td></td>"
        for name, kind in zip(part.head, kinds)
    )
    body = "".join(f"<tr>{first[i] if first else ''}{row(cells)}</tr>" for i, cells in enumerate(part.rows))
    head = ("<td></td>" if first else "") + head
    kind = "scroll tall" if tall else "scroll"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, (str, int)):
        return escape(str(cell))
    return f'<ul class="examples">{"".join(f"<li>{_example(one)}</li>" for one in cell)}</ul>'


def _example(one: Example) -> str:
    image = f'<img src="{_source(one.picture)}" alt="{escape(one.picture.alt)}">' if one.picture else ""
    text = f"<q>{escape(one.text)}</q>" if one.text else ""
    return f"{image}{text}{escape(one.about)}"


def _source(picture: Picture | None) -> str:
    return f"data:image/webp;base64,{b64encode(picture.data).decode()}" if picture else ""


@cache
def _library() -> str:
    """plotly.js, a third of its size: the page unpacks it."""
    from plotly.offline import get_plotlyjs

    packed = b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return (
        "<!-- plotly.js, Copyright Plotly, Inc., MIT licence; packed by gzip -->"
        f'<script type="application/gzip" id="library">{packed}</script>'
    )
