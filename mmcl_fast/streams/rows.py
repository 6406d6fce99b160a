"""Rows of CSV, TSV, JSONL and Parquet files, one at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmcl_fast.errors import StreamError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FIELD = 1 << 26  # characters in one field


class Row(NamedTuple):
    """``where`` (file and line or row) begins messages; ``values`` by column."""

    where: str
    number: int
    values: dict[str, Any]


def read_rows(path: Path, *, header: bool = True, wanted: Callable[[list[str]], None] | None = None) -> Iterator[Row]:
    """The rows of a file by its ending (``TABLES``).

    CSV and TSV are UTF-8; CSV quotes fields with ``"`` as usual, TSV has no quotes. JSONL holds an object a line.

    Args:
        header: whether the first line of CSV or TSV names the columns; otherwise they are "1", "2", ...
        wanted: called with the columns before the first row (not for JSONL, whose lines may differ); may raise.

    Raises:
        StreamError: one line that names the file and the line or row.
    """
    ending = path.suffix.lower()
    try:
        if ending in (".csv", ".tsv"):
            yield from _separated(path, header, wanted)
        elif ending == ".parquet":
            yield from _parquet(path, wanted)
        else:
            yield from _jsonl(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"{path}: {reason}: give a file of {', '.join(TABLES)}") from None


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise StreamError(f"{where}: not a JSON object ({error}): one object a line") from None
        except RecursionError:
            raise StreamError(f"{where}: nested too deeply: one flat JSON object a line") from None
        if not isinstance(values, dict):
            raise StreamError(f"{where}: not an object but {type(values).__name__}: one JSON object a line")
        yield Row(where, number, values)


def _separated(path: Path, header: bool, wanted: Callable[[list[str]], None] | None) -> Iterator[Row]:
    tabs = path.suffix.lower() == ".tsv"
    quoting = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    end = 0
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, **quoting)
        names: list[str] | None = None
        while True:
            before = csv.field_size_limit(FIELD)  # one for all readers of the process
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise StreamError(
                    f"{path} line {end + 1}: {error}: put the field into quotes and double those in it"
                ) from None
            except UnicodeDecodeError:
                raise StreamError(f"{path} line {_not_utf8(path)}: not UTF-8: save the file as UTF-8") from None
            finally:
                csv.field_size_limit(before)
            if fields is None:
                return
            number, end = end + 1, reader.line_num
            if not fields:
                continue
            if names is None:
                names = [name.strip() for name in fields] if header else [str(i) for i in range(1, len(fields) + 1)]
                twice = next((name for name in names if names.count(name) > 1), None)
                if twice is not None:
                    raise StreamError(
                        f"{path} line {number}: two columns named {twice!r}: rename one, or say "
                        "header = false where the first line is a row"
                    )
                if wanted:
                    wanted(names)
                if header:
                    continue
            where = f"{path} line {number}"
            if len(fields) != len(names):
                raise StreamError(
                    f"{where}: {len(fields)} fields where the first line has {len(names)}: "
                    + ("take tabs and line ends out of fields" if tabs else "quote fields with commas")
                )
            yield Row(where, number, dict(zip(names, fields)))


def _not_utf8(path: Path) -> int:
    """The number of the first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise ValueError(f"{path}: every line is UTF-8")


def _parquet(path: Path, wanted: Callable[[list[str]], None] | None) -> Iterator[Row]:
    """Batches of a row group at a time; columns of bytes, lists and structs are passed over."""
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ImportError:
        raise StreamError(f"{path}: Parquet needs the package pyarrow: pip install 'mmcl-fast[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            if wanted:
                wanted(file.schema_arrow.names)
            heavy = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
            simple = [field.name for field in file.schema_arrow if not any(kind(field.type) for kind in heavy)]
            number = 0
            for batch in file.iter_batches(1024, columns=simple):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path} row {number}", number, values)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise StreamError(f"{path}: not readable as Parquet ({reason}): write the file again") from None
