"""A manifest, JSONL or Parquet, to samples. A line (a row) has

- ``path`` (relative to the manifest's folder, never outside it) or, for text, ``text``;
- ``modality``, ``label`` (class name), ``split`` (train, val, test);
- optional ``task`` (its task's name: on every line or on none) and ``id`` (unique).

Other fields are kept out of the way: a builder may note its sources there. Null in Parquet is no value.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError, meant
from mmcl_fast.streams.classes import read_class_texts
from mmcl_fast.streams.rows import Row, read_rows
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.validate import check_file, check_modality, check_split, check_words

FIELDS = ("path", "text", "modality", "label", "split", "task", "id")


def read_manifest(path: Path) -> dict[str, Any]:
    """Arguments of ``Stream``. Raises StreamError naming the manifest and the line."""
    if path.is_dir():
        path = path / "manifest.jsonl"
    root = Path(os.path.abspath(path.parent))
    inside = os.path.realpath(root)
    samples: list[Sample] = []
    tasks: dict[str, str] = {}
    keys: dict[str, tuple[int, str]] = {}
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    for row in read_rows(path):
        where, number = row.where, row.number
        record = _record(row, null=unit == "row")
        sample = _sample(record, root, inside, where)
        if sample.key in keys:
            line, split = keys[sample.key]
            raise StreamError(
                f"{where}: {sample.key!r} is already on {unit} {line}, in the {split} split: "
                f"keep one of the two {unit}s"
            )
        keys[sample.key] = number, sample.split
        samples.append(sample)
        if "task" in record:
            tasks[sample.key] = record["task"]
        if tasks and len(tasks) != len(samples):
            raise StreamError(f"{where}: 'task' must be on every {unit} or on none")
    _one_modality(samples, tasks, keys, f"{path} {unit}")
    return {"samples": samples, "root": root, "class_texts": read_class_texts(root), "task_names": tasks}


def _record(row: Row, null: bool) -> dict[str, str]:
    where = row.where
    record = {name: value for name, value in row.values.items() if value is not None} if null else row.values
    for field in FIELDS:
        if field in record and not (isinstance(record[field], str) and record[field].strip()):
            raise StreamError(f"{where}: {field!r} must be a string that is not empty")
        check_words(record.get(field, ""), f"{where}: {field!r}")
    for field in ("modality", "label", "split"):
        if field not in record:
            others = [name for name in record if name not in FIELDS]
            raise StreamError(f"{where}: {field!r} is missing{meant(field, others)}: add it")
    if ("path" in record) == ("text" in record):
        raise StreamError(f"{where}: give either 'path' or 'text'")
    return record


def _sample(record: dict[str, str], root: Path, inside: str, where: str) -> Sample:
    modality, label, split = record["modality"], record["label"], record["split"]
    check_modality(modality, where)
    check_split(split, where)
    if "text" in record:
        if modality != "text":
            raise StreamError(f"{where}: 'text' is for modality text, not {modality}: give a 'path'")
        digest = hashlib.sha256("\0".join((label, record["text"])).encode()).hexdigest()[:20]
        return Sample(modality, label, None, record["text"], split, record.get("id", f"text-{digest}"))
    name = record["path"]
    target = os.path.realpath(root / name)
    if os.path.isabs(name) or os.path.commonpath([target, inside]) != inside:
        raise StreamError(f"{where}: path {name!r} leaves the manifest's folder: move the file into {root}")
    check_file(target, modality, f"{where}: path {name!r}", empty=True)
    key = Path(os.path.normpath(name)).as_posix()
    return Sample(modality, label, root / name, None, split, record.get("id", key))


def _one_modality(samples: list[Sample], tasks: dict[str, str], keys: dict[str, tuple[int, str]], where: str) -> None:
    of_task: dict[str, str] = {}
    for sample in samples if tasks else ():
        name = tasks[sample.key]
        if of_task.setdefault(name, sample.modality) != sample.modality:
            raise StreamError(
                f"{where} {keys[sample.key][0]}: task {name!r} mixes {of_task[name]} and "
                f"{sample.modality}: a task has one modality"
            )
