"""Relative links of Markdown pages lead to a file, and to a heading that exists, as GitHub shows the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

LEFT_OUT = {"build", "dist", "runs", "shared"}  # and hidden ones: not the repository's
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part in LEFT_OUT or part.startswith(".") for part in page.relative_to(ROOT).parts)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of a page's headings."""
    found: dict[str, int] = {}
    out = set()
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", text, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        out.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return out


def wrong_links(page: Path) -> list[str]:
    out = []
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            out.append(link)
    return out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert wrong_links(page) == []


def test_a_link_to_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, and more\n[a](page.md#a-title-and-more) [b](#nowhere) [c](no.md) ![d](https://x.y/z)\n"
    )
    assert wrong_links(page) == ["#nowhere", "no.md"]
