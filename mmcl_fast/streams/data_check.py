"""What a check tells of a stream beyond what stops its building: contents, names, classes that are thinly held."""

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
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import fold_name, normalize_name
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample
from mmcl_fast.streams.stream import Stream
from mmcl_fast.streams.validate import group_equal_content, overlap_message

WORDS = {"train": "training", "val": "validation", "test": "test"}


def survey(stream: Stream, samples: Sequence[Sample], broken: Sequence[BrokenSample], found: Findings) -> None:
    """Adds to ``found``: faults of files, equal contents, names that look alike, classes with few files.

    Args:
        samples: all of the stream's.
        broken: those of them that do not decode.
    """
    by_key = {sample.key: sample for sample in samples}
    for fault in broken:
        _add_broken(by_key[fault.key], fault, found)
    faulty = {fault.key for fault in broken}
    sound = [sample for sample in samples if sample.key not in faulty]
    if not stream.official:
        _contents(sound, found)
    _names(stream, found)
    _file_names(samples, found)
    _classes(stream, sound, faulty, found)


def _add_broken(sample: Sample, fault: BrokenSample, found: Findings) -> None:
    """What does not decode is empty, holds something else, or is broken."""
    kind, reason = "undecodable", fault.reason
    try:
        start = head(sample.path or b"", HEAD)
    except (OSError, MediaError):
        start = None
    row = recognise(start) if start and sample.modality in BUILT_IN else None  # by its first bytes: it may kill others
    if start == b"":
        kind = "empty"
    elif row is not None and row.library and sample.modality not in row.modalities:
        kind = "wrong-modality"
        if row.modalities == ("text",):
            reason = f"{reason}, or take it out of the class if it only describes another file"
    about = {"modality": fault.modality, "split": fault.split, "label": fault.label}
    found.add(kind, reason, **about, key=fault.key, path=fault.path)


def _contents(samples: Sequence[Sample], found: Findings) -> None:
    """Equal content in two splits, under two labels, and twice in a class."""
    told = {
        key for finding in found.found if finding.kind == "equal-in-splits" for key in (finding.key, *finding.others)
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
        if len(splits) > 1 and not told.issuperset(sample.key for sample in equal):
            other = next(sample for sample in equal if sample.split != one.split)
            line = overlap_message(one, other, "equal content in")
            found.add("equal-in-splits", line, **about, others=others)
        if len(labels) > 1:
            listed = ", ".join(map(repr, labels))
            line = f"{one.key}: equal content in {others[0]}{more} under the labels {listed}: keep the right one"
            found.add("two-labels", line, **about, others=others)
        elif len(splits) == 1:
            line = f"{one.key}: equal content in {others[0]}{more}: one of them is enough"
            found.add("equal-in-class", line, **about, others=others)


def _names(stream: Stream, found: Findings) -> None:
    """Classes whose names look alike or whose texts are equal, and texts of classes.json that no class takes."""
    rooms: dict[str, list[ClassId]] = {}
    for identity in stream.classes:
        rooms.setdefault("" if stream.shared_classes else identity[0], []).append(identity)
    for room, identities in rooms.items():
        told = set()
        for group in _alike(identities, lambda identity: fold_name(identity[1])):
            told.update(group)
            listed = ", ".join(repr(label) for _, label in group)
            line = f"classes {listed} of {room or 'the stream'} differ only in how they are written: give them one name"
            _add_classes("alike-names", line, room, group, found)
        for group in _alike(identities, lambda identity: fold_name(stream.class_text[identity])):
            if told.issuperset(group):
                continue
            listed = ", ".join(repr(label) for _, label in group)
            line = (
                f"classes {listed} of {room or 'the stream'} have one text, {stream.class_text[group[0]]!r}: "
                "tell them apart in classes.json"
            )
            _add_classes("equal-texts", line, room, group, found)
    _unused_texts(stream, found)


def _file_names(samples: Sequence[Sample], found: Findings) -> None:
    """Files of one folder whose names differ only in case or Unicode form."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if isinstance(sample.path, Path):
            folder, _, name = str(sample.path).rpartition(os.sep)
            groups.setdefault((folder, normalize_name(name).casefold()), []).append(sample)
    for one, *others in groups.values():
        if others and {sample.path for sample in others} != {one.path}:
            keys = tuple(sample.key for sample in others)
            line = f"{one.key}: differs from {keys[0]} in case or Unicode form only: Windows and macOS keep one of them"
            found.add("alike-files", line, modality=one.modality, key=one.key, path=str(one.path), others=keys)


def _add_classes(kind: str, line: str, modality: str, classes: Sequence[ClassId], found: Findings) -> None:
    (_, label), *others = classes
    found.add(kind, line, modality=modality, label=label, others=tuple(name for _, name in others))


def _unused_texts(stream: Stream, found: Findings) -> None:
    """Texts of classes.json that no class takes: an entry may be misspelt, or one list may serve several folders."""
    others: dict[str, list[str]] = {}
    for modality, label in stream.unused_texts:
        near = did_you_mean(label, [name for own, name in stream.without_text if own == modality], 0.75)
        if near:
            line = f"classes.json: {modality} has no class {label!r}{near}: write the name as the folder or table does"
            found.add("misspelt-text", line, modality=modality, label=label)
        else:
            others.setdefault(modality, []).append(label)
    for modality, labels in others.items():
        listed = ", ".join(map(repr, labels[:4])) + ", ..." * (len(labels) > 4)
        line = f"classes.json: {len(labels)} texts of {modality} are for classes that have no sample ({listed})"
        found.add("unused-text", line, modality=modality, others=tuple(labels))


def _alike(identities: Iterable[ClassId], form: Callable[[ClassId], str]) -> list[list[ClassId]]:
    groups: dict[str, list[ClassId]] = {}
    for identity in identities:
        groups.setdefault(form(identity), []).append(identity)
    return [group for group in groups.values() if len(group) > 1]


def _classes(stream: Stream, sound: Sequence[Sample], faulty: set[str], found: Findings) -> None:
    """Classes without sound files in a split, or with a single one to learn from."""
    left = Counter((sample.modality, sample.label, sample.split) for sample in sound)
    for modality in stream.modalities:
        tasks = [task for task in stream.tasks if task.modality == modality]
        validated = any(left[modality, label, "val"] for task in tasks for label in task.classes)
        for task in tasks:
            had = Counter((sample.label, sample.split) for split in SPLITS for sample in task.split(split))
            for label in task.classes:
                about = {"modality": modality, "label": label}
                name = f"{stream.root}: class {label!r} of {modality}"
                for split, word in WORDS.items():
                    if left[modality, label, split]:
                        continue
                    if had[label, split]:
                        line = f"{name} has no {word} file left, for none decodes: mend them, or remove the class"
                        kind = {"train": "no-training-file", "test": "no-test-file", "val": "no-validation-file"}[split]
                        found.add(kind, line, split=split, **about)
                    elif split == "test":
                        line = f"{name} has no test file: add some, or nothing says whether it was learned"
                        found.add("no-test-file", line, split=split, **about)
                    elif split == "val" and validated:
                        line = f"{name} has no validation file, as other classes have: add some"
                        found.add("no-validation-file", line, split=split, **about)
                if left[modality, label, "train"] == 1:
                    line = f"{name} has one training file: add more to learn it from"
                    found.add("one-training-file", line, split="train", **about)
