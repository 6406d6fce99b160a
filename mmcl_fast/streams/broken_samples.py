"""Samples that do not decode: which they are and why, as JSONL, and a stream without them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sample import Sample
from mmcl_fast.streams.stream import Stream


@dataclass(frozen=True)
class Broken:
    """A sample that does not decode. ``reason``: the MediaError's line, which begins with the file's name."""

    key: str
    path: str
    modality: str
    split: str
    label: str
    reason: str

    @classmethod
    def of(cls, sample: Sample, reason: object) -> Broken:
        return cls(sample.key, str(sample.path), sample.modality, sample.split, sample.label, str(reason))


def without(stream: Stream, broken: Sequence[Broken]) -> Stream:
    """The same tasks without these samples; ``skipped`` of the result lists them.

    Raises:
        StreamError: a class would be left without a training or a test file that it had, or a task without a
            validation file.
    """
    reasons = {sample.key: sample.reason for sample in broken}
    out = copy.copy(stream)
    out.__dict__.pop("fingerprint", None)  # that of the samples that were
    out.tasks, out.skipped = [], [*stream.skipped, *broken]
    for task in stream.tasks:
        kept = replace(task, _samples=tuple(s for s in task._samples if s.key not in reasons))
        groups = {(s.label, s.split): s for s in task._samples if s.split != "val"}
        left = {(s.label, s.split) for s in kept._samples}
        for (label, split), sample in groups.items():
            if (label, split) not in left:
                word = "training" if split == "train" else split
                raise StreamError(
                    f"{stream.root}: class {label!r} of {task.modality} has no {word} file left, for "
                    f"none decodes ({reasons[sample.key]}): mend them, or remove the class"
                )
        if task.val and not kept.val:
            raise StreamError(
                f"{stream.root}: task {task.name!r} has no validation file left, for none decodes "
                f"({reasons[task.val[0].key]}): mend them, or remove them all"
            )
        out.tasks.append(kept)
    return out


def to_jsonl(broken: Sequence[Broken]) -> str:
    """One JSON object a line, in ASCII."""
    return "".join(json.dumps(asdict(sample)) + "\n" for sample in broken)


def read(file: Path) -> list[Broken]:
    """The inverse of ``to_jsonl``. Raises StreamError naming the file."""
    try:
        return [Broken(**json.loads(line)) for line in file.read_bytes().splitlines()]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StreamError(
            f"{file}: not a list of broken samples ({error}): restore it from a copy, or start a new run"
        ) from None
