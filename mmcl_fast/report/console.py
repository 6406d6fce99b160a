"""A run's numbers as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ABOUT = {
    "agnostic": "the model is not told the modality; all classes compete",
    "given": "the modality chooses prompts and gates; all classes compete",
    "given_masked": "as given, and only the given modality's classes compete",
}


def show(summary: dict[str, Any], console: Console) -> None:
    """Print R of both settings, the metrics with their formulas, and the notes of a summary."""
    for table in tables(summary):
        console.print(table)
        console.print()
    for note in summary.get("notes", []):
        console.print(f"Note: {note}", style="dim", highlight=False, markup=False)


def tables(summary: dict[str, Any]) -> Iterator[Table]:
    """R for each setting that is not masked, then metrics, then ``last`` by modality."""
    for name, setting in summary["settings"].items():
        if not name.endswith("_masked"):
            yield matrix(summary["tasks"], setting["R"], f"R, modality {name}: accuracy in % (row: after that task)")
    yield metrics(summary)
    yield by_modality(summary)


def matrix(tasks: list[dict[str, Any]], R: list[list[float | None]], title: str) -> Table:
    """R as a table; tasks not yet learned are dim."""
    table = Table(title=title, title_justify="left", show_lines=False, padding=(0, 1))
    table.add_column("after task", no_wrap=True)
    for i in range(len(tasks)):
        table.add_column(str(i + 1), justify="right", no_wrap=True)
    table.add_column("mean seen", justify="right", no_wrap=True)
    digits = 1 if len(tasks) <= 10 else 0
    for t, row in enumerate(R):
        head = f"{t} {tasks[t - 1]['name']}" if t else "0 (before)"
        cells = [
            Text("-" if v is None else f"{v:.{digits}f}", style="dim" if i >= t else shade(v))
            for i, v in enumerate(row)
        ]
        seen = [v for v in row[:t] if v is not None]
        table.add_row(Text(head), *cells, f"{sum(seen) / len(seen):.1f}" if seen else "")
    return table


def shade(value: float | None) -> str:
    """A colour from red (0 %) to green (100 %)."""
    if value is None:
        return "dim"
    steps = ("red", "dark_orange", "yellow3", "chartreuse3", "green")
    return steps[min(len(steps) - 1, int(value / 100 * len(steps)))]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def metrics(summary: dict[str, Any]) -> Table:
    """One row a metric, one column a setting, the formula last."""
    settings, formulas = summary["settings"], summary.get("formulas", {})
    table = Table(title="Metrics in %", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in settings:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("formula")
    for metric in metric_names(summary):
        table.add_row(
            metric, *(number(s["metrics"].get(metric)) for s in settings.values()), Text(formulas.get(metric, ""))
        )  # as Text: [t,i] is no markup
    return table


def metric_names(summary: dict[str, Any]) -> list[str]:
    first = next(iter(summary["settings"].values()))["metrics"]
    return [name for name in first if name != "per_modality"]


def by_modality(summary: dict[str, Any]) -> Table:
    """``last`` and ``forgetting`` over each modality's own tasks."""
    settings = {name: s for name, s in summary["settings"].items() if not name.endswith("_masked")}
    table = Table(title="By modality, in %", title_justify="left")
    table.add_column("modality", no_wrap=True)
    for name in settings:
        table.add_column(f"last {name}", justify="right")
        table.add_column(f"forgetting {name}", justify="right")
    for modality in dict.fromkeys(task["modality"] for task in summary["tasks"]):
        rows = [s["metrics"]["per_modality"].get(modality, {}) for s in settings.values()]
        table.add_row(modality, *(number(row.get(k)) for row in rows for k in ("last", "forgetting")))
    return table
