"""The page of a sweep: the tables, and plots of means over seeds."""

from __future__ import annotations

from typing import Any

from mmcl_fast.report import figures, markup, sections, tables
from mmcl_fast.report.blocks import Notes, Page, Panel, Part, Plot, Row, Section, Table, Words
from mmcl_fast.report.page import bars_table

MOST_BESIDE = 6  # rows that figures beside each other have room for


def page(results: dict[str, Any], title: str) -> str:
    """The HTML page of what ``results.collect`` gives."""
    runs = [run for run in map(_averaged, results["rows"]) if run is not None]
    seeds = sorted({cell["seed"] for row in results["rows"] for cell in row["cells"]})
    notes = [f"failed: {name}: {fault}" for name, fault in results["failed"].items()] + results["notes"]
    parts: list[Part] = [Notes(notes)] if notes else []
    parts.append(
        Section(
            "Tables",
            [
                *(Panel(table.title, "", [Table(table.head, table.rows)]) for table in tables.tables(results)),
                Panel("What the columns mean", "", [Words(text) for text in tables.explanations(results)]),
            ],
        )
    )
    if runs:
        parts += _plots(results, runs)
    about = f"{len(results['rows'])} rows, seeds {', '.join(map(str, seeds))}"
    return markup.render(Page(title, about, parts, "the runs' summary.json and metrics.jsonl"))


def _plots(results: dict[str, Any], runs: list[dict[str, Any]]) -> list[Part]:
    first = next(iter(runs[0]["settings"]))
    one = [{**run, "settings": {first: run["settings"][first]}} for run in runs if first in run["settings"]]
    panels = [
        Panel(
            metric,
            "Mean over seeds, with the interval.",
            [Plot(figures.bars(runs, metric), f"{metric} in %, mean over seeds", bars_table(runs, metric))],
        )
        for metric in ("last", "forgetting")
    ]
    panels.append(
        Panel(
            "Mean accuracy over the tasks seen",
            f"After each task learned; setting {first}, mean over seeds.",
            [Plot(figures.means(one), "Mean accuracy over the tasks seen, over seeds", sections.means_table(one))],
        )
    )
    first_seeds = [row for row in results["rows"] if row["cells"] and first in row["cells"][0]["settings"]]
    matrices = [
        Panel(
            f"{row['title']}, seed {row['cells'][0]['seed']}",
            f"Accuracy in % on each task (column) after each task learned (row); {first}.",
            [
                Plot(
                    figures.matrix(row["cells"][0], first),
                    f"R, {first}, of {row['title']}",
                    sections.matrix_table(row["cells"][0], first),
                )
            ],
            "Grey: not learned yet.",
        )
        for row in first_seeds
    ]
    return [
        Section("Plots", [Row(panels)] if len(runs) <= MOST_BESIDE else [Row([panel]) for panel in panels]),
        Section("R of the first seed", [Row(matrices)]),
    ]


def _averaged(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row as one run for the figures: R and metrics are means over seeds. Tasks come in another order with each
    seed: column i is the i-th task, whichever it was."""
    if not row["cells"]:
        return None
    settings = {}
    for name, said in row["statistics"].items():
        layers = [cell["settings"][name]["R"] for cell in row["cells"]]
        R = [[None if None in values else sum(values) / len(values) for values in zip(*rows)] for rows in zip(*layers)]
        known = {metric: found for metric, found in said.items() if metric != "per_modality" and found}
        settings[name] = {
            "R": R,
            "metrics": {metric: found["mean"] for metric, found in known.items()},
            "half": {
                metric: found["high"] - found["mean"] for metric, found in known.items() if found["high"] is not None
            },
        }
    return {"title": row["title"], "settings": settings}
