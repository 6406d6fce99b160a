"""Text files as people save them: UTF-8 with or without a byte order mark, or UTF-16 with one; and JSON in them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmcl_fast.errors import StreamError
from mmcl_fast.media.signatures import BYTE_ORDER_MARKS

BYTE_ORDER_MARK = "\ufeff"
_OTHER_FORMATS = {  # first bytes -> the format, and what to do
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
    """Return the encoding that a byte order mark at the start of a file means; UTF-8 where there is none."""
    return next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


def decode(data: bytes, where: str) -> str:
    """Return the text of a whole file, without its mark.

    Raises:
        StreamError: the bytes are not text. The message begins with ``where``.
    """
    try:
        return data.decode(detect_encoding(data))
    except UnicodeDecodeError:
        raise _explain_not_text(io.BytesIO(data), where) from None


def open_text(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    """Open a text file. ``newline``: as in ``open``.

    Reading the file may raise UnicodeDecodeError. Raise ``not_text_error(path)`` instead.

    Raises:
        OSError: the file can't be opened.
        StreamError: the first bytes show that it is no text file.
    """
    file = open(path, "rb")
    start = file.read(8)
    file.seek(0)
    if any(start.startswith(magic) for magic in _OTHER_FORMATS) or _has_zero_bytes(start):
        with file:
            raise _explain_not_text(file, str(path))
    return io.TextIOWrapper(file, encoding=detect_encoding(start), newline=newline)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line. Lines end in LF, CR LF or CR, which is not part of the text.

    Raises:
        OSError, StreamError: the file can't be read or is no text file.
    """
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                # ``cat`` leaves a mark in the middle if it appends a file with a mark to another one.
                yield number, line.removesuffix("\n").lstrip(BYTE_ORDER_MARK)
        except UnicodeDecodeError:
            raise not_text_error(path) from None


def not_text_error(path: Path) -> StreamError:
    """Return the error that says why a file does not decode as text, and in which line."""
    with open(path, "rb") as file:
        return _explain_not_text(file, str(path))


def read_json(path: Path, expected: str) -> Any:
    """Return the content of a JSON file in which no object has a key twice. ``expected`` ends error messages.

    Raises:
        OSError, StreamError: the file can't be read or is no such JSON.
    """
    return parse_json(decode(path.read_bytes(), str(path)), str(path), expected, deep=True)


def parse_json(text: str, where: str, expected: str, what: str = "JSON", *, deep: bool = False) -> Any:
    """Parse JSON and refuse an object with the same key twice. The json module silently keeps the last value.

    Args:
        text: one JSON value.
        where: begins error messages.
        expected: ends error messages.
        what: what the value should be.
        deep: refuse a key that comes twice in any object; otherwise only the outermost object counts.

    Raises:
        StreamError: the text is not JSON, or an object has a key twice.
    """
    repeated: list[str] = []

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if not deep:
            repeated.clear()  # the outermost object ends last
        content: dict[str, Any] = {}
        for name, value in pairs:
            if name in content:
                repeated.append(name)
            content[name] = value
        return content

    try:
        content = json.loads(text, object_pairs_hook=build_object)
    except RecursionError:
        raise StreamError(f"{where}: nested too deeply: {expected}") from None
    except ValueError as error:
        raise StreamError(f"{where}: not {what} ({error}): {expected}") from None
    if repeated:
        raise StreamError(f"{where}: an object has the key {repeated[0]!r} twice: keep one")
    return content


def _has_zero_bytes(start: bytes) -> bool:
    """Whether this looks like UTF-16 without a mark, where every other byte of ASCII text is zero."""
    return detect_encoding(start) == "utf-8" and len(start) >= 4 and (not any(start[1:4:2]) or not any(start[0:4:2]))


def _explain_not_text(file: BinaryIO, where: str) -> StreamError:
    file.seek(0)
    start = file.read(8)
    for magic, advice in _OTHER_FORMATS.items():
        if start.startswith(magic):
            return StreamError(f"{where}: not text but {advice}")
    if _has_zero_bytes(start):
        return StreamError(f"{where}: UTF-16 without a byte order mark, it seems: save it as UTF-8")
    file.seek(0)
    encoding = detect_encoding(start)
    if encoding not in ("utf-8", "utf-8-sig"):
        return StreamError(f"{where}: not valid {encoding.upper()}: save it as UTF-8")
    data = file.read()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        number, hint = len((data[: error.start] + b"-").splitlines()), _explain_byte(data[error.start])
        return StreamError(f"{where} line {number}: not UTF-8: save the file as UTF-8{hint}")
    return StreamError(f"{where}: no text: save it as UTF-8")


def _explain_byte(byte: int) -> str:
    """Return what the byte would mean in Windows-1252, the most likely encoding of a file that is not UTF-8."""
    try:
        character = bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return f" (byte {byte:#04x} is {character!r} in Windows-1252, also called cp1252)"
