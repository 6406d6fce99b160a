"""Tests of a file's first bytes that are stricter than a comparison with its magic bytes.

Each test takes the first 64 KiB, or all of a shorter file. Plain text that happens to begin with the letters of a
format, such as ``BM``, fails the test of that format.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Literal

HEAD = 1 << 16  # bytes of a file that recognition reads
Test = Callable[[bytes], bool]
# UTF-32 comes first: its little-endian mark begins with the one of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

AVIF_BRANDS = frozenset((b"avif", b"avis"))
HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 avci avcs jpeg j2ki vvic evbi".split())
BOXES = frozenset(b"ftyp moov mdat free skip wide styp sidx moof uuid pnot meta udta junk prfl emsg".split())
# Control characters that no text needs; tabs, line ends, form feeds and escapes are in texts.
CONTROL_BYTES = bytes((*range(9), *range(14, 27), *range(28, 32), 127))
CONTROLS = re.compile(b"[" + re.escape(CONTROL_BYTES) + b"]")
GAP = rb"(?:#[^\n]*\n|\s)+"
PNM = re.compile(rb"(?:P[1-7fF]|P0CMYK|PyP|PyRGBA|PyCMYK)[\s#]")
PLAIN_PNM = re.compile(rb"P[123]\s(?:#[^\n]*\n|[\d\s])+")
PAM = re.compile(rb"P7\n(?:[^\n]*\n){1,99}?ENDHDR\n")
BITMAP = re.compile(rb"P(4)" + GAP + rb"(\d+)" + GAP + rb"(\d+)\s")
PACKED_PNM = re.compile(rb"P([56])" + GAP + rb"(\d+)" + GAP + rb"(\d+)" + GAP + rb"(\d+)\s")


def at(place: int, mark: bytes) -> Test:
    """Return a test for ``mark`` at byte ``place``."""
    return lambda start: start.startswith(mark, place)


def holds(*marks: bytes) -> Test:
    """Return a test for one of ``marks`` anywhere."""
    return lambda start: any(mark in start for mark in marks)


def brand(*names: bytes) -> Test:
    """Return a test for an ISO base media file with one of these major brands."""
    return lambda start: start[4:8] == b"ftyp" and start[8:12] in names


def brands(start: bytes) -> frozenset[bytes]:
    """Return the major and the compatible brands of an ``ftyp`` box; empty if the file does not begin with one."""
    if start[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(start[:4], "big"), 512)
    return frozenset((start[8:12], *(start[place : place + 4] for place in range(16, end - 3, 4))))


def avif(start: bytes) -> bool:
    """Return whether the brands name AVIF, a still image or a sequence."""
    return bool(brands(start) & AVIF_BRANDS)


def heif(start: bytes) -> bool:
    """Return whether it is HEIF with another codec than AV1: the major brand is one of HEIF's (ISO 23008-12)."""
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS and not avif(start)


def camera_raw(start: bytes) -> bool:
    """Return whether it is a TIFF whose first image is the preview of a camera's raw image: DNG, CR2, NEF or ARW.

    DNG states its version (tag 50706). In NEF and ARW the first image is of reduced size (tag 254, bit 0) and its
    directory points to further ones (tag 330). CR2 has the letters CR behind the header.
    """
    if start[8:10] == b"CR":
        return True
    order: Literal["little", "big"] = "little" if start[:1] == b"I" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(start[place : place + size], order)

    first = number(4, 4)
    end = first + 2 + 12 * min(number(first, 2), 200)
    tags = {number(place, 2): number(place + 8, 4) for place in range(first + 2, end, 12)}
    return 50706 in tags or (330 in tags and bool(tags.get(254, 0) & 1))


def id3(start: bytes) -> bool:
    """Return whether an ID3 tag is of version 2 to 4, with valid flags and a size of 7 bits a byte (ID3v2.4, 3.1)."""
    return len(start) >= 10 and start[3] in (2, 3, 4) and not start[5] & 0x0F and max(start[6:10]) < 128


