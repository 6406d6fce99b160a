"""Samples from a manifest: a JSONL, Parquet, CSV or TSV file that lists them. Each line or row has the fields

- ``path``, relative to the manifest's folder and never outside it, or ``text`` for a text sample;
- ``modality``, ``label`` (the class name) and ``split`` (train, val or test);
- optionally ``task``, the name of its task, on every line or on none;
- optionally ``id``, which is unique;
- optionally ``group``, the recording or picture that the sample was made from. Intervals count the samples of one group
  as one.

Other fields are ignored and may hold notes, such as sources. Null and an empty cell mean no value.

Example of a line::

    {"path": "cats/1.jpg", "modality": "image", "label": "cat", "split": "train"}
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmcl_fast.errors import ConfigError, StreamError, did_you_mean
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.sources.label_names import MISSING_VALUES
from mmcl_fast.streams.sources.manifest_paths import ManifestFolder
from mmcl_fast.streams.sources.table_reader import read_table_rows
from mmcl_fast.streams.sources.table_row import TableRow
from mmcl_fast.streams.validate import check_characters, check_file, check_modality, check_split

FIELDS = ("path", "text", "modality", "label", "split", "task", "id", "group")
MANIFEST_NAMES = ("manifest.jsonl", "manifest.parquet", "manifest.csv", "manifest.tsv")  # that a folder may hold
_NEEDED = ("modality", "label", "split")


def read_manifest(path: Path, findings: Findings | None = None, *, group: str = "") -> dict[str, Any]:
    """Return the arguments of ``Stream`` for a manifest, or for a folder that holds one.

    ``group``: the field or column of the group; empty: ``group``, if it is there. ``findings`` collects all that is
    wrong; None: the most harmful error is raised as StreamError.
    """
    path = manifest_file(path)
    findings = Findings() if findings is None else findings
    manifest = _Manifest(path, group)
    texts = read_class_texts(manifest.folder.path)
    for row in read_table_rows(path, choice=manifest.choose_columns):
        try:
            manifest.add(row, texts)
        except StreamError as error:
            findings.add(getattr(error, "kind", "row"), error, path=str(path))
    findings.raise_worst_error()  # before errors that only follow from it, such as a class without samples
    return {
        "samples": manifest.samples,
        "root": manifest.folder.path,
        "class_texts": texts,
        "task_names": manifest.tasks,
        "findings": findings,
    }


def manifest_file(path: Path) -> Path:
    """Return a manifest's file; ``path`` is the file, or a folder that holds one."""
    if not path.is_dir():
        return path
    return next((path / name for name in MANIFEST_NAMES if (path / name).is_file()), path / MANIFEST_NAMES[0])


def manifest_numbers(file: Path) -> dict[str, int]:
    """Return sample key -> number of the line or row. Faulty rows have none."""
    manifest = _Manifest(file)
    texts = read_class_texts(manifest.folder.path)
    for row in read_table_rows(file, choice=manifest.choose_columns):
        with suppress(StreamError):
            manifest.add(row, texts)
    return {key: number for key, (number, _) in manifest._keys.items()}


