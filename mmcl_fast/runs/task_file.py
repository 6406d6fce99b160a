"""The file of a run that lists its tasks and their samples: tasks.json.gz.

From it the tasks are known when the data are read no more: which test files there are, and what each contained. So a
later version of the run can be asked about the old tasks.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_fast import atomic_files
from mmcl_fast.errors import MediaError, RunError
from mmcl_fast.media.source import Slice
from mmcl_fast.streams.sample import Sample, Task
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.feature_cache.cache import FeatureCache

TASKS_FILE = "tasks.json.gz"  # of all tasks of the run
KNOWN_TASKS_FILE = "known_tasks.json.gz"  # of the tasks that its parent had learned


def write_tasks(file: Path, stream: Stream, digests: Mapping[str, str], *, texts: bool = True) -> None:
    """Write the tasks of a stream. The same tasks give the same bytes.

    Training texts are left out: no later version reads them.

    Args:
        file: the file to write.
        stream: the tasks.
        digests: key of a sample -> sha256 of its content in hex; keys may be missing.
        texts: keep the texts of test and validation samples.

    Raises:
        RunError: the file cannot be written.
    """
    values = {
        "root": str(stream.root),
        "shared_classes": stream.shared_classes,
        "tasks": [
            {
                "name": task.name,
                "modality": task.modality,
                "classes": list(task.classes),
                "class_ids": [list(key) for key in task.class_ids],
                "texts": list(task.texts),
                "samples": [
                    _sample_values(sample, digests.get(sample.key, sample.sha256), texts) for sample in task.samples
                ],
            }
            for task in stream.tasks
        ],
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    atomic_files.replace_file(file, gzip.compress(text, mtime=0))


def read_tasks(file: Path) -> Stream:
    """Read a stream of tasks. Training texts are empty.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        values = json.loads(gzip.decompress(file.read_bytes()).decode(errors="surrogatepass"))
        tasks = [
            Task(
                index,
                task["name"],
                task["modality"],
                tuple(task["classes"]),
                tuple((modality, name) for modality, name in task["class_ids"]),
                tuple(task["texts"]),
                tuple(_sample(task["modality"], stored) for stored in task["samples"]),
            )
            for index, task in enumerate(values["tasks"])
        ]
        return Stream.from_tasks(tasks, Path(values["root"]), shared_classes=values["shared_classes"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise RunError(f"{file}: not readable ({fault}); restore it from a copy") from None


def content_digests(cache: FeatureCache, samples: Sequence[Sample]) -> dict[str, str]:
    """Return key -> sha256 of the content in hex, of the samples whose files can be read."""
    try:
        return dict(zip([s.key for s in samples], [d.hex() for d in cache.contents.digests(samples)]))
    except MediaError:  # a file is gone since it was learned
        found = {}
        for sample in samples:
            with suppress(MediaError):
                found[sample.key] = cache.contents.digests([sample])[0].hex()
        return found


def _sample_values(sample: Sample, sha256: str, texts: bool) -> dict[str, Any]:
    """Return the JSON values of a sample, without the ones that are empty."""
    values: dict[str, Any] = {"key": sample.key, "label": sample.label, "split": sample.split}
    if isinstance(sample.path, Slice):
        values["slice"] = vars(sample.path)
    elif sample.path is not None:
        values["path"] = str(sample.path)
    elif texts and sample.split != "train":
        values["text"] = sample.text
    return values | {k: v for k, v in (("group", sample.group), ("sha256", sha256)) if v}


def _sample(modality: str, values: Mapping[str, Any]) -> Sample:
    path: Path | Slice | None = None
    if "slice" in values:
        planes = values["slice"]["planes"]
        path = Slice(**{**values["slice"], "planes": None if planes is None else tuple(planes)})
    elif "path" in values:
        path = Path(values["path"])
    return Sample(
        modality,
        values["label"],
        path,
        values.get("text", "") if path is None else None,
        values["split"],
        values["key"],
        values.get("group", ""),
        values.get("sha256", ""),
    )
