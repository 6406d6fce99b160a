"""The section of a report about a version of a run: what changed since its parent."""

from __future__ import annotations

from typing import Any

from mmcl_fast.report.blocks import Panel, ReportRow, ReportSection, Table
from mmcl_fast.report.labels import setting_label
from mmcl_fast.report.read_run import Run

MAX_ANSWERS = 100  # changed answers that the page lists
SCOPES = {"all": "all old tasks", "modality": "modality", "task": "task", "class": "class"}


def version_section(run: Run) -> ReportSection | None:
    """Return the section "What changed for old tasks"; None for a run that was trained from nothing."""
    comparison = (run["version"] or {}).get("comparison")
    if not comparison:
        return None
    setting = setting_label(comparison["setting"])
    about = (
        f"Accuracy in % on the old test samples, {setting}, of the version before and of this one. The interval "
        "covers the sampling of test files, and p is corrected for the rows of its kind (Holm). Falls come first."
    )
    changed = comparison["changed"]
    right = sum(answer["after"] == answer["label"] for answer in changed)
    wrong = sum(answer["before"] == answer["label"] for answer in changed)
    answers = (
        f"{len(changed)} answers changed: {right} became right, {wrong} became wrong."
        f"{f' The first {MAX_ANSWERS} are listed.' if len(changed) > MAX_ANSWERS else ''}"
    )
    refused = run["version"].get("refused")
    rows = [
        ReportRow([Panel("Before and after", about, [differences_table(comparison)])]),
        ReportRow([Panel("Changed answers", answers, [answers_table(comparison)])]),
    ]
    title = "What changed for old tasks"
    return ReportSection(f"{title} (refused: {refused})" if refused else title, rows)


def differences_table(comparison: dict[str, Any]) -> Table:
    """Return the accuracies before and after: over all, then by modality and task, then of classes that changed."""
    rows = []
    for scope, word in SCOPES.items():
        found = [d for d in comparison["differences"] if d["scope"] == scope]
        if scope == "class":
            found = [d for d in found if d["before"] != d["after"]]
        for d in sorted(found, key=lambda d: d["after"] - d["before"]):
            change = d["after"] - d["before"] + 0.0
            rows.append(
                [
                    word if scope == "all" else f"{word} {d['name']}",
                    str(d["samples"]),
                    f"{d['before']:.1f}",
                    f"{d['after']:.1f}",
                    f"{change:+.1f}",
                    f"{d['low']:+.1f} to {d['high']:+.1f}",
                    "<0.001" if d["p"] < 0.001 else f"{d['p']:.3f}",
                ]
            )
    return Table(["", "samples", "before", "after", "difference", "95 % interval", "Holm's p"], rows)


def answers_table(comparison: dict[str, Any]) -> Table:
    """Return the samples whose answer changed, the ones that became wrong first."""
    changed = sorted(comparison["changed"], key=lambda a: a["before"] != a["label"])
    rows = [[a["key"], a["label"], a["before"], a["after"]] for a in changed[:MAX_ANSWERS]]
    return Table(["sample", "class", "before", "after"], rows, ["v", "", "", ""])
