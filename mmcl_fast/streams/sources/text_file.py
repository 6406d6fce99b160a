"""Text files as people save them: UTF-8 with or without a byte order mark, or UTF-16 with one; and JSON in them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmcl_fast.errors import StreamError
from mmcl_fast.media.signatures import BYTE_ORDER_MARKS

MARK = "\ufeff"  # the byte order mark as a character
_NOT_TEXT = {
    b"PK\x03\x04": "a ZIP file or an Excel workbook: save the sheet as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file: save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed by gzip: gunzip it first",
    b"BZh": "compressed by bzip2: bunzip2 it first",
    b"\xfd7zXZ": "compressed by xz: unxz it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unzstd it first",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"%PDF": "a PDF: save its table as CSV",
}


def detect_encoding(start: bytes) -> str:
    """The encoding that the byte order mark at the start of a file tells; UTF-8 where there is none."""
    return next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


def decode(data: bytes, where: str) -> str:
    """The text of a whole file, without its mark. Raises StreamError that begins with ``where``."""
    try:
        return data.decode(detect_encoding(data))
    except UnicodeDecodeError:
        raise _not_text(io.BytesIO(data), where) from None


def open_text(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    """An open text file; ``newline`` as of ``open``. Raises OSError; StreamError where the file is known to be no text.

    Reading it may raise UnicodeDecodeError: ``not_text_error(path)`` is the error to raise then.
    """
    file = open(path, "rb")
    start = file.read(8)
    file.seek(0)
    if any(start.startswith(magic) for magic in _NOT_TEXT) or _zero_bytes(start):
        with file:
            raise _not_text(file, str(path))
    return io.TextIOWrapper(file, encoding=detect_encoding(start), newline=newline)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line, without its end: LF, CR LF or CR. Raises OSError and StreamError.

    A mark that ``cat`` left in the middle, of a file that was appended, is passed over.
    """
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line.removesuffix("\n").lstrip(MARK)
        except UnicodeDecodeError:
            raise not_text_error(path) from None


def not_text_error(path: Path) -> StreamError:
    """Why a file does not decode, with the line."""
    with open(path, "rb") as file:
        return _not_text(file, str(path))


def read_json(path: Path, expected: str) -> Any:
    """The content of a JSON file in which no object has a key twice; ``expected`` ends messages.

    Raises OSError and StreamError.
    """
    return parse_json(decode(path.read_bytes(), str(path)), str(path), expected, deep=True)


def parse_json(text: str, where: str, expected: str, what: str = "JSON", *, deep: bool = False) -> Any:
    """Parse JSON. json itself keeps the last value of a key that is there twice, and says nothing.

    Args:
        text: one value.
        where: begins messages.
        expected: ends messages.
        what: the value should be.
        deep: refuse a key that is twice in any object; otherwise only the outermost one counts.

    Raises:
        StreamError: it is not JSON, or an object has a key twice.
    """
    twice: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if not deep:
            twice.clear()  # the outermost object ends last
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                twice.append(name)
            found[name] = value
        return found

    try:
        content = json.loads(text, object_pairs_hook=keep)
    except RecursionError:
        raise StreamError(f"{where}: nested too deeply: {expected}") from None
    except ValueError as error:
        raise StreamError(f"{where}: not {what} ({error}): {expected}") from None
    if twice:
        raise StreamError(f"{where}: an object has the key {twice[0]!r} twice: keep one")
    return content


def _zero_bytes(start: bytes) -> bool:
    """Whether it looks like UTF-16 without a mark: every other byte of ASCII text is zero there."""
    return detect_encoding(start) == "utf-8" and len(start) >= 4 and (not any(start[1:4:2]) or not any(start[0:4:2]))


def _not_text(file: BinaryIO, where: str) -> StreamError:
    file.seek(0)
    start = file.read(8)
    for magic, advice in _NOT_TEXT.items():
        if start.startswith(magic):
            return StreamError(f"{where}: not text but {advice}")
    if _zero_bytes(start):
        return StreamError(f"{where}: UTF-16 without a byte order mark, it seems: save it as UTF-8")
    file.seek(0)
    encoding = detect_encoding(start)
    if encoding not in ("utf-8", "utf-8-sig"):
        return StreamError(f"{where}: not sound {encoding.upper()}: save it as UTF-8")
    data = file.read()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        number = len((data[: error.start] + b"-").splitlines())
        return StreamError(f"{where} line {number}: not UTF-8: save the file as UTF-8{_guess(data[error.start])}")
    return StreamError(f"{where}: no text: save it as UTF-8")


def _guess(byte: int) -> str:
    try:
        character = bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return f" (byte {byte:#04x} is {character!r} in Windows-1252, also called cp1252)"
