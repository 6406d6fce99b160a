"""The page of a sweep: the tables, and plots of means over seeds."""

from __future__ import annotations

from html import escape
from typing import Any

from mmcl_fast.report import figures, parts, tables

MOST_BESIDE = 6  # rows that figures beside each other have room for


def page(results: dict[str, Any], title: str) -> str:
    """The page of what ``results.collect`` gives."""
    drawn = parts.Figures()
    runs = [run for run in map(_averaged, results["rows"]) if run is not None]
    seeds = sorted({cell["seed"] for row in results["rows"] for cell in row["cells"]})
    notes = [f"failed: {name}: {fault}" for name, fault in results["failed"].items()] + results["notes"]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{len(results["rows"])} rows, seeds {escape(", ".join(map(str, seeds)))}</p>',
        f'<div class="notes">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>' if notes else "",
    ]
    for table in tables.tables(results):
        cells = parts.table(table.head, table.rows, ["k", *("n" for _ in table.head[1:])])
        body.append(parts.grid(parts.panel(table.title, "", cells)))
    meaning = "".join(f"<p>{escape(text)}</p>" for text in tables.explanations(results))
    body.append(parts.panel("What the columns mean", "", meaning))
    if runs:
        first = next(iter(runs[0]["settings"]))
        one = [{**run, "settings": {first: run["settings"][first]}} for run in runs if first in run["settings"]]
        panels = (
            parts.panel("last", "Mean over seeds, with the interval.", drawn.place(figures.bars(runs, "last"))),
            parts.panel(
                "forgetting", "Mean over seeds, with the interval.", drawn.place(figures.bars(runs, "forgetting"))
            ),
            parts.panel(
                "Mean accuracy over the tasks seen",
                f"After each task learned; setting {first}, mean over seeds.",
                drawn.place(figures.means(one)),
            ),
        )
        body += [parts.grid(*panels)] if len(runs) <= MOST_BESIDE else map(parts.grid, panels)
        body.append("<h2>R of the first seed</h2>")
        body.append(
            parts.grid(
                *(
                    parts.panel(
                        f"{row['title']}, seed {row['cells'][0]['seed']}",
                        f"Accuracy in % on each task (column) after "
                        f"each task learned (row); {first}. Grey: not learned yet.",
                        drawn.place(figures.matrix(row["cells"][0], first)),
                    )
                    for row in results["rows"]
                    if row["cells"] and first in row["cells"][0]["settings"]
                )
            )
        )
    return parts.document(title, "".join(body), drawn, "the runs' summary.json and metrics.jsonl")


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
