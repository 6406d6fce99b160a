"""Samples from folders: ``root/<modality>/<split>/<class>/files``, and text tables ``root/text/<split>.csv``.

Split folders may be missing, as in ``root/<modality>/<class>/files``. Then a fifth of each class, at least one file, is
held out to test on: the files whose paths have the smallest sha256. A file that is added later therefore moves few
other files. Links are followed, and each file of a class counts once. Hidden files, files that an operating system
writes, and other files beside the class folders are passed over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.media.formats import ENDINGS
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.held_out import TEST_SHARE
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample
from mmcl_fast.streams.sources.folder_walk import ReportProblem, list_files, list_subfolders, walk_files
from mmcl_fast.streams.sources.label_names import name_labels
from mmcl_fast.streams.sources.text_table import read_split_tables
from mmcl_fast.streams.validate import check_modality, check_split

# A folder with one of these names means that the folders at its level are splits, not classes.
SPLIT_WORDS = {*SPLITS, "training", "testing", "valid", "validation", "dev", "eval"}
NAMES_OF_NOTES = ("readme", "license", "licence", "classes", "labels", "changelog", "notice")  # files about the data
NAMES_SHOWN = 4  # of a list in a message

ADVICE = {  # for the kinds of problems that a folder walk reports
    "unreadable": "{what}: make it readable or remove it",
    "missing": "{what}: restore the file or remove the entry",
    "loop": "{what}, and is not followed: remove the link",
    "linked-twice": "{what}: its files count once",
}


def read_folder(
    root: Path,
    findings: Findings | None = None,
    *,
    text: str | Sequence[str] = "text",
    label: str = "label",
    header: bool = True,
) -> dict[str, Any]:
    """Return the arguments of ``Stream`` for a folder. Samples are sorted by modality, class, split and name.

    ``findings`` collects all that is wrong; None: the most harmful error is raised.
    """
    if not os.path.isdir(root):
        raise StreamError(f"{root}: not a folder: give one that holds <modality>/<split>/<class>/<file>")
    findings = Findings() if findings is None else findings
    samples: list[Sample] = []
    without_splits: list[str] = []
    texts: dict[ClassId, str] = {}
    try:
        texts = read_class_texts(root)
    except StreamError as error:
        findings.add("class-texts", error, path=str(root / "classes.json"))
    top = ModalityFolder(root, "", findings)
    names = top.subfolders(root)
    if names and not set(names) & set(MODALITIES):
        raise StreamError(
            f"{root}: none of its folders ({_first_names(names)}) is a modality: name them"
            f" {', '.join(MODALITIES)} and put the classes into them: {root / MODALITIES[0]}/<class>/<file>"
        )
    for name in names:
        findings.add_on_error("unknown-modality", check_modality, name, os.path.join(root, name), path=str(root / name))
    top.report_passed_over()
    for modality in (name for name in MODALITIES if name in names):
        folder = ModalityFolder(root, modality, findings)
        from_tables: list[Sample] = []
        has_tables = False
        if modality == "text":
            try:
                rows = read_split_tables(folder.path, root, text, label, header, findings)
                from_tables = name_labels(rows, folder.path, texts)
                has_tables = bool(from_tables)
            except StreamError as error:
                findings.add("unreadable", error, modality=modality, path=str(folder.path))
                has_tables = True
        from_files = _read_modality(folder, has_tables)
        samples += sorted([*from_tables, *from_files], key=lambda s: (s.label, s.key))
        folder.report_passed_over()
        without_splits += [modality] * folder.without_splits
    return {
        "samples": samples,
        "root": root,
        "class_texts": texts,
        "findings": findings,
        "without_splits": without_splits,
    }


class ModalityFolder:
    """A modality's folder below ``root``. Problems of walking through it become findings."""

    def __init__(self, root: Path, modality: str, findings: Findings):
        self.root, self.modality, self.findings = root, modality, findings
        self.path = root / modality
        self.without_splits = False
        self._passed_over: list[str] = []

    def subfolders(self, path: Path, split: str = "") -> list[str]:
        """Return the sorted names of the folders in ``path``."""
        return list_subfolders(str(path), self._reporter(split, ""), str(self.root))

    def file_keys(self, path: Path, split: str, label: str) -> list[str]:
        """Return the sorted keys of all files below ``path``: their paths relative to ``root``."""
        place, key = str(path), path.relative_to(self.root).as_posix()
        files = walk_files(place, self._reporter(split, label), str(self.root))
        return sorted(key + file[len(place) :].replace(os.sep, "/") for file in files)

    def report_files_outside_classes(self, path: Path, split: str = "") -> None:
        """Add a finding for each media file that lies in ``path`` beside the class folders."""
        for name in list_files(str(path), lambda *_: None):
            stem, _, ending = name.lower().rpartition(".")
            if self.modality in ENDINGS.get(ending, ()) and not stem.startswith(NAMES_OF_NOTES):
                line = f"{path / name}: lies beside the class folders and is left out: move it into one of them"
                self.findings.add("left-out", line, modality=self.modality, split=split, path=str(path / name))

    def report_passed_over(self) -> None:
        """Add one finding with the number of files and folders that were passed over."""
        if self._passed_over:
            names = sorted({os.path.basename(path) for path in self._passed_over})
            line = f"passes over hidden and system files, {len(self._passed_over)} in all: {_first_names(names)}"
            self.findings.add("passed-over", f"{self.path}: {line}", modality=self.modality, path=self._passed_over[0])

    def add_finding(self, kind: str, path: Path | str, line: str, split: str = "", label: str = "") -> None:
        self.findings.add(kind, f"{path}: {line}", modality=self.modality, split=split, label=label, path=str(path))

    def _reporter(self, split: str, label: str) -> ReportProblem:
        def report(kind: str, path: str, what: str) -> None:
            if kind == "passed-over":
                self._passed_over.append(path)
            else:
                self.add_finding(kind, path, ADVICE[kind].format(what=what), split, label)

        return report


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + ", ..." * (len(names) > NAMES_SHOWN)


