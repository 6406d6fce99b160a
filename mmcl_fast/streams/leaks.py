"""Samples to learn from that a held-out split holds too: equal content, the same group, or content that is similar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mmcl_fast.streams.data_check import DataReport
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sample import SPLITS, Sample

KINDS = ("equal-in-splits", "group-in-splits", "similar-in-splits")


@dataclass(frozen=True)
class Leak:
    """A sample that another split holds too.

    Attributes:
        kind: one of ``KINDS``.
        leaves: the sample to leave out: of train where the other one is of val or test, of val where that is of test.
        stays: the other sample.
        stuck: why it can't be left out; empty: it can.
    """

    kind: str
    leaves: Sample
    stays: Sample
    stuck: str = ""

    def record(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {
            "kind": self.kind,
            "leaves": {"key": self.leaves.key, "split": self.leaves.split},
            "stays": {"key": self.stays.key, "split": self.stays.split},
            "stuck": self.stuck,
        }


def find_leaks(report: DataReport) -> list[Leak]:
    """Return a leak for each sample that should be left out, in the order of the findings.

    The test split stays as it is: results on it can be compared with others. A class keeps its training samples where
    all of them would leave.
    """
    if report.stream is None:
        return []
    by_key = {sample.key: sample for sample in report.stream.samples}
    leaks: dict[str, Leak] = {}
    for finding in report.findings.sorted():
        if finding.kind not in KINDS:
            continue
        members = [by_key[key] for key in (finding.key, *finding.others) if key in by_key]
        stays = max(members, key=lambda sample: SPLITS.index(sample.split), default=None)
        for sample in members:
            if stays is not None and sample.split != stays.split:
                leaks.setdefault(sample.key, Leak(finding.kind, sample, stays))
    learned = Counter((s.modality, s.label) for s in by_key.values() if s.split == "train" and s.key not in leaks)
    out = []
    for leak in leaks.values():
        sample = leak.leaves
        if sample.split == "train" and not learned[sample.modality, sample.label]:
            why = f"class {sample.label!r} of {sample.modality} would have no training file left: add others first"
            leak = Leak(leak.kind, sample, leak.stays, why)
        out.append(leak)
    return out


def remaining_findings(findings: Findings, left_out: Collection[str], stuck: Collection[str] = ()) -> Findings:
    """Return the findings that are left after a fix.

    A leak is gone unless a sample of it is stuck. Another finding is gone if at most one of its samples is left.

    Args:
        findings: of the data before.
        left_out: keys of samples that were left out.
        stuck: keys of samples that should have been.
    """
    out = Findings(collect=True)
    for finding in findings:
        members = {finding.key, *finding.others}
        touched = bool(finding.key) and not members.isdisjoint(left_out)
        gone = members.isdisjoint(stuck) if finding.kind in KINDS else len(members.difference(left_out)) < 2
        if not (touched and gone):
            fields = {k: v for k, v in vars(finding).items() if k not in ("kind", "reason")}
            out.add(finding.kind, finding.reason, **fields)
    return out
