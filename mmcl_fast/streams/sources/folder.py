"""``root/<modality>/<split>/<class>/files`` to samples; ``root/text/<split>.csv`` too.

Without split folders, ``root/<modality>/<class>/files``, a fifth of each class is held out to test on: the files whose
paths have the smallest sha256, so that a file that is added later moves few others. Links are followed, and each file
of a class counts once. Hidden files, what systems leave behind, and other files beside the folders are passed over.
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
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample
from mmcl_fast.streams.sources.folder_walk import Note, list_files, list_subfolders, walk_files
from mmcl_fast.streams.sources.label_names import name_labels
from mmcl_fast.streams.sources.text_table import read_split_tables
from mmcl_fast.streams.validate import check_modality, check_split

SPLIT_WORDS = {*SPLITS, "training", "testing", "valid", "validation", "dev", "eval"}  # one of them: splits, not classes
HELD_OUT = 0.2  # of each class, to test on
ABOUT = ("readme", "license", "licence", "classes", "labels", "changelog", "notice")  # files about the data

NOTES = {  # of a walk
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
    """Arguments of ``Stream``: samples sorted by modality, class, split and name, the class texts, and ``findings``."""
    if not os.path.isdir(root):
        raise StreamError(f"{root}: not a folder: give one that holds <modality>/<split>/<class>/<file>")
    findings = Findings() if findings is None else findings
    samples: list[Sample] = []
    texts: dict[ClassId, str] = {}
    try:
        texts = read_class_texts(root)
    except StreamError as error:
        findings.add("class-texts", error, path=str(root / "classes.json"))
    there = Place(root, "", findings)
    names = there.folders(root)
    if names and not set(names) & set(MODALITIES):
        raise StreamError(
            f"{root}: none of its folders ({', '.join(names[:4])}{', ...' * (len(names) > 4)}) is a modality: name them"
            f" {', '.join(MODALITIES)} and put the classes into them: {root / MODALITIES[0]}/<class>/<file>"
        )
    for name in names:
        findings.add_on_error("unknown-modality", check_modality, name, os.path.join(root, name), path=str(root / name))
    there.end()
    for modality in (name for name in MODALITIES if name in names):
        place = Place(root, modality, findings)
        own: list[Sample] = []
        refused = False
        if modality == "text":
            try:
                rows = read_split_tables(root / modality, root, text, label, header, findings)
                own += name_labels(rows, root / modality, texts)
            except StreamError as error:
                findings.add("unreadable", error, modality=modality, path=str(root / modality))
                refused = True
        samples += sorted([*own, *_of_modality(place, tables=refused or bool(own))], key=lambda s: (s.label, s.key))
        place.end()
    return {"samples": samples, "root": root, "class_texts": texts, "findings": findings}


class Place:
    """A modality's folder below ``root``, and what the walk through it finds."""

    def __init__(self, root: Path, modality: str, findings: Findings):
        self.root, self.modality, self.findings = root, modality, findings
        self.path = root / modality
        self.passed_over: list[str] = []

    def folders(self, path: Path, split: str = "") -> list[str]:
        return list_subfolders(str(path), self._note(split, ""), str(self.root))

    def files(self, path: Path, split: str, label: str) -> list[str]:
        """All below, as keys: relative to ``root``."""
        place, key = str(path), path.relative_to(self.root).as_posix()
        files = walk_files(place, self._note(split, label), str(self.root))
        return sorted(key + file[len(place) :].replace(os.sep, "/") for file in files)

    def beside(self, path: Path, split: str = "") -> None:
        """Media files beside the class folders in ``path``, which are in no class."""
        for name in list_files(str(path), lambda *_: None):
            stem, _, ending = name.lower().rpartition(".")
            if self.modality in ENDINGS.get(ending, ()) and not stem.startswith(ABOUT):
                line = f"{path / name}: lies beside the class folders and is left out: move it into one of them"
                self.findings.add("left-out", line, modality=self.modality, split=split, path=str(path / name))

    def add(self, kind: str, path: Path | str, line: str, split: str = "", label: str = "") -> None:
        self.findings.add(kind, f"{path}: {line}", modality=self.modality, split=split, label=label, path=str(path))

    def end(self) -> None:
        """Says how many files and folders were passed over."""
        if self.passed_over:
            names = sorted({os.path.basename(path) for path in self.passed_over})
            listed = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
            line = f"passes over what is hidden or made by a system, {len(self.passed_over)} in all: {listed}"
            self.findings.add("passed-over", f"{self.path}: {line}", modality=self.modality, path=self.passed_over[0])

    def _note(self, split: str, label: str) -> Note:
        def note(kind: str, path: str, what: str) -> None:
            if kind == "passed-over":
                self.passed_over.append(path)
            else:
                self.add(kind, path, NOTES[kind].format(what=what), split, label)

        return note


def _of_modality(place: Place, tables: bool) -> list[Sample]:
    """The samples of the files below a modality's folder; ``tables``: it holds samples besides."""
    faults = len(place.findings)
    splits = place.folders(place.path)
    if not splits and not tables and len(place.findings) == faults:
        place.add("empty-class", place.path, f"empty of class folders: expected {place.path}/<class>/<file>")
    place.beside(place.path)
    if splits and not tables and not {name.lower() for name in splits} & SPLIT_WORDS:
        return _held_out(place, splits)
    return [sample for split in splits for sample in _of_split(place, split)]


def _of_split(place: Place, split: str) -> list[Sample]:
    where = place.path / split
    about = {"modality": place.modality, "split": split, "path": str(where)}
    if not place.findings.add_on_error("unknown-split", check_split, split, str(where), **about):
        return []
    faults = len(place.findings)
    classes = place.folders(where, split)
    if not classes and len(place.findings) == faults:
        place.add("empty-class", where, f"no class folders: expected {where}/<class>/<file>", split)
    place.beside(where, split)
    samples = []
    for name in classes:
        faults = len(place.findings)
        keys = place.files(where / name, split, name)
        if not keys and len(place.findings) == faults:
            place.add("empty-class", where / name, "empty class folder: add files or remove it", split, name)
        samples += [Sample(place.modality, name, place.root / key, None, split, key) for key in keys]
    return samples


def _held_out(place: Place, folders: list[str]) -> list[Sample]:
    """The samples of ``root/<modality>/<class>/files``. Folders that spell one name in two ways are one class."""
    labels: dict[str, dict[str, str]] = {}  # canonical name -> key -> name of the folder
    for name in folders:
        labels.setdefault(normalize_name(name), {}).update(
            dict.fromkeys(place.files(place.path / name, "", name), name)
        )
    out = []
    for label, keys in labels.items():
        if len(keys) < 2:
            line = (
                f"{len(keys)} of the two files that a class needs at least, one to learn from and one to test on: add "
                "files or remove the class"
            )
            place.add("too-few-files" if keys else "empty-class", place.path / label, line, label=label)
            continue
        ordered = sorted(keys, key=lambda key: hashlib.sha256(key.encode(errors="surrogatepass")).digest())
        tested = max(1, round(HELD_OUT * len(keys)))
        out += [
            Sample(place.modality, keys[key], place.root / key, None, "test" if i < tested else "train", key)
            for i, key in enumerate(ordered)
        ]
    return out