def aiff(start: bytes) -> bool:
    """Return whether an IFF file holds sound: AIFF, AIFF-C or an Amiga's 8SVX and 16SV."""
    return start[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV")


def mpeg_sync(start: bytes) -> bool:
    """Return whether the eleven set bits are there that begin a frame of MPEG audio."""
    return len(start) > 1 and start[1] & 0xE0 == 0xE0


def iso_media_box(start: bytes) -> bool:
    """Return whether it begins with a box of ISO base media (ISO 14496-12) or of QuickTime."""
    size = int.from_bytes(start[:4], "big")
    return start[4:8] in BOXES and (size in (0, 1) or size >= 8)


def icon(start: bytes) -> bool:
    """Return whether the first image of an icon lies right behind the directory, which has 16 bytes an entry."""
    return int.from_bytes(start[18:22], "little") == 6 + 16 * int.from_bytes(start[4:6], "little") > 6


def flash(start: bytes) -> bool:
    """Return whether the version of a Flash file is a small number."""
    return len(start) > 8 and 0 < start[3] < 64


def pnm(start: bytes) -> bool:
    """Return whether it begins like a netpbm image or one of Pillow's variants of it."""
    return PNM.match(start) is not None


def text_pnm(start: bytes) -> bool:
    """Return whether it is a netpbm image that is also valid text: written in digits, or with printable bytes only."""
    if PLAIN_PNM.fullmatch(start) or PAM.match(start):
        return True
    if found := BITMAP.match(start):
        size = -(-int(found[2]) // 8) * int(found[3])
    elif found := PACKED_PNM.match(start):
        size = int(found[2]) * int(found[3]) * (3 if found[1] == b"6" else 1) * (1 if int(found[4]) < 256 else 2)
    else:
        return False
    return size + found.end() == len(start) or size + found.end() > len(start) == HEAD


def text_pdf(start: bytes) -> bool:
    """Return whether it is a PDF without compressed parts: a first line with the version alone, then objects."""
    return re.match(rb"%PDF-\d\.\d\s*[\r\n]", start) is not None and b" obj" in start


def git_lfs_pointer(start: bytes) -> bool:
    """Return whether it is the text file that Git LFS leaves in place of a file."""
    return start.startswith(b"version https://git-lfs.github.com/spec/") and b"\noid sha256:" in start


def git_annex_pointer(start: bytes) -> bool:
    """Return whether it is a single line that names an object of git-annex."""
    return b"annex/objects/" in start[:200] and len(start) < 1000 and len(start.split()) == 1


def is_utf8(start: bytes) -> bool:
    """Return whether it is UTF-8 without zero bytes. The start of a longer file may end within a character."""
    if b"\0" in start:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) < HEAD)
    except UnicodeDecodeError:
        return False
    return True


def has_controls(start: bytes) -> bool:
    """Return whether the first 8 KiB contain a control character that no text needs; binary formats always do."""
    if CONTROLS.search(start, 0, 64):  # cheap, and enough for nearly every binary file
        return True
    beginning = start[:8192]
    return len(beginning.translate(None, CONTROL_BYTES)) < len(beginning)


def text_encoding(start: bytes) -> str:
    """Return the encoding that a byte order mark states; ``utf-8-sig`` where the text has no mark."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8-sig")


def utf16_or_utf32_with_mark(start: bytes) -> bool:
    """Return whether it is UTF-16 or UTF-32 with a byte order mark and without control characters."""
    charset = text_encoding(start)
    if charset == "utf-8-sig":
        return False
    try:
        text = codecs.getincrementaldecoder(charset)().decode(start, final=len(start) < HEAD)
    except UnicodeDecodeError:
        return False
    return not has_controls(text.encode("utf-8", "replace"))


def utf16_without_mark(start: bytes) -> bool:
    """Return whether it is UTF-16 of Latin letters without a byte order mark: every second byte is zero."""
    beginning = start[: min(len(start), 512) & ~1]
    even, odd = beginning[::2], beginning[1::2]
    pairs = (odd, even), (even, odd)
    return len(beginning) >= 4 and any(not any(zeros) and CONTROLS.search(letters) is None for zeros, letters in pairs)


def text_of_other_charset(start: bytes) -> bool:
    """Return whether it may be text in Latin-1, Shift JIS or another charset.

    Such text has no control characters. It is mostly ASCII, or it is long and has spaces or line ends.
    """
    if has_controls(start):
        return False
    mostly_ascii = 2 * sum(byte < 0x80 for byte in start) > len(start)
    return mostly_ascii or (len(start) >= 64 and (b" " in start or b"\n" in start))
