"""Text samples from the rows of a table."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from mmcl_fast.errors import ConfigError, StreamError, did_you_mean
from mmcl_fast.media.system_files import is_system_file
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import SPLITS, Sample
from mmcl_fast.streams.sources.label_names import name_labels
from mmcl_fast.streams.sources.parquet import parquet_columns
from mmcl_fast.streams.sources.table_reader import (
    ADVICE_FOR_ENDINGS,
    TABLE_ENDINGS,
    not_a_table_message,
    read_table_rows,
)
from mmcl_fast.streams.sources.table_row import TableRow
from mmcl_fast.streams.validate import check_characters, check_split

_PART_NUMBER = re.compile(r"-[0-9]+-of-[0-9]+$")  # of a dataset in several files: train-00000-of-00002.parquet
NAMES_SHOWN = 12  # column names that a message lists


def read_text_table(
    path: Path,
    findings: Findings | None = None,
    *,
    text: str | Sequence[str] = "text",
    label: str = "label",
    split: str = "split",
    header: bool = True,
    group: str = "",
) -> dict[str, Any]:
    """Return the arguments of ``Stream`` for a table; see ``Stream.from_table``. Without ``split`` all rows are tests.

    ``findings`` collects all that is wrong; None: the most harmful error is raised.
    """
    findings = Findings() if findings is None else findings
    columns = TextColumns(split_column_names(text), label, split, header, group)
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
        files = {path: None if split else "test"}
    samples: list[Sample] = []
    for file, file_split in files.items():
        samples += _read_samples(file, columns, file_split, root, findings)
    findings.raise_worst_error()  # before errors that only follow from it, such as a class without samples
    if not samples and not findings:
        raise StreamError(f"{path}: no samples: expected a header and a row for each text")
    texts = read_class_texts(root)
    samples = sorted(name_labels(samples, root, texts), key=lambda sample: sample.label)
    return {"samples": samples, "root": root, "class_texts": texts, "findings": findings}


def table_columns(file: Path) -> Collection[str]:
    """Return the names of a table's columns, none where its first row can't be read."""
    if file.suffix.lower() == ".parquet":
        return parquet_columns(file)
    try:
        first = next(read_table_rows(file), None)
    except StreamError:  # it comes again when the whole file is read
        first = None
    return first.values if first else ()


def is_text_table(file: Path) -> bool:
    """Whether the rows of a file are texts. The rows of a manifest have a modality or a path instead."""
    # CSV and TSV that can't be read here are taken for texts, because manifests are mostly JSONL.
    names = table_columns(file) or (("text",) if file.suffix.lower() in (".csv", ".tsv") else ())
    return bool(names) and "modality" not in names and ("text" in names or "path" not in names)


def find_split_tables(folder: Path) -> dict[Path, str]:
    """Return the tables in a folder and the split that each is named by: training files first, then val, then test.

    Raises:
        StreamError: a table has another name, or a split is there in a format that is not read.
    """
    tables: dict[Path, str] = {}
    others: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or is_system_file(file.name) or not file.is_file():
            continue
        if file.suffix.lower() in TABLE_ENDINGS:
            split = _PART_NUMBER.sub("", file.stem)
            check_split(split, str(file))
            tables[file] = split
        elif file.suffix.lower() in ADVICE_FOR_ENDINGS:
            others.setdefault(_PART_NUMBER.sub("", file.name.partition(".")[0]), file)
    missing = next((others[split] for split in SPLITS if split in others and split not in tables.values()), None)
    if missing is not None:
        raise StreamError(not_a_table_message(missing))
    return dict(sorted(tables.items(), key=lambda pair: (SPLITS.index(pair[1]), pair[0])))


def read_split_tables(
    folder: Path, root: Path, text: str | Sequence[str], label: str, header: bool, findings: Findings
) -> list[Sample]:
    """Return the samples of all tables in ``folder``. Their keys are relative to ``root``.

    ``text``, ``label``, ``header`` and ``findings``: as in ``read_text_table``.
    """
    columns = TextColumns(split_column_names(text), label, "", header)
    samples = [
        sample
        for file, split in find_split_tables(folder).items()
        for sample in _read_samples(file, columns, split, root, findings)
    ]
    findings.raise_worst_error()
    return samples


def split_column_names(text: str | Sequence[str]) -> list[str]:
    """Return the column names in a list, or in a string separated by commas."""
    return [name.strip() for name in text.split(",")] if isinstance(text, str) else list(text)


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table that samples are made from.

    Attributes:
        text: columns whose texts are joined by a space.
        label: column of the class.
        split: column of the split; not read where the file's name says the split.
        header: whether CSV and TSV have a line of column names.
        group: column of the group; empty: none.
    """

    text: list[str]
    label: str
    split: str
    header: bool
    group: str = ""

    def choose(self, names: list[str], file: Path, *, with_split: bool) -> list[str]:
        """Return the columns to read. Raises StreamError where one of them is not among ``names``."""
        for option, column in [*(("text", name) for name in self.text), ("label", self.label)]:
            if column not in names:
                raise StreamError(self._missing_message(file, option, column, names))
        if self.group and self.group not in names:
            raise ConfigError(
                f"stream.group: {file} has no column {self.group!r}{did_you_mean(self.group, names)} among "
                f"{', '.join(map(repr, names[:NAMES_SHOWN]))}; name one of them"
            )
        others = [self.group] if self.group else []
        if not with_split:
            return [*self.text, self.label, *others]
        if self.split not in names:
            raise StreamError(
                f"{file}: no column {self.split!r}{did_you_mean(self.split, names)} to tell train from test: give "
                "its name as split = ..., or a folder that holds train.csv and test.csv"
            )
        return [*self.text, self.label, self.split, *others]

    def _missing_message(self, file: Path, option: str, column: str, names: list[str]) -> str:
        listed = ", ".join(map(repr, names[:NAMES_SHOWN]))
        hint = ", or header = false and a column's number where the first line is a row" if self.header else ""
        similar = did_you_mean(column, names)
        return f"{file}: no column {column!r}{similar} among {listed}: give its name as {option} = ...{hint}"


