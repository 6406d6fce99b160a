"""The rows of CSV and TSV files as programs really write them.

CSV follows RFC 4180: a field is quoted with ``"`` if it holds separators, quotes or line ends. Spreadsheets of many
countries separate by semicolons, and some exports by tabs. The header shows which separator a file has. TSV has no
quotes by its own rules, but pandas and Excel quote in it too. A TSV field counts as quoted if its quotes match, and is
otherwise taken as it is.
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
from mmcl_fast.streams.sources.text_file import BYTE_ORDER_MARK, not_text_error, open_text

LONGEST_FIELD = 1 << 26  # characters
RECORDS_EXAMINED = 50  # to find the separator
MOST_LINES_OF_FIELD = 1000  # of one quoted field in TSV
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?\s*')  # Excel's own first line
_QUOTED_FIELD = re.compile(r'"[^"]*(?:""[^"]*)*"(?=\t|\Z)')

Records = Iterator[tuple[int, list[str]]]  # number of the record's first line, and its fields


def read_delimited(path: Path, header: bool, choice: ColumnChoice | None) -> Iterator[TableRow]:
    """Yield the rows that are not blank. ``header``, ``choice``: as in ``read_table_rows``.

    Raises:
        OSError: the file can't be read.
        StreamError: one line that names the file and the line.
    """
    separator, lines_before_header = _find_separator(path, header, choice)
    names: list[str] | None = None
    for number, fields in _read_records(path, separator, lines_before_header):
        if not any(field.strip() for field in fields):
            continue
        where = f"{path} line {number}"
        if names is None:
            names = _column_names(fields, header)
            advice = ", or set header = false where the first line is a row" if header else ""
            chosen = set(select_columns(names, choice, where, advice))
            if header:
                continue
        row = _cut_to_width(fields, len(names))
        if row is None:
            raise StreamError(_width_message(where, len(fields), len(names), separator))
        yield TableRow(where, number, {name: field for name, field in zip(names, row) if name in chosen})


def _width_message(where: str, count: int, expected: int, separator: str) -> str:
    line = f"{where}: {count} fields where the first line has {expected}"
    if count < expected:
        return f"{line}: give the row all its fields, or remove it"
    unnamed = "; if the first column has no name, give it one" if count == expected + 1 else ""
    return f"{line}: put fields that hold {_SEPARATOR_NAMES[separator]} or line ends into quotes{unnamed}"


def _column_names(fields: list[str], header: bool) -> list[str]:
    """Return the names of the columns, without columns at the end that have no name."""
    if not header:
        return [str(i) for i in range(1, len(fields) + 1)]
    names = [name.strip() for name in fields]
    while names and not names[-1]:
        names.pop()
    return names


def _cut_to_width(fields: list[str], width: int) -> list[str] | None:
    """Return the first ``width`` fields if all further ones are blank; None where there are fewer or more."""
    if any(field.strip() for field in fields[width:]) or len(fields) < width:
        return None
    return fields[:width]


def _find_separator(path: Path, header: bool, choice: ColumnChoice | None) -> tuple[str, int]:
    """Return the separator, and the number of lines before the header: 1 where Excel's ``sep=;`` stands there.

    It is the first separator that gives the chosen columns and records of equal length; by default commas in CSV.
    """
    with open_text(path, newline="") as file:
        separator_line = _SEPARATOR_LINE.fullmatch(_read_start(path, file))
    if separator_line:
        return separator_line[1], 1
    order = "\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|"
    best, best_rank = order[0], (False, False, 1)
    for separator in order:
        if best_rank[:2] == (True, True):
            break
        records = _first_records(path, separator)
        if not records:
            continue
        names = _column_names(records[0], header)
        equal_length = all(_cut_to_width(fields, len(names)) for fields in records)
        rank = (_has_chosen_columns(names, choice), equal_length, len(names))
        # Chosen columns go before equal length, and both before the number of columns, which only serves the message.
        if (len(names) > 1 and rank[:2] > best_rank[:2]) or (not best_rank[0] and rank[2] > best_rank[2]):
            best, best_rank = separator, rank
    return best, 0


def _has_chosen_columns(names: list[str], choice: ColumnChoice | None) -> bool:
    try:
        return choice is None or bool(choice(names))
    except StreamError:
        return False


def _read_start(path: Path, file: IO[str]) -> str:
    try:
        return file.readline(64)
    except UnicodeDecodeError:
        raise not_text_error(path) from None


def _first_records(path: Path, separator: str) -> list[list[str]]:
    records = []
    try:
        for _, fields in itertools.islice(_read_records(path, separator, 0), RECORDS_EXAMINED):
            if any(field.strip() for field in fields):
                records.append(fields)
    except StreamError:  # it comes again when the rows are read
        pass
    return records


def _read_records(path: Path, separator: str, lines_before_header: int) -> Records:
    with open_text(path, newline="") as file:
        try:
            for _ in range(lines_before_header):
                file.readline()
            if separator == "\t":
                records = _tab_records(file)
            else:
                records = _csv_records(path, file, separator, lines_before_header)
            for number, fields in records:
                # The mark stands in the middle where a file was appended to another one.
                if fields and fields[0].startswith(BYTE_ORDER_MARK):
                    fields[0] = fields[0].lstrip(BYTE_ORDER_MARK)
                yield number + lines_before_header, fields
        except UnicodeDecodeError:
            raise not_text_error(path) from None


def _csv_records(path: Path, file: IO[str], separator: str, lines_before_header: int) -> Records:
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
    end = 0
    while True:
        # The limit is one for the whole process, so it is set for one record and then put back.
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            where = f"{path} line {end + 1 + lines_before_header}"
            if "field limit" in str(error):
                raise StreamError(
                    f"{where}: a field of more than {LONGEST_FIELD} characters: close its quotes"
                ) from None
            raise StreamError(f"{where}: {error}: put the field into quotes and double those in it") from None
        finally:
            csv.field_size_limit(before)
        if fields is None:
            return
        number, end = end + 1, reader.line_num
        yield number, fields


def _tab_records(file: IO[str]) -> Records:
    lines = map(_split_line_end, file)
    ahead: deque[tuple[str, str]] = deque()  # lines that were read ahead, and their ends
    width = 0  # fields of the first record
    number = 1
    while (ahead or _read_ahead(ahead, lines, 1)) and (line := ahead.popleft()):
        fields = _tab_fields(line[0], width)
        lines_taken = 1
        if _open_quote(line[0]) >= 0:
            _read_ahead(ahead, lines, MOST_LINES_OF_FIELD - len(ahead))
            fields, lines_taken = _join_lines([line, *ahead], width) or (fields, 1)
            for _ in range(lines_taken - 1):
                ahead.popleft()
        yield number, fields
        number += lines_taken
        width = width or len(fields)


def _read_ahead(ahead: deque[tuple[str, str]], lines: Iterator[tuple[str, str]], count: int) -> bool:
    """Move up to ``count`` more lines into ``ahead``. Return whether there were any."""
    before = len(ahead)
    ahead.extend(itertools.islice(lines, max(0, count)))
    return len(ahead) > before


def _split_line_end(line: str) -> tuple[str, str]:
    text = line.rstrip("\r\n")
    return text, line[len(text) :]


def _tab_fields(text: str, width: int) -> list[str]:
    """Return the fields of one line.

    A quoted field may hold tabs, or quotes may mean nothing. The reading that has ``width`` fields is taken.
    """
    if '"' not in text:
        return text.split("\t")
    plain = [_unquote(field) for field in text.split("\t")]
    if len(plain) == width:
        return plain
    quoted = _quoted_fields(text)
    return quoted if not width or len(quoted) == width else plain


def _quoted_fields(text: str) -> list[str]:
    """Split at tabs outside of quotes. A quoted field may also hold line ends."""
    fields, place = [], 0
    while True:
        match = _QUOTED_FIELD.match(text, place)
        end = match.end() if match else text.find("\t", place)
        field = text[place:] if end < 0 else text[place:end]
        fields.append(_unquote(field))
        if end < 0 or end == len(text):
            return fields
        place = end + 1


def _unquote(field: str) -> str:
    """Return the content of a field whose quotes match. Other fields stay as they are."""
    return field[1:-1].replace('""', '"') if field[:1] == '"' and _QUOTED_FIELD.fullmatch(field) else field


def _open_quote(text: str) -> int:
    """Return where the last field begins if it begins with a quote that this line does not close; else -1."""
    begin = text.rfind('\t"') + 1
    return begin if text[begin : begin + 1] == '"' and not _QUOTED_FIELD.match(text, begin) else -1


def _close_quote(line: str, place: int) -> int | None:
    """Return the end of the quoted field that ``place`` is in.

    It is -1 if the field goes on in the next line, and None if a quote stands inside the field and is not doubled.
    """
    while (place := line.find('"', place)) >= 0:
        after = line[place + 1 : place + 2]
        if after in ("", "\t"):
            return place + 1
        if after != '"':
            return None
        place += 2
    return -1


def _join_lines(lines: list[tuple[str, str]], width: int) -> tuple[list[str], int] | None:
    """Return the record whose quoted field spans several lines, and how many; None where the quote is a lone one.

    A lone quote looks like a quote that is closed some lines later. If every line by itself is a record of ``width``
    fields, the lines are records and the quote is a lone one.
    """
    all_complete, text, place = True, "", _open_quote(lines[0][0]) + 1
    for count, (line, end) in enumerate(lines, 1):
        all_complete = all_complete and len(_tab_fields(line, width)) == width
        text += line
        closed = _close_quote(line, place)
        if closed is None:
            return None
        if closed >= 0 and _open_quote(line[closed:]) < 0:
            fields = _quoted_fields(text)
            return (fields, count) if len(fields) == width and not all_complete else None
        text, place = text + end, 0
    return None
