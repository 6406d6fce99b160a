"""A stream of tasks from a folder, a manifest, a table, tars, known datasets or the demo; no media file is opened."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample, Task
from mmcl_fast.streams.selection import select_samples
from mmcl_fast.streams.task_order import order_tasks, split_classes
from mmcl_fast.streams.validate import check_equal_content, check_task, validate_samples


class Stream:
    """Tasks in order, each of one modality. Iterating yields them and keeps ``seen`` up to date.

    Build one with ``from_folder``, ``from_manifest``, ``from_table``, ``from_tar``, ``from_known`` or ``demo``. They
    share these options:

    Args:
        classes_per_task: classes of one modality in a task; None: one task per modality.
        order: ``blocks``, ``random``, ``interleaved`` or a list such as ``["image:0", "audio:0", "image:1"]``; see
            ``streams.task_order``.
        modalities: only these, in this order; None: all.
        late: the modality whose tasks come after all others.
        share: by modality, the part of each class's training samples that is used, for unbalanced modalities.
        seed: fixes the random order, the class shuffle, the shares and the validation split.
        validation: share of each class's training samples that becomes validation where the class has none.
        shuffle_classes: draw which classes go into which task from ``seed``; otherwise their own order.
        shared_classes: a name means the same class in every modality; otherwise (modality, name) does.
        test_on: ``"val"``: the validation samples stand in for the test samples, which are left out, so that settings
            can be chosen without them.
        check: also compare contents, so that no two splits hold equal files (reads files of equal size); known
            datasets are as they are.
        keep_empty: files without a byte stay in, for a check that decodes every file to find them.
        findings: collects all that is wrong (``streams.findings``); None: the most harmful error is raised.

    Class names are in Unicode's composed form (NFC), so that a Mac's spelling of a name and others' are one class.

    Attributes:
        tasks: all tasks; ``stream[i]`` and ``len(stream)`` work too.
        classes: ``(modality, name)`` of every class in order of appearance; a class's label id is its index.
        class_text: ``(modality, name) -> text``.
        modalities: in order of appearance.
        root: the folder that the keys are relative to.
        official: whether the splits are those of known datasets, so that equal contents in two of them stay.
        skipped: samples that were left out because they do not decode (``streams.broken_samples``).
        findings: what was found while reading and stops nothing, such as members of a tar that are part of no sample.
        unused_texts: ``(modality, name)`` of the class texts that were given for no class of the stream.
        without_text: ``(modality, name)`` of the classes that no class text was given for.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        root: Path,
        *,
        task_names: Mapping[str, str] | None = None,
        class_texts: Mapping[ClassId, str] | None = None,
        classes_per_task: int | None = None,
        order: str | Sequence[str] = "blocks",
        modalities: Sequence[str] | None = None,
        late: str | None = None,
        share: Mapping[str, float] | None = None,
        seed: int = 0,
        validation: float = 0.0,
        shuffle_classes: bool = False,
        shared_classes: bool = False,
        test_on: str = "test",
        check: bool = False,
        keep_empty: bool = False,
        official: bool = False,
        findings: Findings | None = None,
    ):
        if not 0 <= validation < 1:
            raise StreamError(f"validation = {validation}: give a share from 0 up to, not with, 1")
        found = Findings() if findings is None else findings
        try:
            samples = select_samples(samples, modalities, share or {}, seed)
        except StreamError:
            found.settle()  # a modality may be missing because its folder is at fault
            raise
        samples, self._spelt = _named(samples, found)
        labels = dict.fromkeys((sample.modality, sample.label) for sample in samples)
        samples = validate_samples(samples, root, found, keep_empty=keep_empty)
        if check and not official:
            check_equal_content(samples, found)
        found.settle()
        self.root, self.official, self.findings = root, official, found
        self.skipped: list[BrokenSample] = []
        self.shared_classes = shared_classes
        self._yielded = 0
        groups = _group(samples, task_names, classes_per_task, shuffle_classes, seed)
        names: dict[str, list[str]] = {}
        for modality, name in groups:
            names.setdefault(modality, []).append(name)
        texts = {(modality, normalize_name(label)): text for (modality, label), text in (class_texts or {}).items()}
        self.unused_texts = [own for own in texts if own not in labels]
        self.without_text = [own for own in labels if own not in texts]
        self.class_text: dict[ClassId, str] = {}
        self.tasks: list[Task] = []
        first: dict[str, ClassId] = {}
        for index, (modality, name) in enumerate(order_tasks(names, order, seed, late)):
            members = groups[modality, name]
            check_task(name, members, root, found)
            ids = []
            for label in dict.fromkeys(sample.label for sample in members):
                own = (modality, label)
                identity = first.setdefault(label, own) if shared_classes else own
                text = texts.get(own) or texts.get(identity) or label.replace("_", " ")
                self.class_text.setdefault(identity, text)
                ids.append((label, identity))
            self.tasks.append(
                Task(
                    index,
                    name,
                    modality,
                    tuple(label for label, _ in ids),
                    tuple(identity for _, identity in ids),
                    tuple(self.class_text[identity] for _, identity in ids),
                    tuple(_tested_on(test_on, _hold_out(members, validation, seed), name)),
                )
            )
        found.settle()

    @classmethod
    def from_folder(
        cls,
        root: str | Path,
        *,
        text: str | Sequence[str] = "text",
        label: str = "label",
        header: bool = True,
        findings: Findings | None = None,
        **options: Any,
    ) -> Stream:
        """From ``root/<modality>/<split>/<class>/files``, or ``root/<modality>/<class>/files``, of which a fifth is
        held out to test on; ``root/classes.json`` may give class texts.

        Text samples may also be the rows of ``root/text/<split>.csv`` (tsv, jsonl, parquet); ``text``, ``label`` and
        ``header`` are as in ``from_table``. Tasks take the classes in sorted order. Raises StreamError, one line, for
        what cannot be learned from.
        """
        from mmcl_fast.streams.sources.folder import read_folder

        return cls(**read_folder(Path(root), findings, text=text, label=label, header=header), **options)

    @classmethod
    def from_manifest(cls, path: str | Path, *, findings: Findings | None = None, **options: Any) -> Stream:
        """From a JSONL, Parquet, CSV or TSV file; see ``mmcl_fast.streams.sources.manifest`` for a line's fields.

        Tasks take the classes in order of appearance. Raises StreamError naming the file and the line.
        """
        from mmcl_fast.streams.sources.manifest import read_manifest

        return cls(**read_manifest(Path(path), findings), **options)

    @classmethod
    def from_table(
        cls,
        path: str | Path,
        *,
        text: str | Sequence[str] = "text",
        label: str = "label",
        split: str = "split",
        header: bool = True,
        findings: Findings | None = None,
        **options: Any,
    ) -> Stream:
        """Text samples from the rows of CSV, TSV, JSONL or Parquet.

        Args:
            path: a file, or a folder with files named by their split: train.csv, test.csv and perhaps val.csv.
            text: the column of the text, or several (a list, or separated by commas) to be joined by a space.
            label: the column of the class. Whole numbers stand for the lines of classes.txt beside the tables, counted
                from 0 or from 1, whichever fits; or classes.json says what each means.
            split: the column that holds train, val or test; not read in a folder's files.
            header: False: CSV and TSV have no line of names, the columns are "1", "2", ...

        Tasks take the classes in sorted order. Raises StreamError naming the file and the line or row.
        """
        from mmcl_fast.streams.sources.text_table import read_text_table

        read = read_text_table(Path(path), findings, text=text, label=label, split=split, header=header)
        return cls(**read, **options)

    @classmethod
    def from_tar(
        cls,
        path: str | Path | Mapping[str, str | Path],
        *,
        label: str = "label",
        findings: Findings | None = None,
        **options: Any,
    ) -> Stream:
        """From tars in the WebDataset convention; see ``mmcl_fast.streams.sources.tar``. Samples are read in place.

        Args:
            path: a folder of tars, a name with ``{000..012}``, ``{a,b}`` or ``*``, or ``{split: any of these}``.
                Without stated splits the word train, val or test in a tar's name or folder tells. The field
                ``split`` of a sample's .json goes before both.
            label: the field of a sample's .json that holds its class, where it has no .cls. Whole numbers are
                named as in ``from_table``.

        Each tar is indexed once: ``<tar>.index.json`` beside it or, where that can't be written, in the user's cache
        folder; a tar of another size or modification time is indexed anew. Tasks take the classes in sorted order.
        Raises StreamError naming the tar and the member.
        """
        from mmcl_fast.streams.sources.tar import read_tars

        return cls(**read_tars(path, findings, label=label), **options)

    @classmethod
    def from_known(cls, datasets: Mapping[str, str | Path | Mapping[str, Any]], **options: Any) -> Stream:
        """From known datasets as they come out of their archives, at most one a modality.

        Args:
            datasets: ``{name: folder}``, or ``{name: {"path": folder, "split": 2}}``. Names are the keys of
                ``mmcl_fast.streams.sources.known.LAYOUTS``, whose values say what a folder holds. ``split`` is the number of
                the official split (ucf101, hmdb51) or of the fold to test on (esc_50, urbansound8k), 1 where it is
                left out; ``classes`` a file that lists imagenet_100's classes.

        Tasks take the classes in the datasets' own order. The depth maps of sun_rgbd need
        ``media={"depth_kind": "sun_rgbd"}`` of a Learner. Raises StreamError naming what is not there, with the tree
        that is expected.
        """
        from mmcl_fast.streams.sources.known import read_known

        return cls(**read_known(datasets), **options)

    @classmethod
    def demo(cls, root: str | Path | None = None, **options: Any) -> Stream:
        """The demo's media: five modalities with eight classes each, found by ``streams.demo.find_demo``."""
        from mmcl_fast.streams.sources.demo import find_demo

        return cls.from_manifest(find_demo(root), **options)

    def without_broken(self, broken: Sequence[BrokenSample]) -> Stream:
        """Return a stream of the same tasks without these samples. Its ``skipped`` lists them.

        Raises:
            StreamError: a class would lose its last training or test file, or a task its last validation file.
        """
        reasons = {sample.key: sample.reason for sample in broken}
        out = copy.copy(self)
        out.__dict__.pop("fingerprint", None)  # the cached one still counts the broken samples
        out.skipped = [*self.skipped, *broken]
        out.tasks = [_without(task, reasons, self.root) for task in self.tasks]
        return out

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def __iter__(self) -> Iterator[Task]:
        self._yielded = 0
        for task in self.tasks:
            self._yielded = task.index + 1
            yield task

    @property
    def seen(self) -> list[Task]:
        """The tasks that the iteration under way (or the last one) has yielded."""
        return self.tasks[: self._yielded]

    @property
    def samples(self) -> list[Sample]:
        """Every sample of every task: its training, then its validation, then its test samples."""
        return [sample for task in self.tasks for split in SPLITS for sample in task.split(split)]

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(task.modality for task in self.tasks))

    @property
    def classes(self) -> list[ClassId]:
        return list(dict.fromkeys(identity for task in self.tasks for identity in task.class_ids))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the tasks in order: names, classes, and every sample's key, split and label."""
        spelt = self._spelt  # as folders and tables do, so that it is what it was before names had one form
        tasks = [
            [
                task.name,
                task.modality,
                [(modality, spelt.get((modality, name), name)) for modality, name in task.class_ids],
                [
                    [sample.key, sample.split, spelt.get((sample.modality, sample.label), sample.label)]
                    for sample in task._samples
                ],
            ]
            for task in self.tasks
        ]
        return hashlib.sha256(json.dumps(tasks, ensure_ascii=False).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Stream({len(self)} tasks, {len(self.classes)} classes, {', '.join(self.modalities)})"


def _named(samples: Sequence[Sample], found: Findings) -> tuple[Sequence[Sample], dict[ClassId, str]]:
    """With class names in their canonical form; and how classes are spelt that have one other spelling."""
    spelt: dict[ClassId, set[str]] = {}
    for modality, label in dict.fromkeys((sample.modality, sample.label) for sample in samples):
        spelt.setdefault((modality, normalize_name(label)), set()).add(label)
    for (modality, label), forms in spelt.items():
        if len(forms) > 1:
            line = f"class {label!r} of {modality}: spelt in two Unicode forms (NFC and NFD), which are one class"
            found.add("two-spellings", line, modality=modality, label=label)
    if all(forms == {label} for (_, label), forms in spelt.items()):
        return samples, {}
    others = {own: next(iter(forms)) for own, forms in spelt.items() if len(forms) == 1 and own[1] not in forms}
    return [replace(sample, label=normalize_name(sample.label)) for sample in samples], others


def _group(
    samples: Sequence[Sample], task_names: Mapping[str, str] | None, per_task: int | None, shuffle: bool, seed: int
) -> dict[tuple[str, str], list[Sample]]:
    """``(modality, task name) -> samples``, classes in the task's order."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    if task_names:
        if per_task is not None or shuffle:
            raise StreamError("the manifest names its tasks: leave out classes_per_task and shuffle_classes")
        for sample in samples:
            groups.setdefault((sample.modality, task_names[sample.key]), []).append(sample)
        return groups
    by_class: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        by_class.setdefault(sample.modality, {}).setdefault(sample.label, []).append(sample)
    for modality, classes in by_class.items():
        chunks = split_classes(list(classes), per_task, shuffle=shuffle, seed=seed, modality=modality)
        for i, labels in enumerate(chunks):
            groups[modality, f"{modality}-{i}"] = [sample for label in labels for sample in classes[label]]
    return groups


def _tested_on(split: str, samples: list[Sample], task: str) -> list[Sample]:
    if split == "test":
        return samples
    if split != "val":
        raise StreamError(f"test_on = {split!r}: give 'test' or 'val'")
    kept = [sample for sample in samples if sample.split != "test"]
    if all(sample.split != "val" for sample in kept):
        raise StreamError(
            f"task {task}: no validation sample to test on; add some, or hold out a share: validation = 0.2"
        )
    return [replace(sample, split="test") if sample.split == "val" else sample for sample in kept]


def _hold_out(samples: list[Sample], share: float, seed: int) -> list[Sample]:
    """Moves a share of each class's training samples to validation where the class has none; one stays."""
    moved = set()
    for label in dict.fromkeys(sample.label for sample in samples) if share else ():
        own = [sample for sample in samples if sample.label == label]
        if any(sample.split == "val" for sample in own):
            continue
        train = [sample.key for sample in own if sample.split == "train"]
        # By hash, not by position: adding a file does not reshuffle the others.
        train.sort(key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
        moved.update(train[: min(max(1, round(share * len(train))), len(train) - 1)])
    return [replace(sample, split="val") if sample.key in moved else sample for sample in samples]


def _without(task: Task, reasons: Mapping[str, str], root: Path) -> Task:
    """The task without the samples in ``reasons``: key -> why a sample does not decode."""
    out = replace(task, _samples=tuple(s for s in task._samples if s.key not in reasons))
    remaining = {(s.label, s.split) for s in out._samples}
    for sample in task._samples:
        if sample.split != "val" and (sample.label, sample.split) not in remaining:
            word = "training" if sample.split == "train" else sample.split
            last = [s for s in task._samples if (s.label, s.split) == (sample.label, sample.split)][-1]
            raise StreamError(
                f"{root}: class {sample.label!r} of {task.modality} has no {word} file left, for "
                f"none decodes ({reasons[last.key]}): mend them, or remove the class"
            )
    if task.val and not out.val:
        raise StreamError(
            f"{root}: task {task.name!r} has no validation file left, for none decodes "
            f"({reasons[task.val[0].key]}): mend them, or remove them all"
        )
    return out
