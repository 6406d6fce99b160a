"""What a stream must hold before anything is learned from it. Only names and sizes are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mmcl_fast.errors import StreamError, did_you_mean
from mmcl_fast.media.formats import ENDINGS
from mmcl_fast.media.registry import BUILT_IN, MODALITIES
from mmcl_fast.media.source import Slice, Source, open_binary, size_of
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import fold_name
from mmcl_fast.streams.sample import SPLITS, Sample

HEAD = 1 << 12  # bytes in which most files of one size differ


def check_modality(name: str, where: str) -> None:
    if name not in MODALITIES:
        raise StreamError(
            f"{where}: unknown modality {name!r}{did_you_mean(name, MODALITIES)}: use one of {', '.join(MODALITIES)}"
        )


def check_split(name: str, where: str) -> None:
    if name not in SPLITS:
        raise StreamError(f"{where}: unknown split {name!r}{did_you_mean(name, SPLITS)}: use {', '.join(SPLITS)}")


def check_characters(text: str, where: str) -> None:
    """Refuses what neither a name nor a sentence can hold; ``where`` names the field."""
    if "\0" in text:
        raise StreamError(f"{where} holds a zero byte: correct it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StreamError(f"{where} holds half a character (a lone surrogate): correct it") from None


def check_task(name: str, samples: Sequence[Sample], root: Path, found: Findings) -> None:
    """Finds a task that cannot be learned or not be tested."""
    for split, word in (("train", "training"), ("test", "test")):
        if not any(sample.split == split for sample in samples):
            labels = list(dict.fromkeys(sample.label for sample in samples))
            classes = f"class{'es' if len(labels) > 1 else ''} {', '.join(map(repr, labels))}"
            found.add(
                "no-training-file" if split == "train" else "no-test-split",
                f"{root}: task {name!r} ({classes}) has no {word} file: add some under its {split} split, or put "
                "these classes into a larger task",
                modality=samples[0].modality,
                split=split,
            )


class FileFault(StreamError):
    """A file at fault; ``kind``: see ``findings.KINDS``."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def check_file(path: Path | str | Slice, modality: str, where: str, *, empty: bool = False) -> tuple[int, int, int]:
    """Refuses a missing or (unless ``empty``) an empty file and an ending of another modality; returns (device,
    inode, offset)."""
    try:
        stat = os.stat(path.path if isinstance(path, Slice) else path)
    except OSError as error:
        reason = error.strerror or error
        raise FileFault("missing", f"{where}: {reason}: restore the file or remove its entry") from None
    if (path.size if isinstance(path, Slice) else stat.st_size) == 0 and not empty:
        raise FileFault("empty", f"{where}: the file is empty: replace or remove it")
    ending = os.path.splitext(str(path))[1].lstrip(".").lower()
    if modality in BUILT_IN and ending in ENDINGS and modality not in ENDINGS[ending]:
        raise FileFault(
            "wrong-modality",
            f"{where}: a .{ending} file cannot be {modality}: rename it by content, move it to "
            f"{' or '.join(sorted(ENDINGS[ending]))}, or take it out of the class",
        )
    return stat.st_dev, stat.st_ino, path.offset if isinstance(path, Slice) else 0


def validate_samples(
    samples: Sequence[Sample], root: Path, found: Findings, *, keep_empty: bool = False
) -> list[Sample]:
    """The samples that are not at fault. Finds files at fault, and splits and classes that can't be learned or tested.

    Raises:
        StreamError: there is no sample left; the most harmful error says why.
    """
    keys: set[str] = set()
    files: dict[tuple[int, int, int], Sample] = {}
    kept = []
    for sample in samples:
        fault = _name_fault(sample, keys)
        keys.add(sample.key)
        if fault is None and sample.path is not None:
            try:
                identity = check_file(sample.path, sample.modality, str(sample.path), empty=keep_empty)
            except FileFault as error:
                fault = error.kind, str(error)
            else:
                other = files.setdefault(identity, sample)
                if other.split != sample.split:
                    _add(found, "equal-in-splits", overlap_message(other, sample, "one file in"), sample, other)
        if fault is None:
            kept.append(sample)
        else:
            _add(found, fault[0], fault[1], sample)
    if not kept:
        expected = f"{root}: no samples: expected <modality>/<split>/<class>/<file> or manifest lines"
        raise found.error(expected) or StreamError(expected)
    check_classes(samples, root, found)
    return kept


