"""The report of finished runs: one HTML page that needs nothing else, and the same as Markdown beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl_fast.config.load import read_object
from mmcl_fast.errors import RunError
from mmcl_fast.learning.forgotten_classes import falls
from mmcl_fast.report import figures, markdown, markup, record, sections
from mmcl_fast.report.blocks import Page, Panel, Part, Plot, Row, Section, Table, Words
from mmcl_fast.report.console import metric_names, number
from mmcl_fast.runs import sample_file as samples

Run = dict[str, Any]


def write(run: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report of a run folder, or of several side by side, and beside it the same as Markdown.

    Args:
        run: a folder with summary.json, or several.
        out: the HTML file; None: report.html in the (first) run folder. The other one's name ends in .md.

    Returns:
        The HTML file.

    Raises:
        RunError: a run that is not finished or cannot be read, or a place that cannot be written.
    """
    folders = [Path(run)] if isinstance(run, (str, Path)) else [Path(r) for r in run]
    file = folders[0] / "report.html" if out is None else Path(out)
    if file.suffix == ".md":
        raise RunError(f"{file}: the HTML file is to be named, such as {file.with_suffix('.html').name}; give that")
    runs = [_whole(folder) for folder in folders]
    titles = [one["title"] for one in runs]
    for one, folder in zip(runs, folders):
        if titles.count(one["title"]) > 1:
            one["title"] += f" ({folder.name})"
    said = page(runs)
    for name, text in ((file, markup.render(said)), (file.with_suffix(".md"), markdown.render(said))):
        try:
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_text(text, encoding="utf-8")
        except OSError as fault:
            raise RunError(f"{name}: cannot be written ({fault.strerror}); give another --out") from None
    return file


def read(folder: Path) -> Run:
    """summary.json with what stands beside it: events, config, environment, and a title."""
    summary = read_object(folder / "summary.json", "run mmcl-fast train --resume to write it again")
    if summary is None:
        raise RunError(f"{folder}: no summary.json, so the run is not finished; go on with mmcl-fast train --resume")
    if not summary.get("tasks") or not summary.get("settings"):
        raise RunError(f"{folder / 'summary.json'}: names no tasks or no settings; finish the run with --resume")
    fault = record.fault_of_summary(summary)
    if fault:
        raise RunError(f"{folder / 'summary.json'}: {fault}; run mmcl-fast train --resume to write it again")
    metrics = folder / "metrics.jsonl"
    events = []
    for n, line in enumerate(metrics.read_bytes().splitlines() if metrics.is_file() else [], 1):
        try:
            events.append(json.loads(line))
        except (ValueError, RecursionError):
            raise RunError(f"{metrics}:{n}: not readable as JSON; mend or remove that line") from None
        fault = record.fault_of_event(events[-1])
        if fault:
            raise RunError(f"{metrics}:{n}: not an event of a run ({fault}); mend or remove that line")
    return {
        **summary,
        "events": events,
        "config": read_object(folder / "config.json", "restore it from a copy") or {},
        "environment": read_object(folder / "environment.json", "restore it from a copy, or remove it") or {},
        "title": f"{summary.get('method', '?')}, seed {summary.get('seed', '?')}",
    }


def _whole(folder: Path) -> Run:
    """``read`` with the run's samples and the classes that fell."""
    run = read(folder)
    try:
        found = falls(run["tasks"], run["events"], next(iter(run["settings"])))
    except IndexError:
        raise RunError(
            f"{folder / 'metrics.jsonl'}: right answers by class of other tasks than summary.json's; restore both from "
            "a copy"
        ) from None
    return {**run, "falls": found, "samples": samples.read(folder)}


def page(runs: Sequence[Run]) -> Page:
    """The page of one run or several."""
    source = f"summary.json, metrics.jsonl and {samples.FILE}"
    if len(runs) == 1:
        title = f"{runs[0]['title']}: {len(runs[0]['tasks'])} tasks"
        return Page(title, sections.about(runs[0]), sections.of(runs[0]), source)
    own = [Section(run["title"], [Words(sections.about(run)), *sections.of(run)]) for run in runs]
    return Page("Runs side by side", ", ".join(run["title"] for run in runs), [_compared(runs), *own], source)


def _compared(runs: Sequence[Run]) -> Section:
    names = metric_names(runs[0])
    rows = [
        [run["title"], setting, *(number(found["metrics"].get(name)) for name in names)]
        for run in runs
        for setting, found in run["settings"].items()
    ]
    configs = [sections.flatten(run["config"]) for run in runs]
    keys = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if len({sections.text(config.get(key, "-")) for config in configs}) > 1
    ]
    differs = [[key, *(sections.text(config.get(key, "-")) for config in configs)] for key in keys]
    formulas = "; ".join(f"{name}: {text}" for name, text in runs[0].get("formulas", {}).items())
    titles = [run["title"] for run in runs]
    parts: list[Part] = [
        Row(
            [
                Panel(
                    "Metrics in %",
                    formulas,
                    [Table(["run", "setting", *names], rows, ["k", "k", *("n" for _ in names)])],
                ),
                Panel(
                    "last",
                    "Mean accuracy over all tasks at the end.",
                    [Plot(figures.bars(runs, "last"), "last in %, of each run", bars_table(runs, "last"))],
                ),
            ]
        ),
        Row(
            [
                Panel(
                    "Mean accuracy over the tasks seen",
                    "After each task learned.",
                    [Plot(figures.means(runs), "Mean accuracy over the tasks seen", sections.means_table(runs))],
                ),
                Panel(
                    "Where the configurations differ",
                    f"{len(keys)} keys.",
                    [Table(["key", *titles], differs, ["k", *("v" for _ in runs)])],
                ),
            ]
        ),
    ]
    return Section("All runs", parts)


def bars_table(runs: Sequence[Run], metric: str) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run["settings"]))
    rows = []
    for run in runs:
        cells = []
        for name in names:
            found = run["settings"].get(name, {})
            half = found.get("half", {}).get(metric)
            cells.append(number(found.get("metrics", {}).get(metric)) + (f" ± {half:.1f}" if half is not None else ""))
        rows.append([run["title"], *cells])
    return Table([f"{metric} in %", *names], rows)
