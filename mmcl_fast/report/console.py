"""The numbers of a run as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmcl_fast.report.labels import explain_setting, format_number, format_state, metric_names, setting_label


def print_tables(summary: dict[str, Any], console: Console) -> None:
    """Print the numbers of a summary: R, the metrics with their formulas, each modality's metrics, and the notes."""
    for table in make_tables(summary):
        console.print(table)
        console.print()
    if "given_masked" in summary["settings"]:
        label, about = setting_label("given_masked"), explain_setting("given_masked")
        console.print(f"{label} (given_masked in files): {about}.", style="dim", highlight=False, markup=False)
    if summary.get("state_bytes"):
        fixed, a_class = format_state(summary["state_bytes"])
        text = f"The method keeps {fixed}, and {a_class} a class besides, without the frozen encoder."
        console.print(text, style="dim", highlight=False, markup=False)
    for note in summary.get("notes", []):
        console.print(f"Note: {note}", style="dim", highlight=False, markup=False)


def make_tables(summary: dict[str, Any]) -> Iterator[Table]:
    """Yield R of each setting that is not masked, then the metrics, then ``last`` and forgetting by modality."""
    for name, setting in summary["settings"].items():
        if not name.endswith("_masked"):
            title = f"R, setting {name}: accuracy in %, a row after each task"
            yield _accuracy_table(summary["tasks"], setting["R"], title)
    yield _metrics_table(summary)
    yield _modality_table(summary)


def _accuracy_table(tasks: list[dict[str, Any]], R: list[list[float | None]], title: str) -> Table:
    """Return R as a table. Tasks that are not yet learned are dim."""
    table = Table(title=title, title_justify="left", show_lines=False, padding=(0, 1))
    table.add_column("after task", no_wrap=True)
    for i in range(len(tasks)):
        table.add_column(str(i + 1), justify="right", no_wrap=True)
    table.add_column("mean seen", justify="right", no_wrap=True)
    digits = 1 if len(tasks) <= 10 else 0  # long streams have no room for decimals
    for t, row in enumerate(R):
        head = f"{t} {tasks[t - 1]['name']}" if t else "0 (before)"
        cells = [
            Text("-" if v is None else f"{v:.{digits}f}", style="dim" if i >= t else _shade(v))
            for i, v in enumerate(row)
        ]
        seen = [v for v in row[:t] if v is not None]
        table.add_row(Text(head), *cells, f"{sum(seen) / len(seen):.1f}" if seen else "")
    return table


def _shade(value: float | None) -> str:
    """Return a colour from red (0 %) to green (100 %)."""
    if value is None:
        return "dim"
    steps = ("red", "dark_orange", "yellow3", "chartreuse3", "green")
    return steps[min(len(steps) - 1, int(value / 100 * len(steps)))]


def _metrics_table(summary: dict[str, Any]) -> Table:
    settings, formulas = summary["settings"], summary.get("formulas", {})
    table = Table(title="Metrics in %", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in settings:
        table.add_column(setting_label(name), justify="right", no_wrap=True)
    table.add_column("formula")
    for metric in metric_names(summary):
        numbers = (format_number(setting["metrics"].get(metric)) for setting in settings.values())
        table.add_row(metric, *numbers, Text(formulas.get(metric, "")))  # a str's [t,i] would be read as markup
    return table


def _modality_table(summary: dict[str, Any]) -> Table:
    settings = {name: s for name, s in summary["settings"].items() if not name.endswith("_masked")}
    table = Table(title="By modality, in %", title_justify="left")
    table.add_column("modality", no_wrap=True)
    for name in settings:
        table.add_column(f"last {name}", justify="right")
        table.add_column(f"forgetting {name}", justify="right")
    for modality in dict.fromkeys(task["modality"] for task in summary["tasks"]):
        rows = [s["metrics"]["per_modality"].get(modality, {}) for s in settings.values()]
        table.add_row(modality, *(format_number(row.get(k)) for row in rows for k in ("last", "forgetting")))
    return table
