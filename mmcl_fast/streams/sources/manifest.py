"""A manifest, JSONL, Parquet, CSV or TSV, to samples. A line (a row) has

- ``path`` (relative to the manifest's folder, never outside it) or, for text, ``text``;
- ``modality``, ``label`` (class name), ``split`` (train, val, test);
- optional ``task`` (its task's name: on every line or on none) and ``id`` (unique).

Other fields are kept out of the way: a builder may note its sources there. Null, and an empty cell, is no value.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError, did_you_mean
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.sources.label_names import MISSING_VALUES
from mmcl_fast.streams.sources.manifest_paths import ManifestFolder
from mmcl_fast.streams.sources.table_reader import read_table_rows
from mmcl_fast.streams.sources.table_row import TableRow
from mmcl_fast.streams.validate import check_characters, check_file, check_modality, check_split

FIELDS = ("path", "text", "modality", "label", "split", "task", "id")
MANIFEST_NAMES = tuple(
    f"manifest{ending}" for ending in (".jsonl", ".parquet", ".csv", ".tsv")
)  # of a manifest in a folder
_NEEDED = ("modality", "label", "split")


def read_manifest(path: Path, findings: Findings | None = None) -> dict[str, Any]:
    """Arguments of ``Stream``. Raises StreamError naming the manifest and the line, unless ``findings`` collects."""
    if path.is_dir():
        path = next((path / name for name in MANIFEST_NAMES if (path / name).is_file()), path / MANIFEST_NAMES[0])
    findings = Findings() if findings is None else findings
    manifest = _Manifest(path)
    texts = read_class_texts(manifest.folder.path)
    for row in read_table_rows(path, choice=manifest.choose_columns):
        try:
            manifest.add(row, texts)
        except StreamError as error:
            findings.add(getattr(error, "kind", "row"), error, path=str(path))
    findings.raise_worst_error()  # before what follows of it, such as a class without samples
    return {
        "samples": manifest.samples,
        "root": manifest.folder.path,
        "class_texts": texts,
        "task_names": manifest.tasks,
        "findings": findings,
    }


class _Manifest:
    """The samples of the rows so far, and where each was named."""

    def __init__(self, path: Path):
        self.path = path
        self.folder = ManifestFolder(path.parent)
        self.unit = "row" if path.suffix.lower() == ".parquet" else "line"
        self.cells = path.suffix.lower() in (".csv", ".tsv")
        self.samples: list[Sample] = []
        self.tasks: dict[str, str] = {}
        self._keys: dict[str, tuple[int, str]] = {}  # line and split
        self._files: dict[tuple[str, tuple[int, int, int]], int] = {}  # by a name without case, and a file's identity
        self._modalities: dict[str, str] = {}  # of each task
        self._lines = 0

    def choose_columns(self, names: list[str]) -> list[str]:
        """Those of a table that are read."""
        for field in _NEEDED:
            if field not in names:
                others = [name for name in names if name not in FIELDS]
                listed = ", ".join(map(repr, names[:12]))
                hint = did_you_mean(field, others)
                raise StreamError(f"{self.path}: no column {field!r}{hint} among {listed}: add it")
        return [name for name in FIELDS if name in names]

    def add(self, row: TableRow, texts: Mapping[ClassId, str]) -> None:
        """Raises StreamError for a row at fault; ``texts`` are those of classes.json."""
        record = _record(row, self.cells)
        if record["label"] in MISSING_VALUES and (record["modality"], record["label"]) not in texts:
            raise StreamError(
                f"{row.where}: the label {record['label']!r} stands for no value: write the class's name; if it is a "
                "class, give its text in classes.json"
            )
        sample = self._sample(record, row.where, row.number)
        if sample.key in self._keys:
            line, split = self._keys[sample.key]
            raise StreamError(
                f"{row.where}: {sample.key!r} is already on {self.unit} {line}, in the {split} split: "
                f"keep one of the two {self.unit}s"
            )
        self._lines += 1
        if ("task" in record) != bool(self.tasks) and self._lines > 1:
            raise StreamError(f"{row.where}: 'task' must be on every {self.unit} or on none")
        if "task" in record:
            name = record["task"]
            modality = self._modalities.setdefault(name, sample.modality)
            if modality != sample.modality:
                raise StreamError(
                    f"{row.where}: task {name!r} mixes {modality} and {sample.modality}: a task has one modality"
                )
            self.tasks[sample.key] = name
        self._keys[sample.key] = row.number, sample.split
        self.samples.append(sample)

    def _sample(self, record: dict[str, str], where: str, number: int) -> Sample:
        modality, label, split = record["modality"], record["label"], record["split"]
        check_modality(modality, where)
        check_split(split, where)
        if "text" in record:
            if modality != "text":
                raise StreamError(f"{where}: 'text' is for modality text, not {modality}: give a 'path'")
            digest = hashlib.sha256("\0".join((label, record["text"])).encode()).hexdigest()[:20]
            return Sample(modality, label, None, record["text"], split, record.get("id", f"text-{digest}"))
        place = self.folder.locate(record["path"], where)
        file = self.folder.path / place
        identity = check_file(file, modality, f"{where}: path {record['path']!r}", allow_empty=True)
        line = self._files.setdefault((normalize_name(place).casefold(), identity), number)
        if line != number and "id" not in record and place not in self._keys:  # a file system that ignores case
            raise StreamError(
                f"{where}: path {record['path']!r} is the file on {self.unit} {line}: keep one of the two {self.unit}s"
            )
        return Sample(modality, label, file, None, split, record.get("id", place))


def _record(row: TableRow, cells: bool) -> dict[str, str]:
    """The fields that have a value; ``cells``: an empty string is none."""
    where = row.where
    record = {name: value for name, value in row.values.items() if not _is_missing(value) and (value or not cells)}
    for field in FIELDS:
        value = record.get(field)
        if field in ("id", "task") and isinstance(value, int) and not isinstance(value, bool):
            record[field] = value = str(value)
        if field in record and not (isinstance(value, str) and value.strip()):
            said = "" if isinstance(value, str) else f", not {type(value).__name__}"
            hint = ": write the class's name" if field == "label" else ""
            raise StreamError(f"{where}: {field!r} must be a string that is not empty{said}{hint}")
        check_characters(record.get(field, ""), f"{where}: {field!r}")
        if field in record and field not in ("path", "text"):
            record[field] = record[field].strip()
    for field in _NEEDED:
        if field not in record:
            others = [name for name in record if name not in FIELDS]
            raise StreamError(f"{where}: {field!r} is missing{did_you_mean(field, others)}: add it")
    if ("path" in record) == ("text" in record):
        empty = next((field for field in ("path", "text") if field in row.values and field not in record), None)
        state = f"{empty!r} must be a string that is not empty: " if empty and "path" not in record else ""
        raise StreamError(f"{where}: {state}give either 'path' or 'text'")
    return record


def _is_missing(value: Any) -> bool:
    """Whether a value is null, or NaN, as pandas writes null."""
    return value is None or (isinstance(value, float) and math.isnan(value))
