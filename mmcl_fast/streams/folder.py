"""``root/<modality>/<split>/<class>/files`` to samples.

Hidden files, and files beside the folders, are passed over.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.media.spec import MODALITIES
from mmcl_fast.streams.sample import ClassId, Sample
from mmcl_fast.streams.validate import check_modality, check_split, check_words


def read_folder(root: Path) -> dict[str, Any]:
    """Arguments of ``Stream``: samples sorted by modality, class, split and name, and the class texts."""
    if not root.is_dir():
        raise StreamError(f"{root}: not a folder: give one that holds <modality>/<split>/<class>/<file>")
    samples = []
    found = _folders(root)
    for name in found:
        check_modality(name, os.path.join(root, name))
    for modality in (name for name in MODALITIES if name in found):
        own = []
        splits = _folders(root / modality)
        if not splits:
            raise StreamError(f"{root / modality}: empty: put train and test folders with classes "
                              "there or remove it")
        for split in splits:
            where = root / modality / split
            check_split(split, str(where))
            classes = _folders(where)
            if not classes:
                raise StreamError(f"{where}: no class folders: expected {where}/<class>/<file>")
            for label in classes:
                files = _files(where / label)
                if not files:
                    raise StreamError(f"{where / label}: empty class folder: add files or remove it")
                own += [Sample(modality, label, file, None, split, file.relative_to(root).as_posix())
                        for file in map(Path, files)]
        samples += sorted(own, key=lambda sample: (sample.label, sample.key))
    return {"samples": samples, "root": root, "class_texts": read_class_texts(root)}


def read_class_texts(root: Path) -> dict[ClassId, str]:
    """``root/classes.json``, ``{modality: {class: text}}``; nothing where there is none."""
    path = root / "classes.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StreamError(f"{path}: not JSON ({error}): expected {{modality: {{class: text}}}}") from None
    except RecursionError:
        raise StreamError(f"{path}: nested too deeply: expected {{modality: {{class: text}}}}") from None
    texts = {}
    for modality, classes in content.items() if isinstance(content, dict) else [("", content)]:
        if not isinstance(classes, dict):
            raise StreamError(f"{path}: expected {{modality: {{class: text}}}}")
        check_modality(modality, str(path))
        for label, text in classes.items():
            if not isinstance(text, str) or not text.strip():
                raise StreamError(f"{path}: {modality} {label!r}: a class text is a string with words in it")
            check_words(label + text, f"{path}: {modality} {label!r}")
            texts[modality, label] = text
    return texts


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path) -> list[str]:
    """All files below, folders included, but hidden ones."""
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    return sorted(found)
