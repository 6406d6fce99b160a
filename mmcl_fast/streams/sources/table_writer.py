"""Copies of CSV, TSV, JSONL and Parquet files without some of their rows. The other rows stay as they are."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sources.table_reader import read_table_rows
from mmcl_fast.streams.sources.text_file import open_text


def copy_without_rows(file: Path, target: Path, numbers: Collection[int]) -> None:
    """Write a copy of a table without the rows of these numbers, as ``TableRow.number`` counts them.

    Raises:
        StreamError: the table can't be read, or the copy can't be written. An incomplete copy is removed.
    """
    try:
        if file.suffix.lower() == ".parquet":
            _copy_parquet(file, target, numbers)
        else:
            _copy_lines(file, target, numbers)
    except OSError as fault:
        raise StreamError(
            f"{target}: can't be written ({fault.strerror or fault}): make room, or the folder writable"
        ) from None


def _copy_lines(file: Path, target: Path, numbers: Collection[int]) -> None:
    # A row may have several lines. It ends where the next one begins.
    starts = [row.number for row in read_table_rows(file, header=False)]
    ends = dict(zip(starts, [*starts[1:], None]))
    left_out: set[int] = set()
    unknown = set(numbers) - ends.keys()
    if unknown:
        raise StreamError(f"{file} line {min(unknown)}: no row begins there: remove the rows by hand")
    with open_text(file, newline="") as source:
        lines, encoding = list(source), source.encoding
    for number in numbers:
        left_out.update(range(number, ends[number] or len(lines) + 1))
    text = "".join(line for number, line in enumerate(lines, 1) if number not in left_out)
    with open(target, "xb") as out:
        try:
            out.write(text.encode(encoding))
            out.flush()
            os.fsync(out.fileno())
        except OSError:
            os.unlink(target)
            raise


def _copy_parquet(file: Path, target: Path, numbers: Collection[int]) -> None:
    from pyarrow import parquet

    table = parquet.read_table(file)
    rows = [row for row in range(table.num_rows) if row + 1 not in numbers]
    with open(target, "xb") as out:
        try:
            parquet.write_table(table.take(rows), out)
        except OSError:
            os.unlink(target)
            raise
