"""Writes docs/formats.md from the table of formats in ``mmcl_fast.media``: ``python docs/make_formats.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmcl_fast.media.formats import OWN, TABLE, Format

PAGE = Path(__file__).with_name("formats.md")
HEAD = """# Formats

What a file is, is told by its content, never by its name. This page is written by `python docs/make_formats.py`.

- A text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. UTF-8 without control characters is always a text,
  whatever its first letters are.
- A film's container may hold a sound alone: then the file is audio. A cover does not make a recording a film.
- MPEG sound and raw streams are found behind junk too: zeros, tags, a frame that was cut.

## Read

| format | modalities | usual endings | read by |
|---|---|---|---|
"""
UNREAD = """
## Known, and not read

These are refused with the advice of the last column.

| format | usual endings | what to do |
|---|---|---|
"""


def page() -> str:
    read = [row for row in TABLE if row.library and (row.endings or row.library == OWN)]
    unread = [row for row in TABLE if not row.library]
    return HEAD + "\n".join(_read(read)) + "\n" + UNREAD + "\n".join(_unread(unread)) + "\n"


def _read(rows: Iterable[Format]) -> list[str]:
    order = ("image", "depth", "video", "audio", "text")
    lines = [
        f"| {row.name} | {', '.join(row.modalities)} | {', '.join(row.endings)} | {row.library} |"
        for row in sorted(rows, key=lambda row: order.index(row.modalities[0]))
    ]
    return list(dict.fromkeys(lines))


def _unread(rows: Iterable[Format]) -> list[str]:
    by_line: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        by_line.setdefault((row.name, row.advice), []).extend(row.endings)
    return [f"| {name} | {', '.join(endings)} | {advice} |" for (name, advice), endings in by_line.items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
