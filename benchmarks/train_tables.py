"""The tables of `bench train`, from the results that its processes printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.train_rows import PHASES

COLUMNS = [
    "encoder",
    "row",
    "last, %",
    "run, s",
    "times ours",
    "later epochs, samples/s",
    "ours is faster by",
    "peak memory, MB",
]
PHASE_COLUMNS = [
    "encoder",
    "row",
    "decode alone",
    "trunk alone",
    "first pass",
    "relevance",
    "borrowing",
    "prompts, all epochs",
    "features",
    "statistics",
    "re-alignment, s",
    "bookkeeping",
    "evaluation",
]
GROWTH_COLUMNS = [
    "tasks",
    "classes",
    "learn, s",
    "of it re-alignment",
    "statistics, s",
    "the rest, s",
    "evaluate all tasks, s",
    "checkpoint, s",
    "test samples",
    "embedded anew (in 32s)",
    "bytes per class",
    "statistics, MB",
    "test tokens, MB",
    "checkpoint, MB",
    "resident, MB",
]


def training_rate(run: dict[str, Any], epochs: int) -> float:
    """Return samples per second in the epochs after the first, in which prompts alone are trained."""
    return run["trained"] * (epochs - 1) / run["later epochs"]


def mean_and_range(values: Sequence[float], digits: int) -> str:
    """Return "mean (least to most)"; the mean alone for one value."""
    middle = f"{statistics.mean(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else middle


def result_table(results: list[dict[str, Any]], epochs: int) -> list[list[str]]:
    """Return a row of cells for each result, columns as in ``COLUMNS``.

    A ratio is the median over the seeds of the ratio of two runs with the same seed.
    """
    ours = {r["encoder"]: r["runs"] for r in results if r["row"] == "ours"}
    table = []
    for result in results:
        runs, row = result["runs"], result["row"]
        head = [result["encoder"], f"**{row}**" if row == "ours" else row]
        if "why" in runs[0]:
            table.append([*head, f"({runs[0]['why']})", *[""] * 5])
            continue
        pairs = list(zip(runs, ours.get(result["encoder"], [])))
        pairs = pairs if all("why" not in base for _, base in pairs) else []
        slower = f"{statistics.median(r['total'] / o['total'] for r, o in pairs):.2f}" if pairs else ""
        rates = [training_rate(o, epochs) / training_rate(r, epochs) for r, o in pairs]
        faster = f"{statistics.median(rates):.2f}" if pairs else ""
        peak = max(run.get("peak device MB", run["peak MB"]) for run in runs)
        table.append(
            [
                *head,
                mean_and_range([run["last"] for run in runs], 1),
                mean_and_range([run["total"] for run in runs], 1),
                slower,
                mean_and_range([training_rate(run, epochs) for run in runs], 0),
                faster,
                f"{peak:.0f}",
            ]
        )
    return table


def phase_table(results: list[dict[str, Any]], epochs: int) -> list[list[str]]:
    """Return a row of cells for each result, columns as in ``PHASE_COLUMNS``.

    Cells are samples per second, means over the seeds. Re-alignment has no samples, so its cell is in seconds.
    """
    passes = {"prompts": epochs}
    table = []
    for result in results:
        runs = [run for run in result["runs"] if "why" not in run]
        if not runs:
            continue
        cells = [
            f"{statistics.mean(run['alone'][n] for run in runs):.0f}" if "alone" in runs[0] else ""
            for n in ("decode", "trunk")
        ]
        for phase in PHASES:
            seconds = statistics.mean(run["seconds"].get(phase, 0.0) for run in runs)
            samples = runs[0]["evaluated" if phase == "evaluation" else "trained"] * passes.get(phase, 1)
            cell = f"{seconds:.2f}" if phase == "re-alignment" else f"{samples / max(seconds, 1e-9):.0f}"
            cells.append(cell if seconds else "")
        table.append([result["encoder"], result["row"], *cells])
    return table


def growth_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a row of cells for each stage of growth, columns as in ``GROWTH_COLUMNS``."""
    table = []
    for r in rows:
        seconds = [
            f"{r[name]:.3f}" for name in ("learn", "re-alignment", "statistics", "the rest", "evaluation", "checkpoint")
        ]
        sizes = [f"{r[name]:.2f}" for name in ("statistics MB", "test tokens MB", "checkpoint MB")]
        table.append(
            [
                str(r["tasks"]),
                f"{r['classes']}{'' if r['fresh'] else ' (the same in each task)'}",
                *seconds,
                str(r["test samples"]),
                f"{r['embedded']:.0f}",
                f"{r['bytes per class']:.0f}",
                *sizes,
                f"{r['resident MB']:.1f}",
            ]
        )
    return table


def markdown(columns: list[str], table: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *table])