class _Manifest:
    """The samples of the rows that were read so far.

    Attributes:
        samples: in the order of their rows.
        tasks: sample key -> task name.
    """

    def __init__(self, path: Path, group: str = ""):
        self.path, self.group = path, group
        self.folder = ManifestFolder(path.parent)
        self.unit = "row" if path.suffix.lower() == ".parquet" else "line"
        self.empty_means_missing = path.suffix.lower() in (".csv", ".tsv")
        self.samples: list[Sample] = []
        self.tasks: dict[str, str] = {}
        self._keys: dict[str, tuple[int, str]] = {}  # sample key -> line and split
        # (name without case, identity of the file) -> line
        self._files: dict[tuple[str, tuple[int, int, int]], int] = {}
        self._task_modality: dict[str, str] = {}

    def choose_columns(self, names: list[str]) -> list[str]:
        """Return the columns of a table that are read. Raises StreamError where a needed one is missing."""
        for field in _NEEDED:
            if field not in names:
                others = [name for name in names if name not in FIELDS]
                listed = ", ".join(map(repr, names[:12]))
                hint = did_you_mean(field, others)
                raise StreamError(f"{self.path}: no column {field!r}{hint} among {listed}: add it")
        if self.group and self.group not in names:
            raise self._no_group_field(names)
        return [name for name in dict.fromkeys([*FIELDS, self.group]) if name in names]

    def _no_group_field(self, names: Collection[str]) -> ConfigError:
        return ConfigError(
            f"stream.group: {self.path} has no field {self.group!r}{did_you_mean(self.group, names)} among "
            f"{', '.join(map(repr, list(names)[:12]))}; name one of them"
        )

    def add(self, row: TableRow, texts: Mapping[ClassId, str]) -> None:
        """Add the sample of a row. ``texts``: the class texts of classes.json.

        Raises:
            StreamError: the row has an error. Its message begins with the file and the line.
        """
        if self.group and self.group != "group":
            row = row._replace(values={**row.values, "group": self._group_value(row)})
        record = _read_fields(row, self.empty_means_missing)
        if record["label"] in MISSING_VALUES and (record["modality"], record["label"]) not in texts:
            raise StreamError(
                f"{row.where}: the label {record['label']!r} means a missing value: write the class's name; if it is a "
                "class, give its text in classes.json"
            )
        sample = self._sample(record, row.where, row.number)
        if sample.key in self._keys:
            line, split = self._keys[sample.key]
            raise StreamError(
                f"{row.where}: {sample.key!r} is already on {self.unit} {line}, in the {split} split: "
                f"keep one of the two {self.unit}s"
            )
        if ("task" in record) != bool(self.tasks) and self.samples:
            raise StreamError(f"{row.where}: 'task' must be on every {self.unit} or on none")
        if "task" in record:
            name = record["task"]
            modality = self._task_modality.setdefault(name, sample.modality)
            if modality != sample.modality:
                raise StreamError(
                    f"{row.where}: task {name!r} mixes {modality} and {sample.modality}: a task has one modality"
                )
            self.tasks[sample.key] = name
        self._keys[sample.key] = row.number, sample.split
        self.samples.append(sample)

    def _group_value(self, row: TableRow) -> Any:
        """Return what a row says its group is; None where it says nothing, as an empty cell or NaN."""
        value = row.values.get(self.group)
        if isinstance(value, str) and not value.strip():
            return None
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _sample(self, record: dict[str, str], where: str, number: int) -> Sample:
        modality, label, split = record["modality"], record["label"], record["split"]
        group = record.get("group", "")
        check_modality(modality, where)
        check_split(split, where)
        if "text" in record:
            if modality != "text":
                raise StreamError(f"{where}: 'text' is for modality text, not {modality}: give a 'path'")
            digest = hashlib.sha256("\0".join((label, record["text"])).encode()).hexdigest()[:20]
            return Sample(modality, label, None, record["text"], split, record.get("id", f"text-{digest}"), group)
        place = self.folder.locate(record["path"], where)
        file = self.folder.path / place
        # Empty files are left to validate_samples, which a check may tell to keep them.
        identity = check_file(file, modality, f"{where}: path {record['path']!r}", allow_empty=True)
        line = self._files.setdefault((normalize_name(place).casefold(), identity), number)
        # Two names of one file, on a file system that ignores case.
        if line != number and "id" not in record and place not in self._keys:
            raise StreamError(
                f"{where}: path {record['path']!r} is the file on {self.unit} {line}: keep one of the two {self.unit}s"
            )
        return Sample(modality, label, file, None, split, record.get("id", place), group)


def _read_fields(row: TableRow, empty_means_missing: bool) -> dict[str, str]:
    """Return the fields that have a value, and check them.

    ``empty_means_missing``: an empty string is no value, as in CSV, which has no other way to write that.
    """
    where = row.where
    record = {
        name: value
        for name, value in row.values.items()
        if not _is_missing(value) and (value or not empty_means_missing)
    }
    for field in FIELDS:
        value = record.get(field)
        if field in ("id", "task", "group") and isinstance(value, int) and not isinstance(value, bool):
            record[field] = value = str(value)
        if field in record and not (isinstance(value, str) and value.strip()):
            given = "" if isinstance(value, str) else f", not {type(value).__name__}"
            hint = ": write the class's name" if field == "label" else ""
            raise StreamError(f"{where}: {field!r} must be a string that is not empty{given}{hint}")
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
