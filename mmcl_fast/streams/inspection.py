"""Inspection of a stream that was built: broken files, equal contents, similar names, classes with few files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmcl_fast.errors import MediaError, did_you_mean
from mmcl_fast.media.formats import HEAD, recognise
from mmcl_fast.media.registry import BUILT_IN
from mmcl_fast.media.source import head
from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.equal_content import group_equal_content, overlap_message
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import fold_name, normalize_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample
from mmcl_fast.streams.stream import Stream

SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}
NO_FILE_LEFT = {"train": "no-training-file", "test": "no-test-file", "val": "no-validation-file"}
ENTRIES_SHOWN = 4  # names of a list that a message shows


def inspect_stream(stream: Stream, broken: Sequence[BrokenSample], findings: Findings) -> None:
    """Add findings for all that reading a stream does not find.

    These are broken files, equal contents, names that look alike, and classes with few files.

    Args:
        broken: the samples of the stream that do not decode; see ``check_files``.
    """
    samples = stream.samples
    by_key = {sample.key: sample for sample in samples}
    for record in broken:
        _add_broken(by_key[record.key], record, findings)
    broken_keys = {record.key for record in broken}
    intact = [sample for sample in samples if sample.key not in broken_keys]
    if not stream.official:
        _inspect_contents(intact, findings)
    _inspect_class_names(stream, findings)
    _inspect_class_texts(stream, findings)
    _inspect_file_names(samples, findings)
    _inspect_class_sizes(stream, intact, findings)


def _add_broken(sample: Sample, broken: BrokenSample, findings: Findings) -> None:
    """Add a finding for a file that is empty, holds another modality, or is broken."""
    kind, reason = "undecodable", broken.reason
    try:
        start = head(sample.path or b"", HEAD)
    except (OSError, MediaError):
        start = None
    # Only the first bytes are looked at: decoding this file may end the process.
    file_format = recognise(start) if start and sample.modality in BUILT_IN else None
    if start == b"":
        kind = "empty"
    elif file_format is not None and file_format.library and sample.modality not in file_format.modalities:
        kind = "wrong-modality"
        if file_format.modalities == ("text",):
            reason = f"{reason}, or take it out of the class if it only describes another file"
    about = {"modality": broken.modality, "split": broken.split, "label": broken.label}
    findings.add(kind, reason, **about, key=broken.key, path=broken.path)


def _inspect_contents(samples: Sequence[Sample], findings: Findings) -> None:
    """Add findings for equal content in two splits, under two labels, and twice in a class."""
    reported = {
        key for finding in findings if finding.kind == "equal-in-splits" for key in (finding.key, *finding.others)
    }
    for equal in group_equal_content(samples, lambda sample: sample.key):
        splits = sorted({sample.split for sample in equal}, key=SPLITS.index)
        labels = sorted({sample.label for sample in equal})
        one = equal[0]
        others = tuple(sample.key for sample in equal[1:])
        split = splits[0] if len(splits) == 1 else ""
        label = labels[0] if len(labels) == 1 else ""
        about = {"modality": one.modality, "split": split, "label": label, "key": one.key, "path": str(one.path or "")}
        more = f" and {len(others) - 1} more" if others[1:] else ""
        if len(splits) > 1 and not reported.issuperset(sample.key for sample in equal):
            other = next(sample for sample in equal if sample.split != one.split)
            findings.add("equal-in-splits", overlap_message(one, other, "equal content in"), **about, others=others)
        if len(labels) > 1:
            listed = ", ".join(map(repr, labels))
            line = f"{one.key}: equal content in {others[0]}{more} under the labels {listed}: keep the right one"
            findings.add("two-labels", line, **about, others=others)
        elif len(splits) == 1:
            line = f"{one.key}: equal content in {others[0]}{more}: keep one of them"
            findings.add("equal-in-class", line, **about, others=others)


def _inspect_class_names(stream: Stream, findings: Findings) -> None:
    """Add findings for classes whose names look alike or whose texts are equal."""
    scopes: dict[str, list[ClassId]] = {}  # a name must be unique in a modality, or in the stream if classes are shared
    for class_id in stream.classes:
        scopes.setdefault("" if stream.shared_classes else class_id[0], []).append(class_id)
    for scope, class_ids in scopes.items():
        reported = set()
        for group in _groups_of_equals(class_ids, lambda class_id: fold_name(class_id[1])):
            reported.update(group)
            line = (
                f"classes {_quoted(group)} of {scope or 'the stream'} differ only in how they are written: "
                "give them one name"
            )
            _add_classes("alike-names", line, scope, group, findings)
        for group in _groups_of_equals(class_ids, lambda class_id: fold_name(stream.class_text[class_id])):
            if reported.issuperset(group):
                continue
            line = (
                f"classes {_quoted(group)} of {scope or 'the stream'} have one class text, "
                f"{stream.class_text[group[0]]!r}: give each its own in classes.json"
            )
            _add_classes("equal-texts", line, scope, group, findings)


def _groups_of_equals(class_ids: Iterable[ClassId], form: Callable[[ClassId], str]) -> list[list[ClassId]]:
    """Return the groups of two or more classes that have the same ``form``."""
    groups: dict[str, list[ClassId]] = {}
    for class_id in class_ids:
        groups.setdefault(form(class_id), []).append(class_id)
    return [group for group in groups.values() if len(group) > 1]


def _quoted(class_ids: Sequence[ClassId]) -> str:
    return ", ".join(repr(label) for _, label in class_ids)


def _add_classes(kind: str, line: str, modality: str, classes: Sequence[ClassId], findings: Findings) -> None:
    (_, label), *others = classes
    findings.add(kind, line, modality=modality, label=label, others=tuple(name for _, name in others))


def _inspect_class_texts(stream: Stream, findings: Findings) -> None:
    """Add findings for texts of classes.json that match no class.

    Such an entry may be misspelt. But one list may also serve several folders.
    """
    unmatched: dict[str, list[str]] = {}
    for modality, label in stream.unused_texts:
        without_text = [name for of_modality, name in stream.without_text if of_modality == modality]
        similar = did_you_mean(label, without_text, 0.75)
        if similar:
            line = (
                f"classes.json: {modality} has no class {label!r}{similar}: write the name as the folder or table does"
            )
            findings.add("misspelt-text", line, modality=modality, label=label)
        else:
            unmatched.setdefault(modality, []).append(label)
    for modality, labels in unmatched.items():
        listed = ", ".join(map(repr, labels[:ENTRIES_SHOWN])) + ", ..." * (len(labels) > ENTRIES_SHOWN)
        line = f"classes.json: {len(labels)} texts of {modality} are for classes that have no sample ({listed})"
        findings.add("unused-text", line, modality=modality, others=tuple(labels))


def _inspect_file_names(samples: Sequence[Sample], findings: Findings) -> None:
    """Add findings for files of one folder whose names differ only in case or Unicode form."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if isinstance(sample.path, Path):
            folder, _, name = str(sample.path).rpartition(os.sep)
            groups.setdefault((folder, normalize_name(name).casefold()), []).append(sample)
    for one, *others in groups.values():
        if others and {sample.path for sample in others} != {one.path}:
            keys = tuple(sample.key for sample in others)
            line = f"{one.key}: differs from {keys[0]} in case or Unicode form only: Windows and macOS keep one of them"
            findings.add("alike-files", line, modality=one.modality, key=one.key, path=str(one.path), others=keys)


