"""The rows of CSV, TSV, JSONL and Parquet files, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sources.delimited import read_delimited
from mmcl_fast.streams.sources.parquet import read_parquet
from mmcl_fast.streams.sources.table_row import ColumnChoice, TableRow
from mmcl_fast.streams.sources.text_file import parse_json, read_lines

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
ADVICE_FOR_ENDINGS = {  # what to do with a table in another format
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), "save its sheet as CSV UTF-8"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "unpack it first"),
    **dict.fromkeys((".tab", ".txt"), "if tabs separate its columns, let its name end in .tsv"),
    **dict.fromkeys((".ndjson", ".jsonlines"), "let its name end in .jsonl"),
    **dict.fromkeys((".feather", ".arrow", ".pkl", ".pickle", ".h5"), "save the table as Parquet"),
    ".json": "write one JSON object per line into a file whose name ends in .jsonl",
    ".pq": "let its name end in .parquet",
}


def not_a_table_message(path: Path) -> str:
    """Return one line that says what to do with a file of another ending."""
    advice = ADVICE_FOR_ENDINGS.get(path.suffix.lower(), f"give a file of {', '.join(TABLE_ENDINGS)}")
    return f"{path}: not a table of {', '.join(TABLE_ENDINGS)}: {advice}"


def read_table_rows(path: Path, *, header: bool = True, choice: ColumnChoice | None = None) -> Iterator[TableRow]:
    """Yield the rows of a file. Its ending, one of ``TABLE_ENDINGS``, says the format.

    CSV, TSV and JSONL are UTF-8, or UTF-16 with a byte order mark.

    Args:
        path: the file.
        header: the first line of CSV or TSV names the columns; False: they are called "1", "2", ...
        choice: called with the names of the columns before the first row. It is not called for JSONL, whose rows have
            all fields of their lines.

    Raises:
        StreamError: one line that names the file and the line or row.
    """
    ending = path.suffix.lower()
    try:
        if ending in (".csv", ".tsv"):
            yield from read_delimited(path, header, choice)
        elif ending == ".parquet":
            yield from read_parquet(path, choice)
        elif ending in ADVICE_FOR_ENDINGS and path.exists():
            raise StreamError(not_a_table_message(path))
        else:
            yield from _read_jsonl(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"{path}: {reason}: give a file of {', '.join(TABLE_ENDINGS)}") from None


def _read_jsonl(path: Path) -> Iterator[TableRow]:
    is_first = True
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        advice = "write one JSON object per line"
        if is_first and line.lstrip()[0] == "[":
            advice += ", not an array of them, as pandas' to_json(orient='records', lines=True) does"
        elif is_first and line.strip() == "{":
            advice += ", without line ends in it"
        values = parse_json(line, where, advice, "a JSON object")
        if not isinstance(values, dict):
            raise StreamError(f"{where}: not an object but {type(values).__name__}: {advice}")
        is_first = False
        yield TableRow(where, number, values)
