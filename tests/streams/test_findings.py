"""Findings: order, the error that is raised, and the lines that report them."""

from __future__ import annotations

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Findings, format_findings


def some_findings(collect: bool = True) -> Findings:
    findings = Findings(collect)
    for i in range(3):
        findings.add("empty", f"{i}.png: the file is empty")
    findings.add("loop", "up: links to a folder above it")
    findings.add("left-out", "a.png: lies beside\n the class folders")
    findings.add("unreadable", "data: Permission denied", path="data")
    return findings


def test_the_most_harmful_kind_comes_first_and_a_kind_keeps_its_order() -> None:
    findings = some_findings()
    reasons = [finding.reason for finding in findings.sorted()]
    assert reasons[:4] == ["data: Permission denied", *(f"{i}.png: the file is empty" for i in range(3))]
    assert [finding.kind for finding in findings][-1] == "unreadable" and len(findings) == 6
    assert [findings.count(level) for level in ("error", "warning", "note")] == [4, 1, 1]


def test_the_worst_error_is_raised_with_the_number_of_the_others() -> None:
    some_findings(collect=True).raise_worst_error()
    with pytest.raises(StreamError, match=r"^data: Permission denied \(3 more: mmcl-fast data check lists them\)$"):
        some_findings(collect=False).raise_worst_error()
    empty = Findings()
    empty.raise_worst_error()
    assert empty.worst_error() is None and str(empty.worst_error("nothing there")) == "nothing there"


def test_a_check_that_fails_becomes_a_finding() -> None:
    def check(name: str) -> None:
        if name == "bad":
            raise StreamError("bad: rename it")

    findings = Findings()
    assert findings.add_on_error("name", check, "good") and not findings.add_on_error("name", check, "bad", path="p")
    assert [(f.kind, f.reason, f.path) for f in findings] == [("name", "bad: rename it", "p")]


def test_lines_for_a_person_are_cut_short_for_each_kind() -> None:
    lines = list(format_findings(some_findings(), ["error", "warning"], rest="--out FILE lists them", limit=2))
    assert lines == [
        "error: data: Permission denied",
        "error: 0.png: the file is empty",
        "error: 1.png: the file is empty",
        "error: and 1 more of this kind (empty): --out FILE lists them",
        "warning: a.png: lies beside the class folders",
    ]
    assert list(format_findings(some_findings(), ["note"], rest="")) == ["note: up: links to a folder above it"]


def test_old_attribute_names_say_the_new_ones() -> None:
    with pytest.raises(AttributeError, match=r"'settle': it is now Findings\.raise_worst_error"):
        Findings().settle()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'sort'$"):
        Findings().sort()  # type: ignore[attr-defined]
