"""The section of a report about forgetting: the classes that lost most of their best accuracy, with examples."""

from __future__ import annotations

from mmcl_fast.learning.forgotten_classes import MAX_LISTED, ForgottenClass
from mmcl_fast.report.blocks import CellValue, Example, Panel, ReportSection, Table, Words
from mmcl_fast.report.read_run import Run
from mmcl_fast.report.sections.embeddings import class_label, make_example
from mmcl_fast.runs.sample_file import ReportSamples

NUM_EXAMPLES = 4


def forgetting_section(run: Run) -> ReportSection:
    """Return the classes furthest below their best accuracy after an earlier task, or why they are not known."""
    title, found = "What it forgot", run["falls"]
    setting = next(iter(run["settings"]))
    if len(run["tasks"]) < 2:  # a class can fall only after a later task
        return ReportSection(title, [Words("Only one task was learned, so there was nothing to forget.")])
    if found is None:
        why = (
            "It is not known which classes this run forgot. Either it was evaluated only at the end, as a method that "
            "learns all tasks at once is. Or an older version learned it, which did not record right answers by class."
        )
        return ReportSection(title, [Words(why)])
    if not found:
        return ReportSection(title, [Words(f"No class is right less often at the end than it was ({setting}).")])
    count = sum(len(task["classes"]) for task in run["tasks"])
    about = (
        f"Setting: {setting}. The fall of a class is its best accuracy after its own or a later task, minus its "
        f"accuracy at the end. {len(found)} of {count} classes fell"
        + (f"; these are the {MAX_LISTED} largest falls." if len(found) > MAX_LISTED else ".")
    )
    rows = [_fall_row(fall, run) for fall in found[:MAX_LISTED]]
    head = ["class", "task", "best", "after task", "at the end", "fall, points", "now taken for", "examples"]
    table = Table(head, rows, ["k", "k", "n", "n", "n", "n", "w", ""])
    return ReportSection(title, [Panel("Classes that fell most", about, [table])])


def _fall_row(fall: ForgottenClass, run: Run) -> list[CellValue]:
    task = run["tasks"][fall.task - 1]
    label = task["classes"][fall.class_index]

    def accuracy(right: int) -> str:
        return f"{100 * right / fall.test_samples:.0f} % ({right} of {fall.test_samples})"

    return [
        label,
        f"{fall.task} {task['name']}",
        accuracy(fall.best_correct),
        str(fall.best_after),
        accuracy(fall.final_correct),
        f"{fall.forgetting:.1f}",
        ", ".join(f"{class_label(wrong, task['modality'])} {count}" for wrong, count in fall.confused_with) or "–",
        _find_examples(run["samples"], fall.task, label),
    ]


def _find_examples(samples: ReportSamples | None, task: int, label: str) -> list[Example]:
    """Return up to ``NUM_EXAMPLES`` samples of a class; wrongly predicted ones come first."""
    if samples is None:
        return []
    found = [s for s in samples.samples if s.task == task and samples.classes[s.label][1] == label]
    found.sort(key=lambda s: s.label == s.guess)
    return [make_example(samples, sample, with_class=False) for sample in found[:NUM_EXAMPLES]]
