"""Comparison of file contents: equal files in two splits would let the test count a memorised file as known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from mmcl_fast.media.source import Source, open_binary, size_of
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import Sample

FIRST_BYTES = 1 << 12  # most files of equal size already differ in these


def check_equal_content(samples: Sequence[Sample], findings: Findings | None = None) -> None:
    """Add a finding for each group of samples with equal content in two splits.

    Raises:
        StreamError: ``findings`` is None and there is such a group.
    """
    raise_at_end = findings is None
    findings = Findings() if findings is None else findings
    for one, *others in group_equal_content(samples, lambda sample: sample.split):
        other = next(sample for sample in others if sample.split != one.split)
        add_sample_finding(findings, "equal-in-splits", overlap_message(one, other, "equal content in"), one, *others)
    if raise_at_end:
        findings.raise_worst_error()


def group_equal_content(samples: Iterable[Sample], differ_in: Callable[[Sample], object]) -> Iterator[list[Sample]]:
    """Yield groups of samples of one modality with equal content and at least two values of ``differ_in``.

    Only files of equal size are read, and only files with equal first bytes to their end. A file that can't be read
    is in no group.

    Example:
        ``group_equal_content(samples, lambda sample: sample.split)`` gives contents that two splits share.
    """

    def group_by(some: Iterable[Sample], value: Callable[[Sample], object]) -> Iterator[list[Sample]]:
        groups: dict[object, list[Sample]] = {}
        for sample in some:
            with suppress(OSError):
                groups.setdefault(value(sample), []).append(sample)
        yield from (group for group in groups.values() if len({differ_in(sample) for sample in group}) > 1)

    for same_size in group_by(samples, lambda s: (s.modality, s.text if s.path is None else size_of(s.path))):
        if same_size[0].path is None:  # a text counts as its own size
            yield same_size
            continue
        for same_start in group_by(same_size, lambda s: _digest(s.path, FIRST_BYTES)):
            yield from group_by(same_start, lambda s: _digest(s.path))


def overlap_message(a: Sample, b: Sample, what: str) -> str:
    """Return the line of a finding about two samples of two splits.

    ``what``: "one file in" or "equal content in".
    """
    return f"{b.key}: {what} the {a.split} split ({a.key}) and the {b.split} split: keep it in one of them"


def add_sample_finding(findings: Findings, kind: str, reason: str, sample: Sample, *others: Sample) -> None:
    """Add a finding about ``sample``; ``others`` are listed in its ``others``."""
    findings.add(
        kind,
        reason,
        modality=sample.modality,
        split=sample.split,
        label=sample.label,
        key=sample.key,
        path="" if sample.path is None else str(sample.path),
        others=tuple(other.key for other in others),
    )


def _digest(path: Source | None, limit: int | None = None) -> str:
    """Return the sha256 of a file, or of its first ``limit`` bytes."""
    digest = hashlib.sha256()
    if path is not None:
        with open_binary(path) as file:
            while block := file.read(limit or 1 << 20):
                digest.update(block)
                if limit:
                    break
    return digest.hexdigest()
