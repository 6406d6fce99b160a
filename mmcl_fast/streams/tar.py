"""Samples from tars in the WebDataset convention: members of one key are one sample.

``key.jpg`` (or png, wav, mp4, npy, txt, ...) holds the item, ``key.cls`` its class, ``key.json`` fields beside it;
the key ends at the first dot of the member's own name. ``key.depth.png`` says its modality. A ``.txt`` beside another
item is its caption and is passed over, and so is every member of another ending.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.media.source import Slice
from mmcl_fast.media.spec import MODALITIES
from mmcl_fast.streams.classes import read_class_texts
from mmcl_fast.streams.sample import SPLITS, Sample
from mmcl_fast.streams.table import rename
from mmcl_fast.streams.tar_index import NAME, Member, read_index
from mmcl_fast.streams.validate import check_modality, check_split

MOST = 100_000  # tars


def read_tars(path: str | Path | Mapping[str, str | Path], *, label: str = "label") -> dict[str, Any]:
    """Arguments of ``Stream``; see ``Stream.from_tar``."""
    stated = path.items() if isinstance(path, Mapping) else [(None, path)]
    given: dict[str, str | None] = {}
    for split, pattern in stated:
        if split is not None:
            check_split(split, f"{pattern}")
        for file in expand(str(pattern)):
            if given.setdefault(os.path.abspath(file), split) != split:
                raise StreamError(f"{file}: given for {given[os.path.abspath(file)]} and for {split}: keep it in one")
    folders = [os.path.abspath(pattern) for _, pattern in stated if os.path.isdir(pattern)]
    root = Path(os.path.commonpath(folders + [os.path.dirname(file) for file in given]))
    names = {file: Path(file).relative_to(root).as_posix() for file in given}
    samples = [
        sample
        for file in sorted(given, key=names.__getitem__)
        for sample in _samples(Path(file), names[file], given[file] or _split_of(names[file]), label)
    ]
    texts = read_class_texts(root)
    samples = rename(samples, root, texts)
    samples.sort(key=lambda sample: (MODALITIES.index(sample.modality), sample.label))  # in a class: as packed
    return {"samples": samples, "root": root, "class_texts": texts}


def expand(pattern: str) -> list[Path]:
    """The tars that a folder (all below it), a name with ``{000..012}`` or ``{a,b}``, or ``*`` stands for, sorted."""
    if os.path.isdir(pattern):
        below = sorted(file for file in Path(pattern).rglob("*.tar") if not file.name.startswith("."))
        if not below:
            raise StreamError(
                f"{pattern}: no .tar below it: give a tar, a folder of tars or a pattern such as train-{{000..012}}.tar"
            )
        return below
    found: list[str] = []
    for name in [pattern] if os.path.exists(pattern) else _braces(pattern):
        files = sorted(glob.glob(name, recursive=True)) if not os.path.exists(name) and glob.has_magic(name) else [name]
        if not files:
            raise StreamError(f"{name}: no file matches: check the pattern")
        found += files
    for name in found:
        if re.search(r"\.(tgz|tar\.\w+)$", name):
            raise StreamError(f"{name}: a compressed tar has no places to read samples from: unpack it to a plain .tar")
    return list(map(Path, dict.fromkeys(found)))


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


def _samples(file: Path, name: str, split: str | None, label: str) -> Iterator[Sample]:
    groups: dict[str, list[Member]] = {}
    for member in read_index(file):
        match = NAME.match(member[0])
        if match is None:  # an index written by hand
            raise StreamError(f"{file}: member {member[0]!r} has no key: remove the .index.json beside the tar")
        groups.setdefault(match[1], []).append(member)
    count = 0
    for key, members in groups.items():
        for member, modality, fields in _items(members, f"{file}: sample {key!r}", label):
            part = fields.get("split", split)
            if part is None:
                raise StreamError(
                    f"{file}: neither its name nor the .json of {key!r} tells the split: put train, val "
                    "or test into the tar's name or folder, or give the tars of each split"
                )
            check_split(part, f"{file}: sample {key!r}")
            source = Slice(str(file), member[1], member[2], member[0])
            yield Sample(modality, fields[""], source, None, part, f"{name}/{member[0]}")
            count += 1
    if not count:
        raise StreamError(f"{file}: holds no sample: expected members such as 0001.jpg with 0001.cls or 0001.json")


def _items(members: list[Member], where: str, label: str) -> Iterator[tuple[Member, str, dict[str, str]]]:
    """(member, modality, fields) of each item of one key; the class is the field ""."""
    fields: dict[str, str] = {}
    items: dict[str, Member] = {}
    for member in members:
        kind = member[3]
        if isinstance(kind, dict):
            fields |= kind
        elif kind.startswith("="):
            fields[""] = kind[1:]
        elif kind in items:
            raise StreamError(f"{where} has two items of {kind}, {items[kind][0]} and {member[0]}: keep one")
        else:
            items[kind] = member
    fields.setdefault("", fields.get(label, "").strip())
    if "modality" in fields and items:
        check_modality(fields["modality"], where)
        if len(items) > 1 and fields["modality"] not in items:
            raise StreamError(
                f"{where} has items of {', '.join(items)} and the modality {fields['modality']!r} in its "
                ".json: correct it"
            )
        items = {fields["modality"]: items.get(fields["modality"]) or next(iter(items.values()))}
    elif len(items) > 1:
        items.pop("text", None)
    if not items and fields[""]:
        raise StreamError(f"{where} has a class but no item: add a member such as .jpg, .wav or .txt")
    if items and not fields[""]:
        raise StreamError(f"{where} has no class: add a .cls with its name or number, or {label!r} to its .json")
    for modality, member in items.items():
        yield member, modality, fields
