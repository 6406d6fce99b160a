"""A JSONL manifest to samples. A line is an object with

- ``path`` (relative to the manifest's folder, never outside it) or, for text, ``text``;
- ``modality``, ``label`` (class name), ``split`` (train, val, test);
- optional ``task`` (its task's name: on every line or on none) and ``id`` (unique).

Other fields are kept out of the way: a builder may note its sources there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.folder import read_class_texts
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.validate import check_file, check_modality, check_split, check_words, nearest

FIELDS = ("path", "text", "modality", "label", "split", "task", "id")


def read_manifest(path: Path) -> dict[str, Any]:
    """Arguments of ``Stream``. Raises StreamError naming the manifest and the line."""
    if path.is_dir():
        path = path / "manifest.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"{path}: {reason}: give a manifest in JSONL") from None
    root = Path(os.path.abspath(path.parent))
    inside = os.path.realpath(root)
    samples: list[Sample] = []
    tasks: dict[str, str] = {}
    keys: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        record = _record(line, where)
        sample = _sample(record, root, inside, where)
        if sample.key in keys:
            line, split = keys[sample.key]
            raise StreamError(f"{where}: {sample.key!r} is already on line {line}, in the {split} split: "
                              "keep one of the two lines")
        keys[sample.key] = number, sample.split
        samples.append(sample)
        if "task" in record:
            tasks[sample.key] = record["task"]
        if tasks and len(tasks) != len(samples):
            raise StreamError(f"{where}: 'task' must be on every line or on none")
    _one_modality(samples, tasks, keys, path)
    return {"samples": samples, "root": root, "class_texts": read_class_texts(root), "task_names": tasks}


def _record(line: bytes, where: str) -> dict[str, str]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise StreamError(f"{where}: not a JSON object ({error}): one object a line") from None
    except RecursionError:
        raise StreamError(f"{where}: nested too deeply: one flat JSON object a line") from None
    if not isinstance(record, dict):
        raise StreamError(f"{where}: not an object but {type(record).__name__}: one JSON object a line")
    for field in FIELDS:
        if field in record and not (isinstance(record[field], str) and record[field].strip()):
            raise StreamError(f"{where}: {field!r} must be a string that is not empty")
        check_words(record.get(field, ""), f"{where}: {field!r}")
    for field in ("modality", "label", "split"):
        if field not in record:
            others = [name for name in record if name not in FIELDS]
            raise StreamError(f"{where}: {field!r} is missing{nearest(field, others)}: add it")
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
    check_file(target, modality, f"{where}: path {name!r}")
    key = Path(os.path.normpath(name)).as_posix()
    return Sample(modality, label, root / name, None, split, record.get("id", key))


def _one_modality(samples: list[Sample], tasks: dict[str, str], keys: dict[str, tuple[int, str]],
                  path: Path) -> None:
    of_task: dict[str, str] = {}
    for sample in samples if tasks else ():
        name = tasks[sample.key]
        if of_task.setdefault(name, sample.modality) != sample.modality:
            raise StreamError(f"{path} line {keys[sample.key][0]}: task {name!r} mixes {of_task[name]} and "
                              f"{sample.modality}: a task has one modality")
