"""``root/<modality>/<split>/<class>/files`` to samples; ``root/text/<split>.csv`` too.

Without split folders, ``root/<modality>/<class>/files``, a fifth of each class is held out to test on: the files whose
paths have the smallest sha256, so that a file that is added later moves few others. Hidden files, and other files
beside the folders, are passed over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.media.spec import MODALITIES
from mmcl_fast.streams.classes import read_class_texts
from mmcl_fast.streams.sample import SPLITS, Sample
from mmcl_fast.streams.table import rename, split_samples
from mmcl_fast.streams.validate import check_modality, check_split

SPLIT_WORDS = {*SPLITS, "training", "testing", "valid", "validation", "dev", "eval"}  # one of them: splits, not classes
HELD_OUT = 0.2  # of each class, to test on


def read_folder(
    root: Path, *, text: str | Sequence[str] = "text", label: str = "label", header: bool = True
) -> dict[str, Any]:
    """Arguments of ``Stream``: samples sorted by modality, class, split and name, and the class texts."""
    if not os.path.isdir(root):
        raise StreamError(f"{root}: not a folder: give one that holds <modality>/<split>/<class>/<file>")
    samples: list[Sample] = []
    texts = read_class_texts(root)
    found = _folders(root)
    if found and not set(found) & set(MODALITIES):
        raise StreamError(
            f"{root}: none of its folders ({', '.join(found[:4])}{', ...' * (len(found) > 4)}) is a modality: name them"
            f" {', '.join(MODALITIES)} and put the classes into them: {root / MODALITIES[0]}/<class>/<file>"
        )
    for name in found:
        check_modality(name, os.path.join(root, name))
    for modality in (name for name in MODALITIES if name in found):
        own = []
        splits = _folders(root / modality)
        if modality == "text":
            own += rename(split_samples(root / modality, root, text, label, header), root / modality, texts)
        if not splits and not own:
            raise StreamError(f"{root / modality}: empty of class folders: expected {root / modality}/<class>/<file>")
        if splits and not own and not {name.lower() for name in splits} & SPLIT_WORDS:
            own, splits = _held_out(modality, root), []
        for split in splits:
            where = root / modality / split
            check_split(split, str(where))
            classes = _folders(where)
            if not classes:
                raise StreamError(f"{where}: no class folders: expected {where}/<class>/<file>")
            for name in classes:
                files = _files(where / name)
                if not files:
                    raise StreamError(f"{where / name}: empty class folder: add files or remove it")
                own += [
                    Sample(modality, name, file, None, split, file.relative_to(root).as_posix())
                    for file in map(Path, files)
                ]
        samples += sorted(own, key=lambda sample: (sample.label, sample.key))
    return {"samples": samples, "root": root, "class_texts": texts}


def _held_out(modality: str, root: Path) -> list[Sample]:
    """The samples of ``root/<modality>/<class>/files``."""
    out = []
    for name in _folders(root / modality):
        found = [Path(file).relative_to(root).as_posix() for file in _files(root / modality / name)]
        if len(found) < 2:
            raise StreamError(
                f"{root / modality / name}: {len(found)} of the two files that a class needs at least, one to learn "
                "from and one to test on: add files or remove the class"
            )
        found.sort(key=lambda key: hashlib.sha256(key.encode(errors="surrogatepass")).digest())
        tested = max(1, round(HELD_OUT * len(found)))
        out += [
            Sample(modality, name, root / key, None, "test" if i < tested else "train", key)
            for i, key in enumerate(found)
        ]
    return out


def _unreadable(fault: OSError) -> None:
    raise StreamError(f"{fault.filename}: {fault.strerror}: make it readable or remove it") from None


def _folders(path: Path) -> list[str]:
    try:
        entries = os.scandir(path)
    except OSError as fault:
        _unreadable(fault)
    with entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path) -> list[str]:
    """All files below, folders included, but hidden ones."""
    found = []
    for folder, folders, files in os.walk(path, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    return sorted(found)
