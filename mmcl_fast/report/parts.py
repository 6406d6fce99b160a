"""What pages are made of: figures in their places, panels, tables, and the file around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape
from typing import Any

from mmcl_fast.report.assets import SCRIPT, STYLE


class Figures:
    """Numbers the figures of a page; each is a place in the text and a JSON block at the end."""

    def __init__(self) -> None:
        self.blocks: list[str] = []

    def place(self, figure: Any) -> str:
        name = f"figure{len(self.blocks)}"
        values = json.loads(figure.to_json())
        values["layout"].pop("template", None)
        text = json.dumps(values).replace("<", "\\u003c")  # nothing in it can end the script element
        self.blocks.append(f'<script type="application/json" id="{name}">{text}</script>')
        height = values["layout"]["height"]
        return f'<div class="scroll"><div data-figure="{name}" style="height:{height}px"></div></div>'


def document(title: str, body: str, drawn: Figures, source: str) -> str:
    """The file: one that needs nothing else. ``source``: what it was written from."""
    from plotly.offline import get_plotlyjs

    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><main>{body}"
        f"<footer>Written by mmcl-fast, {written}, from {source}.</footer></main>"
        f"{''.join(drawn.blocks)}<script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>\n"
    )


def panel(title: str, about: str, content: str) -> str:
    return f'<div class="panel"><h3>{escape(title)}</h3><p class="about">{escape(about)}</p>{content}</div>'


def grid(*panels: str) -> str:
    return f'<div class="grid{" three" if len(panels) == 3 else ""}">{"".join(panels)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str]) -> str:
    """``kinds``: the CSS class of each column. Cells are escaped here."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} class="{k}">{escape(str(c))}</{tag}>' for c, k in zip(cells, kinds)) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'
