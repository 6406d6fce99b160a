"""Write the report of finished runs: one HTML file that needs nothing else, and beside it the same as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmcl_fast.errors import RunError
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.report import figures
from mmcl_fast.report.blocks import Page, Panel, Part, Plot, ReportRow, ReportSection, Table, Words
from mmcl_fast.report.html_page import render_html
from mmcl_fast.report.labels import format_number, format_seconds, format_state, metric_names, setting_label
from mmcl_fast.report.markdown import render_markdown
from mmcl_fast.report.read_run import Run, read_run_with_samples
from mmcl_fast.report.results import learning_seconds
from mmcl_fast.report.sections import describe_run, make_sections
from mmcl_fast.report.sections.accuracy import means_table
from mmcl_fast.report.sections.configuration import flatten, format_value
from mmcl_fast.report.tables import COST_COLUMNS, COSTS
from mmcl_fast.runs import sample_file


def write(run: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report of one run folder, or of several side by side, as HTML and as Markdown.

    Args:
        run: a folder with summary.json, or several. Of a run with versions the current one is shown.
        out: the HTML file. None: report.html in the (first) run folder, or in its current version's folder. The
            Markdown file's name ends in .md.

    Returns:
        The HTML file.

    Raises:
        RunError: a run is not finished or cannot be read, a file cannot be written, or ``out`` ends in .md.

    Example::

        from mmcl_fast import report

        report.write("runs/demo")
        report.write(["runs/comm", "runs/ridge"], "compare.html")
    """
    folders = [current_folder(r) for r in ([run] if isinstance(run, (str, Path)) else run)]
    file = folders[0] / "report.html" if out is None else Path(out)
    if file.suffix == ".md":
        raise RunError(f"{file}: not an HTML file; give one, such as {file.with_suffix('.html').name}")
    runs = [read_run_with_samples(folder) for folder in folders]
    titles = [one["title"] for one in runs]
    for one, folder in zip(runs, folders):
        if titles.count(one["title"]) > 1:  # runs of one method and seed: their folders tell them apart
            one["title"] += f" ({folder.name})"
    page = make_page(runs)
    for name, text in ((file, render_html(page)), (file.with_suffix(".md"), render_markdown(page))):
        try:
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_text(text, encoding="utf-8")
        except OSError as fault:
            raise RunError(f"{name}: cannot be written ({fault.strerror}); give another --out") from None
    return file


def make_page(runs: Sequence[Run]) -> Page:
    """Return the report of one run, or of several with a comparison first."""
    source = f"summary.json, metrics.jsonl and {sample_file.SAMPLES_FILE}"
    if len(runs) == 1:
        title = f"{runs[0]['title']}: {len(runs[0]['tasks'])} tasks"
        return Page(title, describe_run(runs[0]), make_sections(runs[0]), source)
    each = [ReportSection(run["title"], [Words(describe_run(run)), *make_sections(run)]) for run in runs]
    titles = ", ".join(run["title"] for run in runs)
    return Page("Runs side by side", titles, [_comparison_section(runs), *each], source)


def _comparison_section(runs: Sequence[Run]) -> ReportSection:
    names = metric_names(runs[0])
    rows = [
        [
            run["title"],
            setting_label(setting),
            *(format_number(found["metrics"].get(name)) for name in names),
            *format_state(run.get("state_bytes")),
            format_seconds(learning_seconds(run["seconds"]) if run.get("seconds") else None),
        ]
        for run in runs
        for setting, found in run["settings"].items()
    ]
    formulas = "; ".join(f"{name}: {text}" for name, text in runs[0].get("formulas", {}).items())
    head = ["run", "setting", *names, *COSTS]
    metrics = Table(head, rows, ["k", "", *("n" for _ in head[2:])])
    last = Plot(figures.metric_bars(runs, "last"), "last in %, of each run", metric_table(runs, "last"))
    mean = "Mean accuracy over the tasks seen"
    means = Plot(figures.mean_accuracy_lines(runs), mean, means_table(runs))
    different = _different_keys(runs)
    parts: list[Part] = [
        Panel("Metrics in %, bytes and seconds", f"{formulas}. {COST_COLUMNS}", [metrics]),
        ReportRow(
            [
                Panel("last", "Mean accuracy over all tasks at the end.", [last]),
                Panel(mean, "After each task learned.", [means]),
            ]
        ),
        Panel("Where the configurations differ", f"{len(different.rows)} keys.", [different]),
    ]
    return ReportSection("All runs", parts)


def _different_keys(runs: Sequence[Run]) -> Table:
    """Return the keys of the configurations that are not the same in all runs."""
    configs = [flatten(run["config"]) for run in runs]
    rows = []
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [format_value(config.get(key, "-")) for config in configs]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return Table(["key", *(run["title"] for run in runs)], rows, ["k", *("v" for _ in runs)])


def metric_table(runs: Sequence[Run], metric: str) -> Table:
    """Return one metric: a row for each run, a column for each setting; with ``± half`` where a run has intervals."""
    names = list(dict.fromkeys(name for run in runs for name in run["settings"]))
    rows = []
    for run in runs:
        cells = []
        for name in names:
            found = run["settings"].get(name, {})
            half = found.get("half", {}).get(metric)
            number = format_number(found.get("metrics", {}).get(metric))
            cells.append(number + (f" ± {half:.1f}" if half is not None else ""))
        rows.append([run["title"], *cells])
    return Table([f"{metric} in %", *map(setting_label, names)], rows)
