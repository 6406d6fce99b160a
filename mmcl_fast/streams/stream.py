"""``Stream``: tasks in order, read from a folder, a manifest, a table, tars, known datasets or the demo.

Reading a stream opens no media file.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.equal_content import check_equal_content
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.grouping import Grouping, column_of
from mmcl_fast.streams.held_out import HeldOut, choose_test_samples, hold_out_validation, split_samples
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample, Task
from mmcl_fast.streams.selection import select_samples
from mmcl_fast.streams.task_order import order_tasks
from mmcl_fast.streams.tasks import group_by_task, normalize_labels, tasks_fingerprint, without_samples
from mmcl_fast.streams.validate import check_task, validate_samples


class Stream:
    """Tasks in order, each of one modality. Iterating yields them and keeps ``seen`` up to date.

    Build one with ``from_folder``, ``from_manifest``, ``from_table``, ``from_tar``, ``from_known`` or ``demo``, or with
    ``from_path``, which picks one of them. They share these options:

    Args:
        samples, root, task_names, class_texts, official, without_splits: what these methods pass on from the data.
            ``task_names`` is sample key -> task, where a manifest names the tasks. ``without_splits`` are the
            modalities whose data have no splits. A test share of them is held out.
        classes_per_task: classes of one modality in a task; None: one task per modality.
        classes_together: with ``shuffle_classes``, so many consecutive classes stay in one task. An example are the two
            orders of a pair of things. It divides ``classes_per_task``.
        order: ``blocks``, ``random``, ``interleaved`` or a list such as ``["image:0", "audio:0", "image:1"]``; see
            ``streams.task_order``.
        modalities: only these, in this order; None: all.
        late: the modality whose tasks come after all others.
        share: modality -> the part of each class's training samples that is used, for unbalanced modalities.
        max_train_per_class: modality -> the most training samples of a class that are used, for modalities with few
            samples.
        seed: fixes the random order, the class shuffle, the training samples that are used and the validation split.
        validation: share of each class's training samples that becomes validation where the class has none;
            ``"auto"``: a tenth, rounded down.
        shuffle_classes: draw the classes of each task from ``seed``; otherwise classes keep their order.
        shared_classes: a name means the same class in every modality; otherwise (modality, name) does.
        grouping: finds the groups that no held-out share splits; None: the groups that the data name.
        known: classes that need no test samples, because a run has learned and tests them.
        test_on: ``"val"``: the validation samples take the place of the test samples, which are left out. Settings
            can then be chosen without the test samples.
        check: also compare file contents, so that no two splits hold equal files. This reads files of equal size.
            Known datasets are not compared.
        keep_empty: keep files without a byte, for a check that decodes every file and reports them itself.
        findings: collects all that is wrong; None: the most harmful error is raised.

    Class names are kept in Unicode's composed form (NFC). macOS may spell a name in another form than other systems;
    both spellings are one class.

    Attributes:
        tasks: all tasks; ``stream[i]`` and ``len(stream)`` work too.
        classes: ``(modality, name)`` of every class in order of appearance; a class's label id is its index.
        class_text: ``(modality, name) -> text``.
        modalities: in order of appearance.
        root: the folder that sample keys are relative to.
        official: the splits come from a known dataset. Then equal contents in two splits are allowed.
        groups: sample key -> group, as far as groups were looked for.
        held_out: how many groups and samples were held out, for testing and for validation.
        skipped: samples that were left out because they do not decode.
        findings: findings of reading that did not stop it, such as members of a tar that belong to no sample.
        unused_texts: ``(modality, name)`` of class texts that match no class of the stream.
        without_text: ``(modality, name)`` of classes that no class text was given for.

    Example::

        stream = Stream.from_folder("data/", classes_per_task=5, order="interleaved")
        for task in stream:
            print(task.name, task.classes, len(task.train))
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
        max_train_per_class: Mapping[str, int] | None = None,
        seed: int = 0,
        validation: float | str = 0.0,
        shuffle_classes: bool = False,
        classes_together: int = 1,
        shared_classes: bool = False,
        test_on: str = "test",
        check: bool = False,
        keep_empty: bool = False,
        official: bool = False,
        without_splits: Collection[str] = (),
        grouping: Grouping | None = None,
        known: Collection[ClassId] = (),
        findings: Findings | None = None,
    ):
        if validation != "auto" and (isinstance(validation, str) or not 0 <= validation < 1):
            raise StreamError(
                f"validation = {validation!r}: give a share from 0 up to, but not including, 1, or 'auto'"
            )
        findings = Findings() if findings is None else findings
        grouping = grouping or Grouping()
        try:
            samples = select_samples(samples, modalities, {}, {}, seed)
            samples, self._original_labels = normalize_labels(samples, findings)
            self.without_splits = [name for name in without_splits if any(s.modality == name for s in samples)]
            samples, self.groups, of_tests = split_samples(
                samples, root, grouping, self.without_splits, bool(validation), official, findings, known
            )
            samples = select_samples(samples, None, share or {}, max_train_per_class or {}, seed)
        except StreamError:
            findings.raise_worst_error()  # a modality may be missing because its folder can't be read
            raise
        classes = dict.fromkeys((sample.modality, sample.label) for sample in samples)
        samples = validate_samples(samples, root, findings, keep_empty=keep_empty, known=known)
        if check and not official:
            check_equal_content(samples, findings)
        findings.raise_worst_error()
        self.root, self.official, self.findings = root, official, findings
        self.skipped: list[BrokenSample] = []
        self.shared_classes = shared_classes
        self._yielded = 0
        texts = {(modality, normalize_name(label)): text for (modality, label), text in (class_texts or {}).items()}
        self.unused_texts = [class_id for class_id in texts if class_id not in classes]
        self.without_text = [class_id for class_id in classes if class_id not in texts]
        self.class_text: dict[ClassId, str] = {}
        self.tasks: list[Task] = []
        groups = group_by_task(samples, task_names, classes_per_task, shuffle_classes, seed, classes_together)
        groups, of_validation = hold_out_validation(
            groups, validation, seed, self.groups, grouping.sides, without_splits
        )
        self.held_out: list[HeldOut] = [found for found in (of_tests, of_validation) if found is not None]
        names: dict[str, list[str]] = {}
        for modality, name in groups:
            names.setdefault(modality, []).append(name)
        first_with_name: dict[str, ClassId] = {}
        for index, (modality, name) in enumerate(order_tasks(names, order, seed, late)):
            members = groups[modality, name]
            check_task(name, members, root, findings, known)
            labels = tuple(dict.fromkeys(sample.label for sample in members))
            class_ids = []
            for label in labels:
                in_modality = (modality, label)
                class_id = first_with_name.setdefault(label, in_modality) if shared_classes else in_modality
                text = texts.get(in_modality) or texts.get(class_id) or label.replace("_", " ")
                self.class_text.setdefault(class_id, text)
                class_ids.append(class_id)
            class_texts_of_task = tuple(self.class_text[class_id] for class_id in class_ids)
            members = choose_test_samples(test_on, members, name, known)
            self.tasks.append(
                Task(index, name, modality, labels, tuple(class_ids), class_texts_of_task, tuple(members))
            )
        findings.raise_worst_error()

    @classmethod
    def from_path(cls, path: str | Path, **options: Any) -> Stream:
        """Read a folder, manifest, table or tars, whichever ``path`` is; see ``streams.detect_source``.

        ``options``: as in the method for that source.

        Raises:
            StreamError: there is nothing at ``path``, or it can't be read.
        """
        from mmcl_fast.streams.sources.detect import detect_source

        return getattr(cls, f"from_{detect_source(path)}")(path, **options)

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
        """Read ``root/<modality>/<split>/<class>/files``, or ``root/<modality>/<class>/files``.

        Without split folders a fifth of each class, at least one file, is held out for testing. ``root/classes.json``
        may give class texts. Text samples may also be the rows of ``root/text/<split>.csv`` (tsv, jsonl, parquet);
        ``text``, ``label`` and ``header`` are as in ``from_table``. Tasks take the classes in sorted order.

        Raises:
            StreamError: one line that names what is wrong.
        """
        from mmcl_fast.streams.sources.folder import read_folder

        return cls(**read_folder(Path(root), findings, text=text, label=label, header=header), **options)

    @classmethod
    def from_manifest(
        cls, path: str | Path, *, grouping: Grouping | None = None, findings: Findings | None = None, **options: Any
    ) -> Stream:
        """Read a JSONL, Parquet, CSV or TSV file that lists samples. ``streams.sources.manifest`` has its fields.

        Tasks take the classes in order of appearance.

        Raises:
            StreamError: one line that names the file and the line.
        """
        from mmcl_fast.streams.sources.manifest import read_manifest

        read = read_manifest(Path(path), findings, group=column_of(grouping))
        return cls(**read, grouping=grouping, **options)

    @classmethod
    def from_table(
        cls,
        path: str | Path,
        *,
        text: str | Sequence[str] = "text",
        label: str = "label",
        split: str = "split",
        header: bool = True,
        grouping: Grouping | None = None,
        findings: Findings | None = None,
        **options: Any,
    ) -> Stream:
        """Read text samples from the rows of CSV, TSV, JSONL or Parquet.

        Tasks take the classes in sorted order.

        Args:
            path: a file, or a folder with files named by their split: train.csv, test.csv and perhaps val.csv.
            text: the column of the text, or several (a list, or separated by commas) that are joined by a space.
            label: the column of the class. Whole numbers stand for the lines of classes.txt beside the tables, counted
                from 0 or from 1, whichever fits; or classes.json says what each number means.
            split: the column that holds train, val or test. It is not read where the files are named by split.
            header: False: CSV and TSV have no line of names, and the columns are called "1", "2", ...

        Raises:
            StreamError: one line that names the file and the line or row.
        """
        from mmcl_fast.streams.sources.text_table import read_text_table

        columns: dict[str, Any] = {
            "text": text,
            "label": label,
            "split": split,
            "header": header,
            "group": column_of(grouping),
        }
        return cls(**read_text_table(Path(path), findings, **columns), grouping=grouping, **options)

    @classmethod
    def from_tar(
        cls,
        path: str | Path | Mapping[str, str | Path],
        *,
        label: str = "label",
        findings: Findings | None = None,
        **options: Any,
    ) -> Stream:
        """Read tars in the WebDataset convention without unpacking them; see ``streams.sources.tar``.

        Each tar is indexed once, in ``<tar>.index.json`` beside it. Where that can't be written, the index is in the
        user's cache folder. A tar of another size or modification time is indexed again. Tasks take the classes in
        sorted order.

        Args:
            path: a folder of tars, a name with ``{000..012}``, ``{a,b}`` or ``*``, or ``{split: any of these}``.
                Without a split for each, the word train, val or test in a tar's name or folder says it. The field
                ``split`` of a sample's .json goes before both.
            label: the field of a sample's .json that holds its class, where the sample has no .cls. Whole numbers
                get names as in ``from_table``.

        Raises:
            StreamError: one line that names the tar and the member.
        """
        from mmcl_fast.streams.sources.tar import read_tars

        return cls(**read_tars(path, findings, label=label), **options)

    @classmethod
    def from_known(cls, datasets: Mapping[str, str | Path | Mapping[str, Any]], **options: Any) -> Stream:
        """Read known datasets as unpacked from their archives, at most one for each modality.

        Tasks take the classes in the datasets' own order. The depth maps of sun_rgbd need
        ``media={"depth_kind": "sun_rgbd"}`` of a Learner.

        Args:
            datasets: ``{name: folder}``, or ``{name: {"path": folder, "split": 2}}``. The names are the keys of
                ``streams.sources.known.LAYOUTS``. ``split`` is the number of the official split (ucf101, hmdb51) or of
                the test fold (esc_50, urbansound8k), by default 1. ``classes`` is a file that lists the classes of
                imagenet_100.

        Raises:
            StreamError: one line that names what is missing, and the files that are expected.
        """
        from mmcl_fast.streams.sources.known import read_known

        return cls(**read_known(datasets), **options)

    @classmethod
    def demo(cls, root: str | Path | None = None, **options: Any) -> Stream:
        """Read the demo's media: five modalities with eight classes each.

        ``root``: the demo's folder. None: $MMCL_FAST_DEMO, ./demo or the demo of the checkout.
        """
        from mmcl_fast.streams.sources.demo import find_demo

        return cls.from_manifest(find_demo(root), **options)

    @classmethod
    def from_tasks(cls, tasks: Sequence[Task], root: Path, *, shared_classes: bool = False) -> Stream:
        """Return a stream of tasks that exist already, in their order.

        Args:
            tasks: the tasks; they get their positions as index.
            root: the folder that error messages name.
            shared_classes: as for every stream.
        """
        self = cls.__new__(cls)
        self.tasks = [replace(task, index=index) for index, task in enumerate(tasks)]
        self.root, self.shared_classes, self.official = root, shared_classes, False
        self.findings, self.skipped, self._original_labels, self._yielded = Findings(), [], {}, 0
        self.unused_texts, self.without_text = [], []
        self.groups, self.held_out, self.without_splits = {}, [], []
        self.class_text = {key: text for task in tasks for key, text in zip(task.class_ids, task.texts)}
        return self

    def without_broken(self, broken: Sequence[BrokenSample]) -> Stream:
        """Return a stream of the same tasks without these samples. Its ``skipped`` lists them.

        Raises:
            StreamError: a class would lose its last training or test file, or a task its last validation file.
        """
        reasons = {sample.key: sample.reason for sample in broken}
        out = copy.copy(self)
        out.__dict__.pop("fingerprint", None)  # the cached value still counts the broken samples
        out.skipped = [*self.skipped, *broken]
        out.tasks = [
            replace(task, _samples=tuple(without_samples(task._samples, reasons, task.name, self.root)))
            for task in self.tasks
        ]
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
        """The tasks that the current iteration, or the last one, has yielded."""
        return self.tasks[: self._yielded]

    @property
    def samples(self) -> list[Sample]:
        """Every sample: task by task, and in a task its training, validation and test samples."""
        return [sample for task in self.tasks for split in SPLITS for sample in task.split(split)]

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(task.modality for task in self.tasks))

    @property
    def classes(self) -> list[ClassId]:
        return list(dict.fromkeys(class_id for task in self.tasks for class_id in task.class_ids))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the tasks in order: names, classes, and every sample's key, split and label."""
        return tasks_fingerprint(self.tasks, self._original_labels)

    def __repr__(self) -> str:
        return f"Stream({len(self)} tasks, {len(self.classes)} classes, {', '.join(self.modalities)})"
