"""Samples from tars in the WebDataset convention: members of one key are one sample.

``key.jpg`` (or png, wav, mp4, npy, txt, ...) holds the item, ``key.cls`` its class, ``key.json`` fields beside it;
the key ends at the first dot of the member's own name. ``key.depth.png`` says its modality. A key may hold dots itself,
as in ``22.05-cat.jpg``, where a ``.cls`` or a class in a ``.json`` of the very same name is beside the item. A ``.txt``
beside another item is its caption. What is part of no sample is left out, counted and named.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import SPLITS, Sample
from mmcl_fast.streams.sources.folder_walk import walk_files
from mmcl_fast.streams.sources.label_names import name_labels
from mmcl_fast.streams.sources.tar_shard import TarShard, UnusedMembers
from mmcl_fast.streams.validate import check_split

MOST = 100_000  # tars


def read_tars(
    path: str | Path | Mapping[str, str | Path], findings: Findings | None = None, *, label: str = "label"
) -> dict[str, Any]:
    """Arguments of ``Stream``; see ``Stream.from_tar``. ``findings`` collects what is wrong, or it is raised."""
    findings = Findings() if findings is None else findings
    stated = path.items() if isinstance(path, Mapping) else [(None, path)]
    given: dict[str, str | None] = {}
    for split, pattern in stated:
        if split is not None:
            check_split(split, f"{pattern}")
        for file in find_tars(str(pattern), findings):
            if given.setdefault(os.path.abspath(file), split) != split:
                raise StreamError(f"{file}: given for {given[os.path.abspath(file)]} and for {split}: keep it in one")
    folders = [os.path.abspath(pattern) for _, pattern in stated if os.path.isdir(pattern)]
    root = Path(os.path.commonpath(folders + [os.path.dirname(file) for file in given]))
    names = {file: Path(file).relative_to(root).as_posix() for file in given}
    samples: list[Sample] = []
    left_out = UnusedMembers()
    for place in sorted(given, key=names.__getitem__):
        try:
            shard = TarShard(Path(place), names[place], given[place] or _split_of(names[place]), label)
        except StreamError as error:
            findings.add("unreadable", error, path=place)
            continue
        samples += shard.samples(findings, left_out)
    left_out.tell(findings)
    findings.raise_worst_error()  # before what follows of it, such as a class without samples
    texts = read_class_texts(root)
    samples = name_labels(samples, root, texts)
    samples.sort(key=lambda sample: (MODALITIES.index(sample.modality), sample.label))  # in a class: as packed
    return {"samples": samples, "root": root, "class_texts": texts, "findings": findings}


def find_tars(pattern: str, findings: Findings | None = None) -> list[Path]:
    """The tars that a folder (all below it), a name with ``{000..012}`` or ``{a,b}``, or ``*`` stands for, sorted."""
    if os.path.isdir(pattern):
        return _below(pattern, Findings() if findings is None else findings)
    names: list[str] = []
    for name in [pattern] if os.path.exists(pattern) else _braces(pattern):
        files = sorted(glob.glob(name, recursive=True)) if not os.path.exists(name) and glob.has_magic(name) else [name]
        if not files:
            raise StreamError(f"{name}: no file matches: check the pattern")
        names += files
    for name in names:
        _refuse_packed(name)
    return list(map(Path, dict.fromkeys(names)))


def _below(folder: str, findings: Findings) -> list[Path]:
    def note(kind: str, path: str, what: str) -> None:
        if kind != "passed-over":
            findings.add(kind, f"{path}: {what}", path=path)

    tars = []
    for file in walk_files(folder, note):
        _refuse_packed(file)
        if file.lower().endswith(".tar"):
            tars.append(Path(file))
    if not tars:
        raise StreamError(
            f"{folder}: no .tar below it: give a tar, a folder of tars or a pattern such as train-{{000..012}}.tar"
        )
    return sorted(tars)


def _refuse_packed(name: str) -> None:
    if re.search(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|z|lz4|br))$", name, re.IGNORECASE):
        raise StreamError(f"{name}: a compressed tar has no places to read samples from: unpack it to a plain .tar")


def _braces(pattern: str) -> list[str]:
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part, pattern) if i % 2 else [part] for i, part in enumerate(parts)]
    if any("{" in part or "}" in part for part in parts[::2]):
        raise StreamError(f"{pattern}: braces that do not match: write {{000..012}} or {{a,b}}")
    if math.prod(map(len, choices)) > MOST:
        raise StreamError(f"{pattern}: stands for more than {MOST} tars: give fewer at a time")
    return ["".join(choice) for choice in itertools.product(*choices)]


def _choices(inner: str, pattern: str) -> Sequence[str]:
    numbers = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", inner)
    if numbers is None and "," in inner:
        return inner.split(",")
    if numbers is None or int(numbers[1]) > int(numbers[2]):
        raise StreamError(f"{pattern}: {{{inner}}}: write {{000..012}}, the smaller number first, or {{a,b}}")
    first, last = int(numbers[1]), int(numbers[2])
    if last - first >= MOST:
        raise StreamError(f"{pattern}: stands for more than {MOST} tars: give fewer at a time")
    return [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]


def _split_of(name: str) -> str | None:
    """The split that the words of a shard's relative name hold, if they hold one only."""
    words = set(re.split("[^a-z]+", name.lower())) & set(SPLITS)
    return words.pop() if len(words) == 1 else None
