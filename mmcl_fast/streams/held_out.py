"""Samples that are held out: a test share where the data have no splits, and a validation share. No group is split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.equal_content import add_sample_finding, overlap_message
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.grouping import Grouping
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample

TEST_SHARE = 0.2  # of each class, where there are no split folders
AUTO_VALIDATION = 10  # of so many training samples of a class, validation = "auto" moves one


@dataclass(frozen=True)
class HeldOut:
    """The number of groups and samples that were held out of all that could be. A sample may be its own group."""

    split: str
    held_groups: int
    groups: int
    held_samples: int
    samples: int

    @property
    def line(self) -> str:
        """Say it in a line, such as ``held out for testing: 34 of 170 groups (40 of 200 samples)``."""
        purpose = {"test": "testing", "val": "validation"}[self.split]
        counted = f"{self.held_samples} of {self.samples} samples"
        if self.groups < self.samples:
            counted = f"{self.held_groups} of {self.groups} groups ({counted})"
        return f"held out for {purpose}: {counted}"


@dataclass
class _Unit:
    """A group, or a sample that stands for itself, and the number of its samples in each class."""

    name: str
    members: list[Sample]
    counts: Counter[Any]


def split_samples(
    samples: Sequence[Sample],
    root: Path,
    grouping: Grouping,
    without_splits: Collection[str],
    validates: bool,
    official: bool,
    findings: Findings,
    known: Collection[ClassId],
) -> tuple[list[Sample], dict[str, str], HeldOut | None]:
    """Find the groups of samples, hold out tests where there are no splits, and report groups in two splits.

    Args:
        samples: of all modalities.
        root: the folder that messages name.
        grouping: finds the groups.
        without_splits: modalities whose data have no splits.
        validates: a validation share will be held out too.
        official: a known dataset gave the splits. They are not judged.
        findings: get what is wrong.
        known: classes that need no test samples.

    Returns:
        The samples, sample key -> group, and what was held out.
    """
    samples, names = grouping.apply(samples, root, bool(without_splits) or validates)
    samples, held_out = hold_out_tests(
        samples, without_splits, names, root=root, findings=findings, known=known, sides=grouping.sides
    )
    if not official and (grouping.rule.kind or grouping.find_similar):
        _report_groups_in_splits(samples, names, grouping, findings)
    return samples, names, held_out


def hold_out_tests(
    samples: Sequence[Sample],
    modalities: Collection[str],
    names: Mapping[str, str],
    *,
    root: Path,
    findings: Findings,
    known: Collection[ClassId] = (),
    sides: Mapping[str, str] | None = None,
) -> tuple[list[Sample], HeldOut | None]:
    """Hold out a fifth of each class of some modalities, at least one sample and never all of them.

    The samples with the smallest sha256 of their keys are held out. So a file that comes later moves few others. Groups
    count as one sample. A group that also has samples of other modalities goes to the split that these are in.

    Args:
        samples: of all modalities.
        modalities: whose data have no splits.
        names: sample key -> group.
        root: the folder that findings name.
        findings: get classes of one file, which are left out, and classes of one group, which are not tested.
        known: classes that need no test samples.
        sides: group -> split, for groups whose split is fixed.

    Returns:
        The samples with their splits, and what was held out; None without ``modalities``.
    """
    if not modalities:
        return list(samples), None
    sizes = Counter(_class_of(sample) for sample in samples if sample.modality in modalities)
    too_small = [key for key, size in sizes.items() if size < 2 and key not in known]
    for modality, label in too_small:
        path = root / modality / label
        line = (
            f"{path}: 1 of the two files that a class needs at least, one to train on and one to test on: add files or "
            "remove the class"
        )
        findings.add("too-few-files", line, modality=modality, label=label, path=str(path))
    samples = [sample for sample in samples if _class_of(sample) not in too_small]
    free = [sample for sample in samples if sample.modality in modalities]
    fixed = {**(sides or {}), **_sides_of((s for s in samples if s.modality not in modalities), names)}
    units = _units(free, names, _class_of, lambda name: name)
    targets: Counter[Any] = Counter(
        {key: max(1, round(TEST_SHARE * n)) for key, n in sizes.items() if key not in known and key not in too_small}
    )
    held = _choose(units, targets, {u.name: fixed[u.name] == "test" for u in units if u.name in fixed}, needs_one=True)
    keys = {sample.key for unit in held for sample in unit.members}
    in_val = {sample.key for unit in units if fixed.get(unit.name) == "val" for sample in unit.members}
    split = {s.key: "test" if s.key in keys else "val" if s.key in in_val else "train" for s in free}
    out = [replace(s, split=split[s.key]) if s.modality in modalities else s for s in samples]
    for key in targets:
        if not any(key in unit.counts for unit in held):
            _report_one_group(key, [unit for unit in units if key in unit.counts], root, findings)
    return out, HeldOut("test", len(held), len(units), len(keys), len(free))


def hold_out_validation(
    tasks: Mapping[tuple[str, str], list[Sample]],
    share: float | str,
    seed: int,
    names: Mapping[str, str],
    sides: Mapping[str, str] | None = None,
    without_splits: Collection[str] = (),
) -> tuple[dict[tuple[str, str], list[Sample]], HeldOut | None]:
    """Move a share of each class's training samples to validation, if the class has no validation sample yet.

    At least one training sample of each class stays. Of two or more, at least one is moved. The share ``"auto"`` moves
    a tenth, rounded down: a class with fewer than ten training samples keeps all of them. Groups move as a whole. A
    group with validation samples in another class moves to them.

    Args:
        tasks: (modality, task) -> samples.
        share: from 0 up to 1, or ``"auto"``.
        seed: fixes which samples move.
        names: sample key -> group.
        sides: group -> split, for groups whose split is fixed.
        without_splits: modalities whose validation samples were not given but follow from their groups.

    Returns:
        The tasks with their samples, and what was held out; None where nothing was.
    """
    if not share:
        return dict(tasks), None
    place = {sample.key: (task, sample.label) for task, some in tasks.items() for sample in some}
    everything = [sample for some in tasks.values() for sample in some]
    done = {place[s.key] for s in everything if s.split == "val" and s.modality not in without_splits}
    free = [s for s in everything if s.split != "test" and place[s.key] not in done]
    if not free:
        return dict(tasks), None
    stays = (s for s in everything if s.split == "test" or place[s.key] in done)
    fixed = {**(sides or {}), **_sides_of(stays, names)}
    units = _units(free, names, lambda sample: place[sample.key], lambda name: f"{seed}/{name}")
    targets: Counter[Any] = Counter()
    for key, n in Counter(place[sample.key] for sample in free).items():
        if isinstance(share, str):
            targets[key] = n // AUTO_VALIDATION
        else:  # at least one sample moves, and at least one stays to learn from
            targets[key] = min(max(1, round(share * n)), n - 1)
    chosen = {u.name: fixed[u.name] == "val" for u in units if u.name in fixed}
    held = _choose(units, targets, chosen, needs_one=not isinstance(share, str))
    if not held:
        return dict(tasks), None
    keys = {sample.key for unit in held for sample in unit.members}
    out = {task: [replace(s, split="val") if s.key in keys else s for s in some] for task, some in tasks.items()}
    return out, HeldOut("val", len(held), len(units), len(keys), len(free))


def choose_test_samples(
    test_on: str, samples: list[Sample], task: str, known: Collection[ClassId] = ()
) -> list[Sample]:
    """Return the samples of a task as they are for ``test_on = "test"``.

    For ``"val"`` the test samples are left out and the validation samples become the test samples. A task with a
    ``known`` class needs none.
    """
    if test_on == "test":
        return samples
    if test_on != "val":
        raise StreamError(f"test_on = {test_on!r}: give 'test' or 'val'")
    others = [sample for sample in samples if sample.split != "test"]
    if all(sample.split != "val" and _class_of(sample) not in known for sample in others):
        raise StreamError(
            f"task {task}: no validation sample to test on; add some, or hold out a share: validation = 0.2"
        )
    return [replace(sample, split="test") if sample.split == "val" else sample for sample in others]


def _class_of(sample: Sample) -> ClassId:
    return sample.modality, sample.label


def _sides_of(samples: Iterable[Sample], names: Mapping[str, str]) -> dict[str, str]:
    """Return group -> split of the samples that have a group: test before val before train, if it has several."""
    grouped = sorted((s for s in samples if s.key in names), key=lambda s: SPLITS.index(s.split))
    return {names[s.key]: s.split for s in grouped}


def _units(
    samples: Iterable[Sample],
    names: Mapping[str, str],
    class_of: Callable[[Sample], Hashable],
    hashed: Callable[[str], str],
) -> list[_Unit]:
    """Return the groups of the samples, in the order of a hash. ``hashed``: group or sample key -> what is hashed."""
    units: dict[tuple[bool, str], _Unit] = {}
    for sample in samples:
        grouped = sample.key in names
        name = names[sample.key] if grouped else sample.key
        unit = units.setdefault((grouped, name), _Unit(name if grouped else "", [], Counter()))
        unit.members.append(sample)
        unit.counts[class_of(sample)] += 1
    # By hash, not by position: adding a file does not reshuffle the others.
    # A path that is not UTF-8 must not end the reading here: validate_samples makes it a finding.
    order = {key: hashlib.sha256(hashed(key[1]).encode(errors="surrogatepass")).digest() for key in units}
    return [units[key] for key in sorted(units, key=order.__getitem__)]


def _choose(
    units: Sequence[_Unit], targets: Counter[Any], fixed: Mapping[str, bool], *, needs_one: bool
) -> list[_Unit]:
    """Return the units to hold out, so that each class has about as many held-out samples as ``targets`` says.

    Units are taken in their order while they exceed no target. Then larger ones are taken where the sum of all
    distances to the targets falls. No class loses its last unit to learn from.

    Args:
        units: in the order of preference.
        targets: class -> samples.
        fixed: unit's name -> whether it is held out, for units that are not free.
        needs_one: classes without any take the smallest unit that they have.
    """
    left = Counter[Any]()
    for unit in units:
        left.update(unit.counts)
    taken = Counter[Any]()
    held: set[int] = set()
    sizes = [sum(unit.counts.values()) for unit in units]

    def take(number: int) -> None:
        held.add(number)
        taken.update(units[number].counts)
        left.subtract(units[number].counts)

    def is_free(number: int) -> bool:
        counts = units[number].counts
        return number not in held and units[number].name not in fixed and all(left[c] > n for c, n in counts.items())

    for number, unit in enumerate(units):
        if fixed.get(unit.name):
            take(number)
    for number, unit in enumerate(units):
        if is_free(number) and all(taken[c] + n <= targets[c] for c, n in unit.counts.items()):
            take(number)
    by_size = sorted(range(len(units)), key=lambda number: sizes[number])
    for number in by_size:
        counts = units[number].counts
        gain = sum(abs(targets[c] - taken[c]) - abs(targets[c] - taken[c] - n) for c, n in counts.items())
        # At the same distance, some samples are better than none.
        is_first = any(targets[c] and not taken[c] for c in counts)
        if (gain > 0 or (gain == 0 and is_first)) and is_free(number):
            take(number)
    of_class: dict[Hashable, list[int]] = {}
    for number in by_size if needs_one else ():
        for c in units[number].counts:
            of_class.setdefault(c, []).append(number)
    for c, target in targets.items():
        if target and not taken[c]:
            smallest = next((number for number in of_class.get(c, ()) if is_free(number)), None)
            if smallest is not None:
                take(smallest)
    return [unit for number, unit in enumerate(units) if number in held]


def _report_groups_in_splits(
    samples: Iterable[Sample], names: Mapping[str, str], grouping: Grouping, findings: Findings
) -> None:
    """Add a finding for each group that stands in two splits which the data give."""
    groups: dict[str, list[Sample]] = {}
    keys = set()
    for sample in samples:
        keys.add(sample.key)
        if sample.key in names:
            groups.setdefault(names[sample.key], []).append(sample)
    by_rule = grouping.rule.kind in ("column", "regex")
    by_features = grouping.rule.kind == "duplicates" or grouping.find_similar is not None
    for name, (one, *others) in groups.items():
        other = next((sample for sample in others if sample.split != one.split), None)
        if other is not None:
            named = by_rule and name not in keys  # groups without a name are called like a sample
            if not (named or by_features):
                continue  # equal content, which another check names
            what = f"group {name!r} in" if named else "content like that in"
            kind = "group-in-splits" if named else "similar-in-splits"
            add_sample_finding(findings, kind, overlap_message(one, other, what), one, *others)


def _report_one_group(key: ClassId, units: Sequence[_Unit], root: Path, findings: Findings) -> None:
    """Add a finding for a class whose groups all stay in training."""
    modality, label = key
    path = root / modality / label
    count = sum(unit.counts[key] for unit in units)
    groups = f"all {count} files are one group" if len(units) == 1 else f"none of its {len(units)} groups can be spared"
    line = f"{path}: {groups} ({units[0].name}), so the class is learned and not tested: add files of another group"
    findings.add("one-group", line, modality=modality, label=label, path=str(path))
