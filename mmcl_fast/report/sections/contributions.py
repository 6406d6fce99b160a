"""The section of a report about contributions: which modality's prompts and gates a sample uses."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl_fast.report.blocks import Panel, Plot, ReportRow, ReportSection, Table, Words
from mmcl_fast.report.heatmaps import contribution_heatmap
from mmcl_fast.report.read_run import Run

Matrix = Sequence[Sequence[float | None]]


def contributions_section(run: Run) -> ReportSection:
    """Return the contributions when each modality was new, at the end, and what changed.

    Words stand for all of it if the method has no contributions. They stand for the first panel and the changes if the
    run recorded contributions at the end only.
    """
    title, shares = "Who borrows from whom", run.get("contributions")
    if not shares:
        return ReportSection(title, [Words("This method blends nothing of one modality into another.")])
    names, end = shares["modalities"], shares["matrix"]
    about = (
        "Whose prompts and gates a sample uses. Row: the modality of the sample. Column: the modality it borrows "
        "from. Each number is a mean over samples drawn from the feature memory."
    )
    last = _matrix_panel("At the end of the run", about, "Contributions at the end", run, names, end)
    new = when_learned(run, names)
    if new is None:
        return ReportSection(title, [Words("This run recorded contributions at the end only."), last])
    first = _matrix_panel(
        "When the modality was new",
        f"{about} Each row is from the time after the first task of its modality. Empty: not learned by then.",
        "Contributions when the modality was new",
        run,
        names,
        new,
    )
    changes = Panel(
        "What changed",
        "A modality's share in itself when it was new and at the end, and the other share that changed most.",
        [_changes_table(names, new, end)],
    )
    return ReportSection(title, [ReportRow([first, last, changes])])


def _matrix_panel(title: str, about: str, plot_title: str, run: Run, names: Sequence[str], values: Matrix) -> Panel:
    rows = [[name, *("–" if v is None else f"{v:.3f}" for v in row)] for name, row in zip(names, values)]
    table = Table(["sample of", *(f"from {name}" for name in names)], rows)
    return Panel(title, about, [Plot(contribution_heatmap(names, values), f"{plot_title}, of {run['title']}", table)])


def when_learned(run: Run, names: Sequence[str]) -> list[list[float | None]] | None:
    """Return each modality's row of contributions as it was after the modality's first task.

    Args:
        names: the modalities, in the order of rows and columns.

    Returns:
        None for a modality that was not learned by then. None in place of all rows if the run lacks one of them.
    """
    events = [event for event in run["events"] if event["event"] == "contributions"]
    out = []
    for name in names:
        found = next((event for event in events if name in event["modalities"]), None)
        if found is None:
            return None
        row = dict(zip(found["modalities"], found["matrix"][found["modalities"].index(name)]))
        out.append([row.get(other) for other in names])
    return out


def _changes_table(names: Sequence[str], new: Matrix, end: Sequence[Sequence[float]]) -> Table:
    rows = []
    for m, name in enumerate(names):
        gaps = [(end[m][k] - (new[m][k] or 0.0), other) for k, other in enumerate(names) if k != m]
        gap, other = max(gaps, key=lambda pair: abs(pair[0]), default=(0.0, ""))
        itself = new[m][m]
        rows.append(
            [
                name,
                "–" if itself is None else f"{itself:.3f}",
                f"{end[m][m]:.3f}",
                f"{gap:+.3f} from {other}" if abs(gap) >= 0.0005 else "none",
            ]
        )
    return Table(["sample of", "new", "end", "largest change"], rows, ["k", "n", "n", ""])
