"""The tables of file formats, from the table in ``mmcl_fast.media``."""

from __future__ import annotations

from collections.abc import Iterable

from mmcl_fast.media.formats import MMCL_FAST, TABLE, Format

READ = """## Formats that are read

| format | modalities | usual endings | read by |
|---|---|---|---|
"""
UNREAD = """
## Formats that are known and refused

The last column says what to do with such a file.

| format | usual endings | what to do |
|---|---|---|
"""


def text() -> str:
    """Markdown of the formats that are read, and of the formats that are refused with advice."""
    read = [row for row in TABLE if row.library and (row.endings or row.library == MMCL_FAST)]
    unread = [row for row in TABLE if not row.library]
    return READ + "\n".join(_read(read)) + "\n" + UNREAD + "\n".join(_unread(unread)) + "\n"


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
