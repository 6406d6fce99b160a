"""Samples from tars in the WebDataset convention, read in place.

All members with the same key are one sample. The key is the part of a member's name before the first dot.

- ``key.jpg`` (or png, wav, mp4, npy, txt, ...) holds the item. ``key.depth.png`` also says the modality.
- ``key.cls`` holds its class, as a name or a number.
- ``key.json`` holds further fields, such as the class or the split.
- ``key.txt`` beside another item is its caption, which is not read.

A key may hold dots itself, as in ``22.05-cat.jpg``, if a ``.cls``, or a ``.json`` with a class, has the very same name.
Members that belong to no sample are left out, counted and named in the findings.

Why not the package webdataset: it reads tars as streams. Here an index beside the tar gives every sample's byte range,
so samples are read in any order without unpacking.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from mmcl_fast.errors import StreamError
from mmcl_fast.media.registry import MODALITIES
from mmcl_fast.streams.class_texts import read_class_texts
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import SPLITS, Sample
from mmcl_fast.streams.sources.folder_walk import walk_files
from mmcl_fast.streams.sources.label_names import name_labels
from mmcl_fast.streams.sources.tar_shard import TarShard, UnusedMembers
from mmcl_fast.streams.validate import check_split

MOST_TARS = 100_000
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|z|lz4|br))$", re.IGNORECASE)
_NUMBER_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.-?([0-9]{1,18}))?")
_LETTER_RANGE = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?[0-9]{1,18})?")


def read_tars(
    path: str | Path | Mapping[str, str | Path], findings: Findings | None = None, *, label: str = "label"
) -> dict[str, Any]:
    """Return the arguments of ``Stream`` for tars; see ``Stream.from_tar``.

    ``findings`` collects all that is wrong; None: the most harmful error is raised.
    """
    findings = Findings() if findings is None else findings
    patterns = path.items() if isinstance(path, Mapping) else [(None, path)]
    splits: dict[str, str | None] = {}  # absolute path of a tar -> the split that it was given for
    for split, pattern in patterns:
        if split is not None:
            check_split(split, f"{pattern}")
        for file in find_tars(str(pattern), findings):
            other = splits.setdefault(os.path.abspath(file), split)
            if other != split:
                raise StreamError(f"{file}: given for {other} and for {split}: keep it in one")
    folders = [os.path.abspath(pattern) for _, pattern in patterns if os.path.isdir(pattern)]
    root = Path(os.path.commonpath(folders + [os.path.dirname(file) for file in splits]))
    names = {file: Path(file).relative_to(root).as_posix() for file in splits}
    samples: list[Sample] = []
    unused = UnusedMembers()
    for place in sorted(splits, key=names.__getitem__):
        try:
            shard = TarShard(Path(place), names[place], splits[place] or _split_in_name(names[place]), label)
        except StreamError as error:
            findings.add("unreadable", error, path=place)
            continue
        samples += shard.read_samples(findings, unused)
    unused.add_findings(findings)
    findings.raise_worst_error()  # before errors that only follow from it, such as a class without samples
    texts = read_class_texts(root)
    samples = name_labels(samples, root, texts)
    # Sorting is stable: the samples of a class keep the order of the tars.
    samples.sort(key=lambda sample: (MODALITIES.index(sample.modality), sample.label))
    return {"samples": samples, "root": root, "class_texts": texts, "findings": findings}


def find_tars(pattern: str, findings: Findings | None = None) -> list[Path]:
    """Return the tars that a pattern stands for.

    ``pattern`` is a folder (all tars below it), a file, or a name with ``{000..012}``, ``{a,b}`` or ``*``.

    Raises:
        StreamError: no file matches, a tar is compressed, or the pattern can't be read.

    Example:
        ``find_tars("data/train-{000..001}.tar")`` is ``[Path("data/train-000.tar"), Path("data/train-001.tar")]``.
    """
    if os.path.isdir(pattern):
        return _tars_below(pattern, Findings() if findings is None else findings)
    names: list[str] = []
    for name in [pattern] if os.path.exists(pattern) else _expand_braces(pattern):
        has_wildcard = not os.path.exists(name) and glob.has_magic(name)
        files = sorted(glob.glob(name, recursive=True)) if has_wildcard else [name]
        if not files:
            raise StreamError(f"{name}: no file matches: check the pattern")
        names += files
    for name in names:
        _refuse_compressed(name)
    return list(map(Path, dict.fromkeys(names)))


def _tars_below(folder: str, findings: Findings) -> list[Path]:
    def report(kind: str, path: str, what: str) -> None:
        if kind != "passed-over":
            findings.add(kind, f"{path}: {what}", path=path)

    tars = []
    for file in walk_files(folder, report):
        _refuse_compressed(file)
        if file.lower().endswith(".tar"):
            tars.append(Path(file))
    if not tars:
        raise StreamError(
            f"{folder}: no .tar below it: give a tar, a folder of tars or a pattern such as train-{{000..012}}.tar"
        )
    return sorted(tars)


def _refuse_compressed(name: str) -> None:
    if _COMPRESSED.search(name):
        raise StreamError(f"{name}: samples of a compressed tar can't be read in place: unpack it to a plain .tar")


def _expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern stands for, by bash's rules. Names may still hold ``*`` and ``?``."""
    # braceexpand builds long ranges in memory, so the names are counted before it makes any.
    if _count_names(pattern) > MOST_TARS:
        raise StreamError(f"{pattern}: stands for more than {MOST_TARS} tars: give fewer at a time")
    try:
        yield from braceexpand(pattern, escape=False)  # a backslash may be part of a path
    except RecursionError:
        raise StreamError(f"{pattern}: braces nested too deeply: give a folder, or a simpler pattern") from None


def _count_names(pattern: str) -> int:
    """Return how many names a pattern stands for; for ranges of letters an upper bound.

    Raises:
        StreamError: braces that do not match, or that hold neither a list nor an increasing range.
    """
    # For the pattern and each open brace: names of the alternatives before the last comma, and of the one after it.
    levels = [[0, 1]]
    opened: list[int] = []
    for place, sign in enumerate(pattern):
        if sign == "{":
            opened.append(place)
            levels.append([0, 1])
        elif sign == "," and opened:
            level = levels[-1]
            level[:] = level[0] + level[1], 1
        elif sign == "}":
            if not opened:
                raise _unbalanced_error(pattern)
            before_comma, after_comma = levels.pop()
            inner = pattern[opened.pop() + 1 : place]
            count = before_comma + after_comma if before_comma else _count_range(inner, pattern)
            levels[-1][1] *= count
    if opened:
        raise _unbalanced_error(pattern)
    return levels[0][1]


def _count_range(inner: str, pattern: str) -> int:
    numbers = _NUMBER_RANGE.fullmatch(inner)
    if numbers and int(numbers[1]) <= int(numbers[2]):
        return (int(numbers[2]) - int(numbers[1])) // max(1, int(numbers[3] or 1)) + 1
    if _LETTER_RANGE.fullmatch(inner):
        return 52
    raise StreamError(f"{pattern}: {{{inner}}}: write {{000..012}}, the smaller number first, or {{a,b}}")


def _unbalanced_error(pattern: str) -> StreamError:
    return StreamError(f"{pattern}: braces that do not match: write {{000..012}} or {{a,b}}")


def _split_in_name(name: str) -> str | None:
    """Return the split whose name is a word of a tar's relative path; None where there is none or several."""
    words = set(re.split("[^a-z]+", name.lower())) & set(SPLITS)
    return words.pop() if len(words) == 1 else None
