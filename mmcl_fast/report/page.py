"""The HTML page: one file that needs nothing else, from a run's summary.json and metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from mmcl_fast.config import read_object
from mmcl_fast.errors import RunError
from mmcl_fast.report import figures, parts, record
from mmcl_fast.report.console import metric_names, number

ABOUT = {
    "agnostic": "the model is not told the modality; all classes compete",
    "given": "the modality chooses prompts and gates; all classes compete",
    "given_masked": "as given, and only the given modality's classes compete",
}


def write(run: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report of a run folder, or of several side by side.

    Args:
        run: a folder with summary.json, or several.
        out: the HTML file; None: report.html in the (first) run folder.

    Returns:
        The file written.

    Raises:
        RunError: a run that is not finished or cannot be read, or a place that cannot be written.
    """
    folders = [Path(run)] if isinstance(run, (str, Path)) else [Path(r) for r in run]
    runs = [read(folder) for folder in folders]
    titles = [one["title"] for one in runs]
    for one, folder in zip(runs, folders):
        if titles.count(one["title"]) > 1:
            one["title"] += f" ({folder.name})"
    file = folders[0] / "report.html" if out is None else Path(out)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(runs), encoding="utf-8")
    except OSError as fault:
        raise RunError(f"{file}: cannot be written ({fault.strerror}); give another --out") from None
    return file


def read(folder: Path) -> dict[str, Any]:
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


def page(runs: list[dict[str, Any]]) -> str:
    """The page of one run or several."""
    drawn = parts.Figures()
    several = len(runs) > 1
    title = "Runs side by side" if several else f"{runs[0]['title']}: {len(runs[0]['tasks'])} tasks"
    body = [f"<h1>{escape(title)}</h1>"]
    body += [_comparison(runs, drawn)] if several else []
    for run in runs:
        body.append(_run(run, drawn, heading=several))
    return parts.document(title, "".join(body), drawn, "summary.json and metrics.jsonl")


def _run(run: dict[str, Any], drawn: parts.Figures, heading: bool) -> str:
    settings, tasks = run["settings"], run["tasks"]
    modalities = list(dict.fromkeys(task["modality"] for task in tasks))
    subtitle = (
        f"{run.get('method')} on {run.get('encoder')}, {len(tasks)} tasks, "
        f"{sum(len(t['classes']) for t in tasks)} classes in {', '.join(modalities)}, seed {run.get('seed')}"
    )
    out = [f"<h2>{escape(run['title'])}</h2>" if heading else "", f'<p class="about">{escape(subtitle)}</p>']
    notes = "".join(f"<p>{escape(note)}</p>" for note in run.get("notes", []))
    out.append(f'<div class="notes">{notes}</div>' if notes else "")
    out.append(f'<div class="cards">{"".join(_cards(run))}</div>')
    out.append("" if heading else "<h2>What it remembers</h2>")
    out.append(
        parts.grid(
            *(
                parts.panel(
                    f"R, {name}",
                    f"Accuracy in % on each task (column) after each task learned (row); "
                    f"{ABOUT.get(name, name)}. Grey: not learned yet.",
                    drawn.place(figures.matrix(run, name)),
                )
                for name in settings
            )
        )
    )
    first = next(iter(settings))
    curves = [
        parts.panel(
            "Accuracy by task and modality",
            f"Setting {first}. Thin: one task; bold: mean over the modality's tasks seen.",
            drawn.place(figures.curves(run, first)),
        )
    ]
    if not heading:
        curves.insert(
            0,
            parts.panel(
                "Mean accuracy over the tasks seen", "After each task learned.", drawn.place(figures.means([run]))
            ),
        )
    out.append(parts.grid(*curves))
    out.append(
        parts.grid(
            parts.panel("Metrics in %", "Over all tasks; the formula beside the number.", _metrics(run)),
            parts.panel("By modality, in %", "Each metric over the modality's own tasks.", _modalities(run)),
        )
    )
    more = []
    if run.get("contributions"):
        more.append(
            parts.panel(
                "Contributions between modalities",
                "Whose prompts and gates a sample uses: row, the sample's "
                "modality; column, the modality it borrows from.",
                drawn.place(figures.contributions(run)),
            )
        )
    if any(event.get("seconds") for event in run["events"]):
        more.append(parts.panel("Seconds", "By task and phase.", drawn.place(figures.seconds(run))))
    out.append(parts.grid(*more) if more else "")
    out.append(
        f'<div class="panel">{_tasks(tasks)}{_pairs("Config", run["config"])}'
        f"{_pairs('Environment', run['environment'])}</div>"
    )
    return "".join(out)