def _read_samples(
    file: Path, columns: TextColumns, file_split: str | None, root: Path, findings: Findings
) -> Iterator[Sample]:
    """Yield a sample for each row, and add a finding for each row with an error.

    ``file_split``: the split that the file's name says; None: the column ``columns.split`` says it.
    """
    key = file.relative_to(root).as_posix()
    rows = read_table_rows(
        file, header=columns.header, choice=lambda names: columns.choose(names, file, with_split=file_split is None)
    )
    for row in rows:
        try:
            yield _make_sample(row, columns, file_split, key)
        except StreamError as error:
            findings.add("row", error, modality="text", path=str(file), key=f"{key}:{row.number}")


def _make_sample(row: TableRow, columns: TextColumns, file_split: str | None, key: str) -> Sample:
    where, number, values = row
    texts = [_field_text(values, name, where).strip() for name in columns.text]
    label = _field_text(values, columns.label, where).strip()
    split = file_split or _field_text(values, columns.split, where).strip()
    check_split(split, where)
    joined = " ".join(text for text in texts if text)
    if not joined or not label:
        empty = ", ".join(columns.text) if not joined else columns.label
        raise StreamError(f"{where}: {empty!r} is empty: fill it or remove the row")
    group = _field_text(values, columns.group, where).strip() if columns.group else ""
    return Sample("text", label, None, joined, split, f"{key}:{number}", group)


def _field_text(values: dict[str, Any], name: str, where: str) -> str:
    """Return a field as text, and "" where it is null or NaN. Whole numbers are written without a point."""
    if name not in values:
        raise StreamError(f"{where}: {name!r} is missing{did_you_mean(name, values)}: correct it")
    value = values[name]
    if value is None or (isinstance(value, (float, Decimal)) and math.isnan(value)):
        return ""
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and value % 1 == 0:
        return str(int(value))  # pandas makes 1.0 of 1 where another row of the column is empty
    if not isinstance(value, str):
        raise StreamError(f"{where}: {name!r} is {type(value).__name__}, not text: correct it")
    check_characters(value, f"{where}: {name!r}")
    return value