def _read_modality(folder: ModalityFolder, has_tables: bool) -> list[Sample]:
    """Return the samples of the files below a modality's folder. ``has_tables``: samples come from tables too."""
    findings_before = len(folder.findings)
    names = folder.subfolders(folder.path)
    if not names and not has_tables and len(folder.findings) == findings_before:
        line = f"has no class folders: expected {folder.path}/<class>/<file>"
        folder.add_finding("empty-class", folder.path, line)
    folder.report_files_outside_classes(folder.path)
    folder.without_splits = bool(names) and not has_tables and not {name.lower() for name in names} & SPLIT_WORDS
    if folder.without_splits:
        return _read_classes_without_splits(folder, names)
    return [sample for split in names for sample in _read_split(folder, split)]


def _read_split(folder: ModalityFolder, split: str) -> list[Sample]:
    path = folder.path / split
    about = {"modality": folder.modality, "split": split, "path": str(path)}
    if not folder.findings.add_on_error("unknown-split", check_split, split, str(path), **about):
        return []
    findings_before = len(folder.findings)
    classes = folder.subfolders(path, split)
    if not classes and len(folder.findings) == findings_before:
        folder.add_finding("empty-class", path, f"no class folders: expected {path}/<class>/<file>", split)
    folder.report_files_outside_classes(path, split)
    samples = []
    for name in classes:
        findings_before = len(folder.findings)
        keys = folder.file_keys(path / name, split, name)
        if not keys and len(folder.findings) == findings_before:
            line = "empty class folder: add files or remove it"
            folder.add_finding("empty-class", path / name, line, split, name)
        samples += [Sample(folder.modality, name, folder.root / key, None, split, key) for key in keys]
    return samples


def _read_classes_without_splits(folder: ModalityFolder, names: list[str]) -> list[Sample]:
    """Return the samples of ``root/<modality>/<class>/files``, a fifth of each class as test samples.

    Folders that spell one class name in two Unicode forms are one class. The stream chooses the test samples anew where
    it knows of groups.
    """
    classes: dict[str, dict[str, str]] = {}  # class name -> sample key -> name of the folder
    for name in names:
        keys = folder.file_keys(folder.path / name, "", name)
        classes.setdefault(normalize_name(name), {}).update(dict.fromkeys(keys, name))
    samples = []
    for label, folder_names in classes.items():
        if not folder_names:
            line = "0 of the two files that a class needs at least, one to train on and one to test on: add files or "
            folder.add_finding("empty-class", folder.path / label, line + "remove the class", label=label)
        # A path that is not UTF-8 must not end the reading here: validate_samples makes it a finding.
        ordered = sorted(folder_names, key=lambda key: hashlib.sha256(key.encode(errors="surrogatepass")).digest())
        test_count = max(1, round(TEST_SHARE * len(ordered))) if ordered[1:] else 0
        for i, key in enumerate(ordered):
            split = "test" if i < test_count else "train"
            samples.append(Sample(folder.modality, folder_names[key], folder.root / key, None, split, key))
    return samples