def _cards(run: dict[str, Any]) -> list[str]:
    cards = []
    for name, setting in run["settings"].items():
        for metric in ("last", "forgetting"):
            if metric == "forgetting" and name.endswith("_masked"):
                continue
            cards.append((number(setting["metrics"].get(metric)), f"{metric} in %, {name}"))
    total = sum(value for event in run["events"] for value in event.get("seconds", {}).values())
    cards.append((f"{total / 60:.1f} min" if total >= 90 else f"{total:.0f} s", "learning and evaluation"))
    return [f'<div class="card"><b>{escape(value)}</b><span>{escape(about)}</span></div>' for value, about in cards]


def _metrics(run: dict[str, Any]) -> str:
    settings, formulas = run["settings"], run.get("formulas", {})
    rows = [
        [name, *(number(s["metrics"].get(name)) for s in settings.values()), formulas.get(name, "")]
        for name in metric_names(run)
    ]
    return parts.table(["metric", *settings, "formula"], rows, ["k", *("n" for _ in settings), "f"])


def _modalities(run: dict[str, Any]) -> str:
    names = metric_names(run)
    rows = [
        [modality, setting, *(number(values.get(name)) for name in names)]
        for setting, found in run["settings"].items()
        for modality, values in found["metrics"].get("per_modality", {}).items()
    ]
    return parts.table(["modality", "setting", *names], rows, ["k", "k", *("n" for _ in names)])


def _tasks(tasks: list[dict[str, Any]]) -> str:
    rows = [
        [i, t["name"], t["modality"], ", ".join(t["classes"]), t.get("train", ""), t.get("test", "")]
        for i, t in enumerate(tasks, 1)
    ]
    table = parts.table(["", "task", "modality", "classes", "train", "test"], rows, ["n", "k", "k", "", "n", "n"])
    return f"<details><summary>Tasks</summary>{table}</details>"


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as ``a.b.c`` keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        key: value
        for name, item in values.items()
        for key, value in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _pairs(title: str, values: dict[str, Any]) -> str:
    if not values:
        return ""
    rows = [[key, _text(value)] for key, value in flatten(values).items()]
    return f"<details><summary>{escape(title)}</summary>{parts.table(['key', 'value'], rows, ['k', 'v'])}</details>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _comparison(runs: list[dict[str, Any]], drawn: parts.Figures) -> str:
    names = metric_names(runs[0])
    rows = [
        [run["title"], setting, *(number(found["metrics"].get(name)) for name in names)]
        for run in runs
        for setting, found in run["settings"].items()
    ]
    table = parts.table(["run", "setting", *names], rows, ["k", "k", *("n" for _ in names)])
    configs = [flatten(run["config"]) for run in runs]
    keys = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if len({_text(config.get(key, "-")) for config in configs}) > 1
    ]
    differs = [[key, *(_text(config.get(key, "-")) for config in configs)] for key in keys]
    formulas = "; ".join(f"{name}: {text}" for name, text in runs[0].get("formulas", {}).items())
    different = parts.table(["key", *(run["title"] for run in runs)], differs, ["k", *("v" for _ in runs)])
    return parts.grid(
        parts.panel("Metrics in %", formulas, table),
        parts.panel("last", "Mean accuracy over all tasks at the end.", drawn.place(figures.bars(runs, "last"))),
    ) + parts.grid(
        parts.panel("Mean accuracy over the tasks seen", "After each task learned.", drawn.place(figures.means(runs))),
        parts.panel("Where the configs differ", f"{len(keys)} keys.", different),
    )
