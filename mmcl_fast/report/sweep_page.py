"""The page of a sweep: its tables, and plots of means over seeds."""

from __future__ import annotations

from typing import Any

from mmcl_fast.report import figures, tables
from mmcl_fast.report.blocks import Notes, Page, Panel, Part, Plot, ReportRow, ReportSection, Table, Words
from mmcl_fast.report.heatmaps import accuracy_heatmap
from mmcl_fast.report.html_page import render_html
from mmcl_fast.report.labels import format_bytes, format_seconds, setting_label
from mmcl_fast.report.page import metric_table
from mmcl_fast.report.sections.accuracy import matrix_table, means_table

MOST_SIDE_BY_SIDE = 6  # rows that the bars have room for when figures stand side by side


def render_sweep_page(results: dict[str, Any], title: str) -> str:
    """Return the HTML page of the results of ``results.collect``."""
    runs = [run for run in map(_average_seeds, results["rows"]) if run is not None]
    seeds = sorted({cell["seed"] for row in results["rows"] for cell in row["cells"]})
    notes = [f"failed: {name}: {fault}" for name, fault in results["failed"].items()] + results["notes"]
    panels = [Panel(table.title, "", [Table(table.head, table.rows)]) for table in tables.make_tables(results)]
    explained = Panel("What the columns mean", "", [Words(text) for text in tables.explain_columns(results)])
    parts: list[Part] = [Notes(notes)] if notes else []
    parts.append(ReportSection("Tables", [*panels, explained]))
    if runs:
        parts += _plot_sections(results, runs)
    about = f"{len(results['rows'])} rows, seeds {', '.join(map(str, seeds))}"
    return render_html(Page(title, about, parts, "the runs' summary.json, metrics.jsonl and predictions.json.gz"))


def _plot_sections(results: dict[str, Any], runs: list[dict[str, Any]]) -> list[Part]:
    setting = next(iter(runs[0]["settings"]))
    evaluated = [run for run in runs if setting in run["settings"]]
    one_setting = [{**run, "settings": {setting: run["settings"][setting]}} for run in evaluated]
    panels = []
    for metric in ("last", "forgetting"):
        plot = Plot(figures.metric_bars(runs, metric), f"{metric} in %, mean over seeds", metric_table(runs, metric))
        panels.append(Panel(metric, "Mean over seeds, with the interval.", [plot]))
    mean = "Mean accuracy over the tasks seen"
    means = Plot(figures.mean_accuracy_lines(one_setting), f"{mean}, over seeds", means_table(one_setting))
    about = f"After each task learned, mean over seeds. Setting: {setting_label(setting)}."
    panels.append(Panel(mean, about, [means]))
    matrices = []
    for row in results["rows"]:
        if row["cells"] and setting in row["cells"][0]["settings"]:
            cell = row["cells"][0]
            matrix = Plot(
                accuracy_heatmap(cell, setting), f"R, {setting}, of {row['title']}", matrix_table(cell, setting)
            )
            about = f"Accuracy in %. Row: after each task learned. Column: each task. Setting: {setting}."
            matrices.append(Panel(f"{row['title']}, seed {cell['seed']}", about, [matrix], "Grey: not learned yet."))
    narrow = len(runs) > MOST_SIDE_BY_SIDE
    costs = _cost_panels(results["rows"], setting)
    return [
        ReportSection("Plots", [ReportRow([panel]) for panel in panels] if narrow else [ReportRow(panels)]),
        ReportSection("Accuracy and cost", [ReportRow([panel]) for panel in costs] if narrow else [ReportRow(costs)]),
        ReportSection("R of the first seed", [ReportRow(matrices)]),
    ]


def _cost_panels(rows: list[dict[str, Any]], setting: str) -> list[Panel]:
    """Return ``last`` over the bytes that a row keeps, and over its seconds of learning."""
    known = [row for row in rows if row["statistics"].get(setting, {}).get("last") and row.get("cost")]
    names = [row["title"] for row in known]
    found = [row["statistics"][setting]["last"] for row in known]
    values = [interval["mean"] for interval in found]
    halves = [None if interval["high"] is None else interval["high"] - interval["mean"] for interval in found]
    y = f"last in %, {setting_label(setting)}"
    sizes: list[float | None] = []
    for row in known:
        cost = row["cost"]
        # A method that needs the data of all tasks keeps more than its state.
        unknown = cost["fixed"] is None or cost["all_data"]
        sizes.append(None if unknown else cost["fixed"] + cost["of_classes"])
    seconds = [row["cost"]["seconds"] for row in known]
    panels = []
    for title, costs, unit, format_cost, left_out in (
        ("bytes kept", sizes, "bytes", format_bytes, "Rows that keep nothing, or need all data, are not drawn. "),
        ("seconds of learning", seconds, "seconds", format_seconds, ""),
    ):
        about = f"{left_out}Dotted: the best accuracy up to a cost."
        numbers = [[n, format_cost(c), tables.format_mean(i)] for n, c, i in zip(names, costs, found)]
        figure = figures.cost_points(names, costs, values, halves, (f"{unit}, logarithmic", y), format_cost)
        table = Table(["", unit, y], numbers)
        panels.append(Panel(f"last over {title}", about, [Plot(figure, f"{y}, over {title}, of each row", table)]))
    return panels


def _average_seeds(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row as one run for the figures; R and metrics are means over its seeds.

    Each seed has its own order of tasks: column i of the mean R is the i-th task of each seed, not the same task.
    """
    if not row["cells"]:
        return None
    settings = {}
    for name, statistics in row["statistics"].items():
        matrices = [cell["settings"][name]["R"] for cell in row["cells"]]
        R = [
            [None if None in values else sum(values) / len(values) for values in zip(*rows)] for rows in zip(*matrices)
        ]
        known = {metric: found for metric, found in statistics.items() if metric != "per_modality" and found}
        settings[name] = {
            "R": R,
            "metrics": {metric: found["mean"] for metric, found in known.items()},
            "half": {
                metric: found["high"] - found["mean"] for metric, found in known.items() if found["high"] is not None
            },
        }
    return {"title": row["title"], "settings": settings}
