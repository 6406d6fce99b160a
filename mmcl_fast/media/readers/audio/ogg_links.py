"""The links of an Ogg chain: recordings one after the other, each with its own headers, rate and channels (RFC 3533).

Our own search, because libsndfile reads the first link only and does not report the others.
"""

from __future__ import annotations

import re
from typing import BinaryIO

CHUNK = 1 << 22  # bytes read at once
MAX_PAGE = 27 + 255 + 255 * 255  # bytes of the largest page
# The first page of a stream: flag 2 ("begin"), no position in time yet, any serial number, page number 0.
FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7](?:\0{8}|\xff{8}).{4}\0{4}", re.DOTALL)


def find_links(file: BinaryIO) -> list[int]:
    """Return the offset of each link of an open file. Streams that begin side by side are one link."""
    begins: list[int] = []
    base, data = 0, b""
    while more := file.read(CHUNK):
        data += more
        for found in FIRST_PAGE.finditer(data):
            place = base + found.start()
            if not begins or place > begins[-1]:  # else it was seen at the end of the last chunk
                begins.append(place)
        keep = min(len(data), 22)  # less than the pattern's length
        base, data = base + len(data) - keep, data[-keep:]
    ends = {place + _page_size(file, place) for place in begins}
    return [place for place in begins if place not in ends]


def is_cut_short(file: BinaryIO, begins: list[int]) -> bool:
    """Return whether an open file, or one of its links, ends inside a page."""
    size = file.seek(0, 2)
    for begin, end in zip(begins, [*begins[1:], size], strict=True):
        start = file.seek(max(begin, end - MAX_PAGE))
        last = file.read(end - start).rfind(b"OggS\0")
        if last >= 0 and start + last + _page_size(file, start + last) > end:
            return True
    return False


def _page_size(file: BinaryIO, place: int) -> int:
    """Return the size in bytes of the page at ``place``; ``MAX_PAGE`` where its header is incomplete."""
    file.seek(place)
    head = file.read(27 + 255)
    if len(head) < 27 or len(head) < 27 + head[26]:
        return MAX_PAGE
    return 27 + head[26] + sum(head[27 : 27 + head[26]])
