"""Helpers of the tests of streams: folders, manifests, and the check of an error message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcl_fast.errors import StreamError, UserError
from mmcl_fast.streams import Stream

ENDING = {"image": "png", "audio": "wav", "text": "txt", "video": "mp4", "depth": "png"}


def put_file(root: Path, modality: str, split: str, label: str, name: str, content: str = "") -> Path:
    """Write a file of the folder layout. Its content is its own path, so that no two files are equal."""
    path = root / modality / split / label / f"{name}.{ENDING[modality]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or str(path))
    return path


def manifest_records(root: Path) -> list[dict]:
    """Return the records of a manifest that lists all files of a folder."""
    records = []
    for path in sorted(root.glob("*/*/*/*")):
        modality, split, label, _ = path.relative_to(root).parts
        key = path.relative_to(root).as_posix()
        records.append({"path": key, "modality": modality, "label": label, "split": split, "source": "ours"})
    return records


def write_manifest(root: Path, records: list) -> Path:
    """Write manifest.jsonl. A record that is a string becomes a line as it is."""
    path = root / "manifest.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def task_names(stream: Stream) -> list[str]:
    return [task.name for task in stream.tasks]


def assert_refused(make: Callable[..., Any], *parts: str, **options: Any) -> None:
    """Check that ``make(**options)`` raises a StreamError of one line that holds all ``parts``."""
    with pytest.raises(StreamError) as caught:
        make(**options)
    message = str(caught.value)
    assert isinstance(caught.value, UserError) and "\n" not in message
    for part in parts:
        assert part in message, message
