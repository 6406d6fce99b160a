"""Text samples from the rows of a table."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError, did_you_mean
from mmcl_fast.media.system_files import is_system_file
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import SPLITS, Sample
from mmcl_fast.streams.sources.label_names import name_labels
from mmcl_fast.streams.sources.parquet import parquet_columns
from mmcl_fast.streams.sources.table_reader import ADVICE_FOR_ENDINGS, TABLE_ENDINGS, not_a_table_message, read_table_rows
from mmcl_fast.streams.sources.table_row import TableRow
from mmcl_fast.streams.validate import check_characters, check_split

_SHARD = re.compile(r"-[0-9]+-of-[0-9]+$")  # as datasets are split into files: train-00000-of-00002.parquet


def read_text_table(
    path: Path,
    findings: Findings | None = None,
    *,
    text: str | Sequence[str] = "text",
    label: str = "label",
    split: str = "split",
    header: bool = True,
) -> dict[str, Any]:
    """Arguments of ``Stream``; see ``Stream.from_table``. ``findings`` collects what is wrong, or it is raised."""
    findings = Findings() if findings is None else findings
    columns = _columns(text)
    root = path if path.is_dir() else path.parent
    if path.is_dir():
        files: Mapping[Path, str | None] = find_split_tables(path)
        if not files:
            raise StreamError(
                f"{path}: no table there: expected files named by their split, such as train.csv and "
                f"test.csv (or {', '.join(TABLE_ENDINGS[1:])})"
            )
    elif path.suffix.lower() not in TABLE_ENDINGS:
        raise StreamError(not_a_table_message(path))
    else:
        files = {path: None}
    samples: list[Sample] = []
    for file, fixed in files.items():
        samples += _samples(file, columns, label, fixed, split, header, root, findings)
    findings.raise_worst_error()  # before what follows of it, such as a class without samples
    if not samples and not findings:
        raise StreamError(f"{path}: no samples: expected a header and a row for each text")
    texts = read_class_texts(root)
    return {
        "samples": sort_by_class(name_labels(samples, root, texts)),
        "root": root,
        "class_texts": texts,
        "findings": findings,
    }


def is_text_table(file: Path) -> bool:
    """Whether a file holds texts, and not the lines of a manifest, of which each tells its modality."""
    ending = file.suffix.lower()
    if ending == ".parquet":
        names: Collection[str] = parquet_columns(file)
    else:
        try:
            first = next(read_table_rows(file), None)
        except StreamError:  # comes again when all is read
            first = None
        names = first.values if first else ("text",) if ending in (".csv", ".tsv") else ()
    return bool(names) and "modality" not in names and ("text" in names or "path" not in names)


def find_split_tables(folder: Path) -> dict[Path, str]:
    """The tables of a folder and the splits that they are named by, in the splits' order.

    Raises StreamError for a table of an unknown split, and for a split that is there in another format only.
    """
    tables: dict[Path, str] = {}
    others: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or is_system_file(file.name) or not file.is_file():
            continue
        if file.suffix.lower() in TABLE_ENDINGS:
            split = _SHARD.sub("", file.stem)
            check_split(split, str(file))
            tables[file] = split
        elif file.suffix.lower() in ADVICE_FOR_ENDINGS:
            others.setdefault(_SHARD.sub("", file.name.partition(".")[0]), file)
    missing = next((others[split] for split in SPLITS if split in others and split not in tables.values()), None)
    if missing is not None:
        raise StreamError(not_a_table_message(missing))
    return dict(sorted(tables.items(), key=lambda pair: (SPLITS.index(pair[1]), pair[0])))


def read_split_tables(
    folder: Path, root: Path, text: str | Sequence[str], label: str, header: bool, findings: Findings | None = None
) -> list[Sample]:
    """The samples of a folder's tables; keys are relative to ``root``."""
    findings = Findings() if findings is None else findings
    samples = [
        sample
        for file, split in find_split_tables(folder).items()
        for sample in _samples(file, _columns(text), label, split, "", header, root, findings)
    ]
    findings.raise_worst_error()
    return samples


def sort_by_class(samples: list[Sample]) -> list[Sample]:
    """By class; within one as they came."""
    return sorted(samples, key=lambda sample: sample.label)


def _columns(text: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in text.split(",")] if isinstance(text, str) else list(text)


def _samples(
    file: Path,
    columns: list[str],
    label: str,
    fixed: str | None,
    split: str,
    header: bool,
    root: Path,
    findings: Findings,
) -> Iterator[Sample]:
    asked = [*columns, label] if fixed else [*columns, label, split]

    def choose_columns(names: list[str]) -> list[str]:
        for option, column in [*(("text", name) for name in columns), ("label", label)]:
            if column not in names:
                raise StreamError(_missing(file, option, column, names, header))
        if fixed is None and split not in names:
            raise StreamError(
                f"{file}: no column {split!r}{did_you_mean(split, names)} to tell train from test: give "
                "its name as split = ..., or a folder that holds train.csv and test.csv"
            )
        return asked

    key = file.relative_to(root).as_posix()
    for row in read_table_rows(file, header=header, choice=choose_columns):
        try:
            yield _sample(row, columns, label, split, fixed, key)
        except StreamError as error:
            findings.add("row", error, modality="text", path=str(file), key=f"{key}:{row.number}")


def _sample(row: TableRow, columns: list[str], label: str, split: str, fixed: str | None, key: str) -> Sample:
    where, number, values = row
    parts = [_field(values, name, where) for name in columns]
    name = _field(values, label, where).strip()
    part = fixed or _field(values, split, where).strip()
    check_split(part, where)
    words = " ".join(part.strip() for part in parts if part.strip())
    if not words or not name:
        empty = ", ".join(columns) if not words else label
        raise StreamError(f"{where}: {empty!r} is empty: fill it or remove the row")
    return Sample("text", name, None, words, part, f"{key}:{number}")


def _missing(file: Path, option: str, column: str, names: list[str], header: bool) -> str:
    listed = ", ".join(map(repr, names[:12]))
    hint = "" if not header else ", or header = false and a column's number where the first line is a row"
    similar = did_you_mean(column, names)
    return f"{file}: no column {column!r}{similar} among {listed}: give its name as {option} = ...{hint}"


def _field(values: dict[str, Any], name: str, where: str) -> str:
    """A field as text; "" where it is null or not a number. Whole numbers are written without a point."""
    if name not in values:
        raise StreamError(f"{where}: {name!r} is missing{did_you_mean(name, values)}: correct it")
    value = values[name]
    if value is None or (isinstance(value, (float, Decimal)) and math.isnan(value)):
        return ""
    number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and math.isfinite(value)
    if number and value % 1 == 0:
        return str(int(value))  # pandas makes 1.0 of 1 where another row of the column is empty
    if not isinstance(value, str):
        raise StreamError(f"{where}: {name!r} is {type(value).__name__}, not text: correct it")
    check_characters(value, f"{where}: {name!r}")
    return value
