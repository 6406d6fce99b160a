"""Labelled samples that are to be predicted and not learned: no class needs training samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample, Task
from mmcl_fast.streams.sources.text_table import table_columns
from mmcl_fast.streams.stream import Stream
from mmcl_fast.streams.tasks import normalize_labels
from mmcl_fast.streams.validate import FileFault, check_file


class LabelledData(Stream):
    """A stream with one task for each modality, whose samples are all test samples.

    Build one with ``LabelledData.from_path``, or another of the methods of ``Stream``.

    Args:
        samples, root, class_texts: what these methods pass on from the data.
        only_split: take the samples of this split alone; None: all samples.
        shared_classes: a name means the same class in every modality.
        known: the classes that a model has learned. With shared classes they say which modality a name is of.

    Raises:
        StreamError: there is no sample, or a file is missing or empty.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        root: Path,
        *,
        class_texts: Mapping[ClassId, str] | None = None,
        only_split: str | None = None,
        shared_classes: bool = False,
        known: Sequence[ClassId] = (),
        findings: Findings | None = None,
        **options: Any,
    ):
        if only_split not in (None, *SPLITS):
            raise StreamError(f"split = {only_split!r}: give {', '.join(SPLITS)}, or leave it out for all samples")
        findings = Findings() if findings is None else findings
        samples, _ = normalize_labels(samples, findings)
        chosen = [replace(s, split="test") for s in samples if only_split in (None, s.split)]
        for sample in chosen:
            if sample.path is not None:
                try:
                    check_file(sample.path, sample.modality, str(sample.path), allow_empty=False)
                except FileFault as fault:
                    raise StreamError(str(fault)) from None
        findings.raise_worst_error()
        if not chosen:
            where = "" if only_split is None else f" in its {only_split} split"
            raise StreamError(f"{root}: no sample{where}; give other data")
        named = {name: (modality, name) for modality, name in known} if shared_classes else {}
        by_modality: dict[str, list[Sample]] = {}
        for sample in chosen:
            by_modality.setdefault(sample.modality, []).append(sample)
        tasks: list[Task] = []
        for modality, some in by_modality.items():
            labels = tuple(dict.fromkeys(sample.label for sample in some))
            ids = tuple(named.get(label, (modality, label)) for label in labels)
            texts = tuple((class_texts or {}).get((modality, label)) or label.replace("_", " ") for label in labels)
            tasks.append(Task(len(tasks), modality, modality, labels, ids, texts, tuple(some)))
        self.__dict__.update(vars(Stream.from_tasks(tasks, root, shared_classes=shared_classes)))
        self.findings = findings

    @classmethod
    def from_table(cls, path: str | Path, *, split: str = "split", **options: Any) -> LabelledData:
        """Read text samples as ``Stream.from_table`` does. All rows count where there is no column of the split."""
        has_splits = Path(path).is_dir() or split in table_columns(Path(path))
        return super().from_table(path, split=split if has_splits else "", **options)  # type: ignore[return-value]
