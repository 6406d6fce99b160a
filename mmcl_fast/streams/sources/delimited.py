"""Rows of CSV and TSV as programs write them.

CSV follows RFC 4180: fields are quoted with ``"`` where they hold separators, quotes or line ends. Spreadsheets of many
countries separate by semicolons, and some exports by tabs: the header tells. TSV has no quotes by its own rules, but
pandas and Excel quote in it too: a field counts as quoted if its quotes are whole, and as it stands otherwise.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sources.table_row import ColumnChoice, TableRow, select_columns
from mmcl_fast.streams.sources.text_file import MARK, not_text_error, open_text

FIELD = 1 << 26  # characters in one field
HEAD = 50  # records that are looked at to find the separator
LINES = 1000  # lines of one quoted field in TSV
_NAMED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAID = re.compile(r'"?sep=([,;|\t])"?\s*')  # Excel's own first line
_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*"(?=\t|\Z)')

Records = Iterator[tuple[int, list[str]]]  # number of the first line, fields


def read_delimited(path: Path, header: bool, wanted: ColumnChoice | None) -> Iterator[TableRow]:
    """The rows; blank ones are passed over. Raises OSError, and StreamError naming file and line."""
    separator, skipped = _separator(path, header, wanted)
    names: list[str] | None = None
    for number, fields in _records(path, separator, skipped):
        if not any(field.strip() for field in fields):
            continue
        where = f"{path} line {number}"
        if names is None:
            names = _names(fields, header)
            advice = ", or say header = false where the first line is a row" if header else ""
            asked = set(select_columns(names, wanted, where, advice))
            if header:
                continue
        row = _fitted(fields, len(names))
        if row is None:
            raise StreamError(_misfit(where, len(fields), len(names), separator))
        yield TableRow(where, number, {name: field for name, field in zip(names, row) if name in asked})


def _misfit(where: str, count: int, expected: int, separator: str) -> str:
    line = f"{where}: {count} fields where the first line has {expected}"
    if count < expected:
        return f"{line}: give the row all its fields, or remove it"
    unnamed = "; if the first column has no name, give it one" if count == expected + 1 else ""
    return f"{line}: put fields that hold {_NAMED[separator]} or line ends into quotes{unnamed}"


def _names(fields: list[str], header: bool) -> list[str]:
    """Names of the columns. Columns at the end that have no name are left out."""
    if not header:
        return [str(i) for i in range(1, len(fields) + 1)]
    names = [name.strip() for name in fields]
    while names and not names[-1]:
        names.pop()
    return names


def _fitted(fields: list[str], count: int) -> list[str] | None:
    """The fields without empty ones beyond ``count``, or None where they are not as many."""
    if any(field.strip() for field in fields[count:]) or len(fields) < count:
        return None
    return fields[:count]


def _separator(path: Path, header: bool, wanted: ColumnChoice | None) -> tuple[str, int]:
    """The separator, and the number of lines before the header: 1 where Excel's ``sep=;`` stands there.

    It is the first one whose columns are the wanted ones and whose records are equally long; by default commas in CSV.
    """
    with open_text(path, newline="") as file:
        said = _SAID.fullmatch(_start(path, file))
    if said:
        return said[1], 1
    order = "\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|"
    best, rank = order[0], (False, False, 1)
    for separator in order:
        if rank[:2] == (True, True):
            break
        head = _head(path, separator)
        if not head:
            continue
        names = _names(head[0], header)
        even = all(_fitted(fields, len(names)) for fields in head)
        this = (_fits(names, wanted), even, len(names))
        # Wanted columns go before even records, and both before their number, which only serves the message.
        if (len(names) > 1 and this[:2] > rank[:2]) or (not rank[0] and this[2] > rank[2]):
            best, rank = separator, this
    return best, 0


def _fits(names: list[str], wanted: ColumnChoice | None) -> bool:
    try:
        return wanted is None or bool(wanted(names))
    except StreamError:
        return False


def _start(path: Path, file: IO[str]) -> str:
    try:
        return file.readline(64)
    except UnicodeDecodeError:
        raise not_text_error(path) from None


def _head(path: Path, separator: str) -> list[list[str]]:
    found = []
    try:
        for _, fields in itertools.islice(_records(path, separator, 0), HEAD):
            if any(field.strip() for field in fields):
                found.append(fields)
    except StreamError:  # comes again when the rows are read
        pass
    return found


def _records(path: Path, separator: str, skipped: int) -> Records:
    with open_text(path, newline="") as file:
        try:
            for _ in range(skipped):
                file.readline()
            found = _tab_records(file) if separator == "\t" else _csv_records(path, file, separator, skipped)
            for number, fields in found:
                if fields and fields[0].startswith(MARK):  # of a file that was appended to another
                    fields[0] = fields[0].lstrip(MARK)
                yield number + skipped, fields
        except UnicodeDecodeError:
            raise not_text_error(path) from None


def _csv_records(path: Path, file: IO[str], separator: str, skipped: int) -> Records:
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
    end = 0
    while True:
        before = csv.field_size_limit(FIELD)  # one for all readers of the process
        try:
            fields = next(reader, None)
        except csv.Error as error:
            where = f"{path} line {end + 1 + skipped}"
            if "field limit" in str(error):
                raise StreamError(f"{where}: a field of more than {FIELD} characters: close its quotes") from None
            raise StreamError(f"{where}: {error}: put the field into quotes and double those in it") from None
        finally:
            csv.field_size_limit(before)
        if fields is None:
            return
        number, end = end + 1, reader.line_num
        yield number, fields


def _tab_records(file: IO[str]) -> Records:
    lines = map(_without_end, file)
    ahead: deque[tuple[str, str]] = deque()  # lines that were looked at, and their ends
    width = 0  # fields of the first record
    number = 1
    while (ahead or _more(ahead, lines, 1)) and (line := ahead.popleft()):
        fields = _tab_fields(line[0], width)
        taken = 1
        if _open_at(line[0]) >= 0:
            _more(ahead, lines, LINES - len(ahead))
            fields, taken = _joined([line, *ahead], width) or (fields, 1)
            for _ in range(taken - 1):
                ahead.popleft()
        yield number, fields
        number += taken
        width = width or len(fields)


def _more(ahead: deque[tuple[str, str]], lines: Iterator[tuple[str, str]], count: int) -> bool:
    """Puts up to ``count`` more lines into ``ahead``; whether there are any."""
    before = len(ahead)
    ahead.extend(itertools.islice(lines, max(0, count)))
    return len(ahead) > before


def _without_end(line: str) -> tuple[str, str]:
    text = line.rstrip("\r\n")
    return text, line[len(text) :]


def _tab_fields(text: str, width: int) -> list[str]:
    """Fields of one line. Where a quoted field may hold tabs, the reading that has ``width`` fields is right."""
    if '"' not in text:
        return text.split("\t")
    plain = [_unquoted(field) for field in text.split("\t")]
    if len(plain) == width:
        return plain
    quoted = _quoted_fields(text)
    return quoted if not width or len(quoted) == width else plain


def _quoted_fields(text: str) -> list[str]:
    """Fields of which quoted ones may hold tabs and line ends."""
    fields, place = [], 0
    while True:
        match = _QUOTED.match(text, place)
        end = match.end() if match else text.find("\t", place)
        field = text[place:] if end < 0 else text[place:end]
        fields.append(_unquoted(field))
        if end < 0 or end == len(text):
            return fields
        place = end + 1


def _unquoted(field: str) -> str:
    """What a field says whose quotes are whole; other fields stand as they are."""
    return field[1:-1].replace('""', '"') if field[:1] == '"' and _QUOTED.fullmatch(field) else field


def _open_at(text: str) -> int:
    """Where the last field begins if its first character is a quote that nothing closes in this line; else -1."""
    begun = text.rfind('\t"') + 1
    return begun if text[begun : begun + 1] == '"' and not _QUOTED.match(text, begun) else -1


def _closed_at(line: str, place: int) -> int | None:
    """The end of the quoted field that ``place`` is in; -1: it goes on in the next line; None: a quote is alone."""
    while (place := line.find('"', place)) >= 0:
        after = line[place + 1 : place + 2]
        if after in ("", "\t"):
            return place + 1
        if after != '"':
            return None
        place += 2
    return -1


def _joined(lines: list[tuple[str, str]], width: int) -> tuple[list[str], int] | None:
    """The record of a field that goes on over lines, and how many; None where its quote is a lone one.

    A lone quote and a quote that is closed lines later look alike where every line by itself is a whole record. Then
    the lines are records.
    """
    whole, text, place = True, "", _open_at(lines[0][0]) + 1
    for count, (line, end) in enumerate(lines, 1):
        whole = whole and len(_tab_fields(line, width)) == width
        text += line
        closed = _closed_at(line, place)
        if closed is None:
            return None
        if closed >= 0 and _open_at(line[closed:]) < 0:
            fields = _quoted_fields(text)
            return (fields, count) if len(fields) == width and not whole else None
        text, place = text + end, 0
    return None
