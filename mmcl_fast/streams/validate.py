"""Checks of samples before a stream is built. They look at names and file sizes only and open no file."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from mmcl_fast.errors import StreamError, did_you_mean
from mmcl_fast.media.formats import ENDINGS
from mmcl_fast.media.registry import BUILT_IN, MODALITIES
from mmcl_fast.media.source import Slice
from mmcl_fast.streams.equal_content import add_sample_finding, overlap_message
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import fold_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample


def check_modality(name: str, where: str) -> None:
    """Raise StreamError for an unknown modality. ``where`` begins the message."""
    if name not in MODALITIES:
        raise StreamError(
            f"{where}: unknown modality {name!r}{did_you_mean(name, MODALITIES)}: use one of {', '.join(MODALITIES)}"
        )


def check_split(name: str, where: str) -> None:
    """Raise StreamError for an unknown split. ``where`` begins the message."""
    if name not in SPLITS:
        raise StreamError(f"{where}: unknown split {name!r}{did_you_mean(name, SPLITS)}: use {', '.join(SPLITS)}")


def check_characters(text: str, where: str) -> None:
    """Raise StreamError for characters that no name or text can hold. ``where`` names the field."""
    if "\0" in text:
        raise StreamError(f"{where} holds a zero byte: correct it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StreamError(f"{where} holds half a character (a lone surrogate): correct it") from None


class FileFault(StreamError):
    """An error about one file. ``kind`` is a key of ``findings.KINDS``."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def check_file(
    path: Path | str | Slice, modality: str, where: str, *, allow_empty: bool = False
) -> tuple[int, int, int]:
    """Check that a file is there, is not empty, and has no ending of another modality.

    Returns:
        The file's identity: device, inode, and the offset in a tar.

    Raises:
        FileFault: the message begins with ``where``.
    """
    try:
        stat = os.stat(path.path if isinstance(path, Slice) else path)
    except OSError as error:
        reason = error.strerror or error
        raise FileFault("missing", f"{where}: {reason}: restore the file or remove its entry") from None
    if (path.size if isinstance(path, Slice) else stat.st_size) == 0 and not allow_empty:
        raise FileFault("empty", f"{where}: the file is empty: replace the file or remove it")
    ending = os.path.splitext(str(path))[1].lstrip(".").lower()
    if modality in BUILT_IN and ending in ENDINGS and modality not in ENDINGS[ending]:
        raise FileFault(
            "wrong-modality",
            f"{where}: a .{ending} file cannot be {modality}: rename it by content, move it to "
            f"{' or '.join(sorted(ENDINGS[ending]))}, or take it out of the class",
        )
    return stat.st_dev, stat.st_ino, path.offset if isinstance(path, Slice) else 0


def validate_samples(
    samples: Sequence[Sample],
    root: Path,
    findings: Findings,
    *,
    keep_empty: bool = False,
    known: Collection[ClassId] = (),
) -> list[Sample]:
    """Return the samples without faults, and add findings for the others.

    Findings are also added for one file in two splits, and for splits and classes that can't be learned or tested.
    Classes that are ``known`` need no test samples.

    Raises:
        StreamError: no sample remains. The message is the most harmful error.
    """
    keys: set[str] = set()
    files: dict[tuple[int, int, int], Sample] = {}
    valid = []
    for sample in samples:
        fault = _key_fault(sample, keys)
        keys.add(sample.key)
        if fault is None and sample.path is not None:
            try:
                identity = check_file(sample.path, sample.modality, str(sample.path), allow_empty=keep_empty)
            except FileFault as error:
                fault = error.kind, str(error)
            else:
                other = files.setdefault(identity, sample)
                if other.split != sample.split:
                    line = overlap_message(other, sample, "one file in")
                    add_sample_finding(findings, "equal-in-splits", line, sample, other)
        if fault is None:
            valid.append(sample)
        else:
            add_sample_finding(findings, *fault, sample)
    if not valid:
        expected = f"{root}: no samples: expected <modality>/<split>/<class>/<file> or manifest lines"
        raise findings.worst_error(expected) or StreamError(expected)
    _check_classes(samples, root, findings, known)
    return valid


def _key_fault(sample: Sample, keys: set[str]) -> tuple[str, str] | None:
    """Return the kind and the line of a finding about the sample's key. ``keys``: keys of the samples before it."""
    if sample.key in keys:
        return "listed-twice", f"{sample.key}: listed twice: each sample needs its own path or id"
    try:
        sample.key.encode()
    except UnicodeEncodeError:
        return "name", f"{sample.key!r}: its name is not UTF-8: rename file or folder"
    return None


def _check_classes(samples: Sequence[Sample], root: Path, findings: Findings, known: Collection[ClassId] = ()) -> None:
    """Add findings for classes without a training file and for modalities without a test file."""
    splits_of: dict[tuple[str, str], set[str]] = {}
    for sample in samples:
        splits_of.setdefault((sample.modality, sample.label), set()).add(sample.split)
    learned = {
        (modality, fold_name(label)): label for (modality, label), splits in splits_of.items() if "train" in splits
    }
    for (modality, label), splits in splits_of.items():
        if "train" not in splits:
            advice = "add some under its train split or remove the class"
            if (modality, fold_name(label)) in learned:
                advice = f"give it and {learned[modality, fold_name(label)]!r} one name"
            line = f"{root}: class {label!r} of {modality} has no training file: {advice}"
            findings.add("no-training-file", line, modality=modality, split="train", label=label)
    tested = {key[0] for key, splits in splits_of.items() if "test" in splits or key in known}
    for modality in dict.fromkeys(modality for modality, _ in splits_of):
        if modality not in tested:
            line = f"{root}: {modality} has no test split: add test files"
            findings.add("no-test-split", line, modality=modality, split="test")


def check_task(
    name: str, samples: Sequence[Sample], root: Path, findings: Findings, known: Collection[ClassId] = ()
) -> None:
    """Add a finding for a task without a training or without a test file. One with a ``known`` class needs no test."""
    for split, word in (("train", "training"), ("test", "test")):
        if split == "test" and any((sample.modality, sample.label) in known for sample in samples):
            continue
        if not any(sample.split == split for sample in samples):
            labels = list(dict.fromkeys(sample.label for sample in samples))
            classes = f"class{'es' if len(labels) > 1 else ''} {', '.join(map(repr, labels))}"
            findings.add(
                "no-training-file" if split == "train" else "no-test-split",
                f"{root}: task {name!r} ({classes}) has no {word} file: add some under its {split} split, or put "
                "these classes into a larger task",
                modality=samples[0].modality,
                split=split,
            )
