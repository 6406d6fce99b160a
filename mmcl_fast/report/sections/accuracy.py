"""The section of a report about accuracy: R, means, and metrics over all tasks and by modality."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl_fast.report import figures
from mmcl_fast.report.blocks import Panel, Plot, ReportRow, ReportSection, Table
from mmcl_fast.report.heatmaps import accuracy_heatmap
from mmcl_fast.report.labels import explain_setting, format_number, metric_names, setting_label
from mmcl_fast.report.read_run import Run


def accuracy_section(run: Run) -> ReportSection:
    """Return the section "What it remembers": accuracy after each task, and the metrics."""
    return ReportSection(
        "What it remembers",
        [
            ReportRow([_matrix_panel(run, name) for name in run["settings"]]),
            ReportRow([_means_panel(run), _modality_curves_panel(run)]),
            ReportRow(
                [
                    Panel("Metrics in %", "Over all tasks, with the formula of each metric.", [metrics_table(run)]),
                    Panel("By modality, in %", "Each metric over the tasks of one modality.", [modality_table(run)]),
                ]
            ),
        ],
    )


def _matrix_panel(run: Run, setting: str) -> Panel:
    label = setting_label(setting)
    about = f"Accuracy in %. Row: after each task learned. Column: each task. Setting: {explain_setting(setting)}."
    plot = Plot(accuracy_heatmap(run, setting), f"R, {label}, of {run['title']}", matrix_table(run, setting))
    return Panel(f"R, {label}", about, [plot], "Grey: not learned yet.")


def _means_panel(run: Run) -> Panel:
    title = "Mean accuracy over the tasks seen"
    plot = Plot(figures.mean_accuracy_lines([run]), f"{title}, of {run['title']}", means_table([run]))
    return Panel(title, "After each task learned.", [plot])


def _modality_curves_panel(run: Run) -> Panel:
    tasks, setting = run["tasks"], next(iter(run["settings"]))
    names = list(dict.fromkeys(task["modality"] for task in tasks))
    R = run["settings"][setting]["R"]
    by_modality = {m: figures.mean_over_seen(R, [i for i, t in enumerate(tasks) if t["modality"] == m]) for m in names}
    rows = [[str(t), *(format_number(by_modality[m][t]) for m in names)] for t in range(1, len(R))]
    plot = Plot(
        figures.task_accuracy_lines(run, setting),
        f"Accuracy in % by modality, {setting}, of {run['title']}",
        Table(["after task", *names], rows),
    )
    about = f"Bold: the mean over the tasks seen of one modality. Setting: {setting}."
    return Panel("Accuracy by task and modality", about, [plot], "Thin: one task.")


def matrix_table(run: Run, setting: str) -> Table:
    """Return R of one setting: a row before the first task and after each task, a column for each task."""
    rows = [
        [f"after {t}" if t else "before", *(format_number(value) for value in row)]
        for t, row in enumerate(run["settings"][setting]["R"])
    ]
    return Table(["", *(f"{i} {task['name']}" for i, task in enumerate(run["tasks"], 1))], rows)


def means_table(runs: Sequence[Run]) -> Table:
    """Return the mean accuracy over the tasks seen: a row after each task, a column for each run and setting."""
    found = {}
    for run in runs:
        for name, setting in run["settings"].items():
            label = setting_label(name)
            column = f"{run['title']}: {label}" if len(runs) > 1 else label
            found[column] = figures.mean_over_seen(setting["R"])[1:]
    longest = max(map(len, found.values()), default=0)
    rows = [
        [str(t + 1), *(format_number(values[t]) if t < len(values) else "" for values in found.values())]
        for t in range(longest)
    ]
    return Table(["after task", *found], rows)


def metrics_table(run: Run) -> Table:
    """Return the metrics over all tasks: a row for each metric, a column for each setting, and the formula."""
    settings, formulas = run["settings"], run.get("formulas", {})
    rows = [
        [name, *(format_number(s["metrics"].get(name)) for s in settings.values()), formulas.get(name, "")]
        for name in metric_names(run)
    ]
    return Table(["metric", *map(setting_label, settings), "formula"], rows, ["k", *("n" for _ in settings), "w"])


def modality_table(run: Run) -> Table:
    """Return the metrics of each modality: a row for each modality and setting, a column for each metric."""
    names = metric_names(run)
    rows = [
        [modality, setting_label(setting), *(format_number(values.get(name)) for name in names)]
        for setting, found in run["settings"].items()
        for modality, values in found["metrics"].get("per_modality", {}).items()
    ]
    return Table(["modality", "setting", *names], rows, ["k", "", *("n" for _ in names)])