def _name_fault(sample: Sample, keys: set[str]) -> tuple[str, str] | None:
    if sample.key in keys:
        return "listed-twice", f"{sample.key}: listed twice: each sample needs its own path or id"
    try:
        sample.key.encode()
    except UnicodeEncodeError:
        return "name", f"{sample.key!r}: its name is not UTF-8: rename file or folder"
    return None


def check_classes(samples: Sequence[Sample], root: Path, found: Findings) -> None:
    """Finds classes without a training file and modalities without a test file."""
    held: dict[tuple[str, str], set[str]] = {}
    for sample in samples:
        held.setdefault((sample.modality, sample.label), set()).add(sample.split)
    learned = {(modality, fold_name(label)): label for (modality, label), splits in held.items() if "train" in splits}
    for (modality, label), splits in held.items():
        if "train" not in splits:
            advice = "add some under its train split or remove the class"
            if (modality, fold_name(label)) in learned:
                advice = f"give it and {learned[modality, fold_name(label)]!r} one name"
            line = f"{root}: class {label!r} of {modality} has no training file: {advice}"
            found.add("no-training-file", line, modality=modality, split="train", label=label)
    for modality in dict.fromkeys(modality for modality, _ in held):
        if not any("test" in splits for (own, _), splits in held.items() if own == modality):
            line = f"{root}: {modality} has no test split: add test files"
            found.add("no-test-split", line, modality=modality, split="test")


def check_equal_content(samples: Sequence[Sample], found: Findings | None = None) -> None:
    """Finds equal content in two splits. Reads only files whose sizes agree, in splits that differ.

    Raises:
        StreamError: without ``found``, the first.
    """
    alone = found is None
    found = Findings() if found is None else found
    for one, *others in group_equal_content(samples, lambda sample: sample.split):
        other = next(sample for sample in others if sample.split != one.split)
        _add(found, "equal-in-splits", overlap_message(one, other, "equal content in"), one, *others)
    if alone:
        found.settle()


def group_equal_content(samples: Iterable[Sample], apart: Callable[[Sample], object]) -> Iterator[list[Sample]]:
    """Groups of samples of one modality with equal content, of two or more values of ``apart``.

    Reads only files whose sizes agree, and whole only those whose first bytes do. A file that can't be read is in no
    group.
    """

    def alike(group: Iterable[Sample], what: Callable[[Sample], object]) -> Iterator[list[Sample]]:
        groups: dict[object, list[Sample]] = {}
        for sample in group:
            with suppress(OSError):
                groups.setdefault(what(sample), []).append(sample)
        yield from (same for same in groups.values() if len({apart(sample) for sample in same}) > 1)

    for size in alike(samples, lambda s: (s.modality, s.text if s.path is None else size_of(s.path))):
        if size[0].path is None:
            yield size
            continue
        for head in alike(size, lambda s: _digest(s.path, HEAD)):
            yield from alike(head, lambda s: _digest(s.path))


def overlap_message(a: Sample, b: Sample, what: str) -> str:
    """Line of a finding: two samples of two splits are one file, or have equal content."""
    return f"{b.key}: {what} the {a.split} split ({a.key}) and the {b.split} split: keep it in one of them"


def _add(found: Findings, kind: str, reason: str, sample: Sample, *others: Sample) -> None:
    found.add(
        kind,
        reason,
        modality=sample.modality,
        split=sample.split,
        label=sample.label,
        key=sample.key,
        path="" if sample.path is None else str(sample.path),
        others=tuple(other.key for other in others),
    )


def _digest(path: Source | None, most: int | None = None) -> str:
    """sha256 of a file, or of its first ``most`` bytes."""
    digest = hashlib.sha256()
    if path is not None:
        with open_binary(path) as file:
            while block := file.read(most or 1 << 20):
                digest.update(block)
                if most:
                    break
    return digest.hexdigest()