def _inspect_class_sizes(stream: Stream, intact: Sequence[Sample], findings: Findings) -> None:
    """Add findings for classes without intact files in a split, or with only one training file."""
    counts = Counter((sample.modality, sample.label, sample.split) for sample in intact)
    for modality in stream.modalities:
        tasks = [task for task in stream.tasks if task.modality == modality]
        has_validation = any(counts[modality, label, "val"] for task in tasks for label in task.classes)
        for task in tasks:
            counts_with_broken = Counter((sample.label, sample.split) for s in SPLITS for sample in task.split(s))
            for label in task.classes:
                about = {"modality": modality, "label": label}
                name = f"{stream.root}: class {label!r} of {modality}"
                for split, word in SPLIT_WORDS.items():
                    if counts[modality, label, split]:
                        continue
                    if counts_with_broken[label, split]:
                        line = (
                            f"{name} has no {word} file left, because none decodes: repair the files, or remove the "
                            "class"
                        )
                        findings.add(NO_FILE_LEFT[split], line, split=split, **about)
                    elif split == "test":
                        line = f"{name} has no test file: add some, or nothing shows whether it was learned"
                        findings.add("no-test-file", line, split=split, **about)
                    elif split == "val" and has_validation:
                        line = f"{name} has no validation file, as other classes have: add some"
                        findings.add("no-validation-file", line, split=split, **about)
                if counts[modality, label, "train"] == 1:
                    line = f"{name} has only one training file: add more"
                    findings.add("one-training-file", line, split="train", **about)
