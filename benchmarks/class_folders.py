"""Writes samples as the folder ``<out>/<modality>/<split>/<class>/`` that ``mmcl-fast`` reads, with a config beside it.

For the scripts that make streams of public packages: ``cifar.py`` and ``fashion_news.py``.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path

from PIL import Image

CONFIG = """# {title}
[stream]
source = "folder"
path = "{path}"
classes_per_task = {classes_per_task}
order = "random"
seed = 0

[encoder]
name = "embedded"

[method]
name = "comm"

[train]
seed = 0
"""
Sample = tuple[str, Image.Image | str]  # its class, and a picture or a text


def new_folder(out: Path) -> Path:
    """Return the absolute path of a folder that is not there, or is empty.

    Raises:
        SystemExit: it holds files.
    """
    out = out.resolve()
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out}: holds files already: its splits would mix with the new ones; give a new folder")
    return out


def write_samples(samples: Iterable[Sample], out: Path, splits: Mapping[str, int]) -> int:
    """Write the first samples of each class, and return their number.

    Args:
        samples: in the order in which the splits take them.
        out: the folder of a modality.
        splits: samples of a class in each split. The first split takes the first ones, and so on.
    """
    counts: dict[str, int] = {}
    ends = dict(zip(splits, accumulate(splits.values())))
    for name, sample in samples:
        number = counts.get(name, 0)
        split = next((split for split, end in ends.items() if number < end), None)
        if split is None:
            continue
        file = out / split / name / f"{number:04d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(sample, str):
            file.with_suffix(".txt").write_text(sample, encoding="utf-8")
        else:
            sample.save(file.with_suffix(".png"))
        counts[name] = number + 1
    return sum(counts.values())


def unique(samples: Iterable[Sample], seen: set[bytes]) -> Iterator[Sample]:
    """Yield the samples whose content is not in ``seen``, and add it. So no two splits have the same content."""
    for name, sample in samples:
        content = sample.encode() if isinstance(sample, str) else sample.tobytes()
        if content not in seen:
            seen.add(content)
            yield name, sample


def leave_classes_out(out: Path, share: float) -> Path:
    """Take a share of each modality's classes out of a folder, and copy the test samples of all classes beforehand.

    The classes are drawn with a fixed seed. They are unknown to a model that learns the folder.

    Returns:
        The folder of the copies, ``<out>_all_test``.
    """
    every = new_folder(out.with_name(f"{out.name}_all_test"))
    for modality in sorted(out.iterdir()):
        shutil.copytree(modality / "test", every / modality.name / "test")
        classes = sorted(folder.name for folder in (modality / "test").iterdir())
        random.Random(0).shuffle(classes)
        for name in classes[: round(share * len(classes))]:
            for split in modality.iterdir():
                shutil.rmtree(split / name, ignore_errors=True)
    return every


def write_config(out: Path, title: str, classes_per_task: int) -> None:
    """Write ``<out>.toml``, a config of COMM on the folder's stream."""
    text = CONFIG.format(title=title, path=out.name, classes_per_task=classes_per_task)
    out.with_name(f"{out.name}.toml").write_text(text, encoding="utf-8")
