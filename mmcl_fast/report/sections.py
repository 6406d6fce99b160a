"""What a report says of one run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmcl_fast.learning.forgotten_classes import FALLEN, Fall
from mmcl_fast.report import figures, scatter
from mmcl_fast.report.blocks import Cards, Cell, Example, Fold, Notes, Panel, Part, Plot, Row, Section, Table, Words
from mmcl_fast.report.console import ABOUT, metric_names, number
from mmcl_fast.runs.sample_file import Samples

Run = dict[str, Any]
EXAMPLES = 4
SAMPLES = ("decode and trunk", "evaluation")  # phases counted in samples; the others in steps


def of(run: Run) -> list[Part]:
    """All that is said of a run."""
    return [
        *([Notes(run["notes"])] if run.get("notes") else []),
        Cards(cards(run)),
        remembers(run),
        forgot(run),
        scatter.section(run["samples"]),
        borrows(run),
        cost(run),
        how(run),
    ]


def about(run: Run) -> str:
    tasks = run["tasks"]
    modalities = dict.fromkeys(task["modality"] for task in tasks)
    return (
        f"{run.get('method')} on {run.get('encoder')}, {len(tasks)} tasks, "
        f"{sum(len(t['classes']) for t in tasks)} classes in {', '.join(modalities)}, seed {run.get('seed')}"
    )


def cards(run: Run) -> list[tuple[str, str]]:
    out = []
    for name, setting in run["settings"].items():
        for metric in ("last", "forgetting"):
            if metric == "last" or not name.endswith("_masked"):
                out.append((number(setting["metrics"].get(metric)), f"{metric} in %, {name}"))
    total = sum(value for event in run["events"] for value in event.get("seconds", {}).values())
    return [*out, (f"{total / 60:.1f} min" if total >= 90 else f"{total:.0f} s", "learning and evaluation")]


# ---- accuracy -------------------------------------------------------------------------------------------------


def remembers(run: Run) -> Section:
    settings, tasks = run["settings"], run["tasks"]
    first = next(iter(settings))
    heat = [
        Panel(
            f"R, {name}",
            f"Accuracy in % on each task (column) after each task learned (row); {ABOUT.get(name, name)}.",
            [Plot(figures.matrix(run, name), f"R, {name}, of {run['title']}", matrix_table(run, name))],
            "Grey: not learned yet.",
        )
        for name in settings
    ]
    means = Panel(
        "Mean accuracy over the tasks seen",
        "After each task learned.",
        [Plot(figures.means([run]), f"Mean accuracy over the tasks seen, of {run['title']}", means_table([run]))],
    )
    names = list(dict.fromkeys(task["modality"] for task in tasks))
    R = settings[first]["R"]
    by_modality = {m: figures.mean_seen(R, [i for i, t in enumerate(tasks) if t["modality"] == m]) for m in names}
    rows = [[str(t), *(number(by_modality[m][t]) for m in names)] for t in range(1, len(R))]
    curves = Panel(
        "Accuracy by task and modality",
        f"Mean over the modality's tasks seen, setting {first}.",
        [
            Plot(
                figures.curves(run, first),
                f"Accuracy in % by modality, {first}, of {run['title']}",
                Table(["after task", *names], rows),
            )
        ],
        "Thin: one task.",
    )
    return Section(
        "What it remembers",
        [
            Row(heat),
            Row([means, curves]),
            Row(
                [
                    Panel("Metrics in %", "Over all tasks; the formula beside the number.", [metrics_table(run)]),
                    Panel("By modality, in %", "Each metric over the modality's own tasks.", [modality_table(run)]),
                ]
            ),
        ],
    )


def matrix_table(run: Run, setting: str) -> Table:
    rows = [
        [f"after {t}" if t else "before", *(number(value) for value in row)]
        for t, row in enumerate(run["settings"][setting]["R"])
    ]
    return Table(["", *(f"{i} {task['name']}" for i, task in enumerate(run["tasks"], 1))], rows)


def means_table(runs: Sequence[Run]) -> Table:
    """Mean accuracy over the tasks seen after each task, of each run and setting."""
    found = {
        f"{run['title']}: {name}" if len(runs) > 1 else name: figures.mean_seen(setting["R"])[1:]
        for run in runs
        for name, setting in run["settings"].items()
    }
    longest = max(map(len, found.values()), default=0)
    rows = [
        [str(t + 1), *(number(values[t]) if t < len(values) else "" for values in found.values())]
        for t in range(longest)
    ]
    return Table(["after task", *found], rows)


def metrics_table(run: Run) -> Table:
    settings, formulas = run["settings"], run.get("formulas", {})
    rows = [
        [name, *(number(s["metrics"].get(name)) for s in settings.values()), formulas.get(name, "")]
        for name in metric_names(run)
    ]
    return Table(["metric", *settings, "formula"], rows, ["k", *("n" for _ in settings), "w"])


def modality_table(run: Run) -> Table:
    names = metric_names(run)
    rows = [
        [modality, setting, *(number(values.get(name)) for name in names)]
        for setting, found in run["settings"].items()
        for modality, values in found["metrics"].get("per_modality", {}).items()
    ]
    return Table(["modality", "setting", *names], rows, ["k", "k", *("n" for _ in names)])


# ---- classes --------------------------------------------------------------------------------------------------


def forgot(run: Run) -> Section:
    title, found = "What it forgot", run["falls"]
    first = next(iter(run["settings"]))
    if len(run["tasks"]) < 2:
        return Section(title, [Words("One task was learned: there was nothing to forget.")])
    if found is None:
        why = (
            "This run was not evaluated after each task (a method that learns all tasks at once), or was learned by a "
            "version that kept no right answers by class: which classes it forgot is not known."
        )
        return Section(title, [Words(why)])
    if not found:
        return Section(title, [Words(f"No class is right less often at the end than it was ({first}).")])
    text = (
        f"Setting {first}. For each class the best accuracy after one of its own and later tasks, less the accuracy "
        f"at the end. {len(found)} of {sum(len(t['classes']) for t in run['tasks'])} classes fell"
        + (f"; the {FALLEN} largest falls." if len(found) > FALLEN else ".")
    )
    rows = [_fall(fall, run) for fall in found[:FALLEN]]
    head = ["class", "task", "best", "after task", "at the end", "fall, points", "now taken for", "examples"]
    table = Table(head, rows, ["k", "k", "n", "n", "n", "n", "w", ""])
    return Section(title, [Panel("Classes that fell most", text, [table])])


def _fall(fall: Fall, run: Run) -> list[Cell]:
    task = run["tasks"][fall.task - 1]
    label = task["classes"][fall.place]

    def share(right: int) -> str:
        return f"{100 * right / fall.tests:.0f} % ({right} of {fall.tests})"

    return [
        label,
        f"{fall.task} {task['name']}",
        share(fall.best),
        str(fall.best_after),
        share(fall.now),
        f"{fall.points:.1f}",
        ", ".join(f"{scatter.called(who, task['modality'])} {count}" for who, count in fall.taken_for) or "–",
        _examples(run["samples"], fall.task, label),
    ]


def _examples(samples: Samples | None, task: int, label: str) -> list[Example]:
    """Up to ``EXAMPLES`` samples of a class, those first that are taken for another."""
    if samples is None:
        return []
    own = [s for s in samples.samples if s.task == task and samples.classes[s.label][1] == label]
    own.sort(key=lambda s: s.label == s.guess)
    return [scatter.example(samples, sample, named=False) for sample in own[:EXAMPLES]]


# ---- contributions --------------------------------------------------------------------------------------------


def borrows(run: Run) -> Section:
    title, shares = "Who borrows from whom", run.get("contributions")
    if not shares:
        return Section(title, [Words("This method blends nothing of one modality into another.")])
    names, after = shares["modalities"], shares["matrix"]
    text = (
        "Whose prompts and gates a sample uses: row, the sample's modality; column, the modality that it borrows from; "
        "means over samples drawn from the feature memory."
    )
    last = Panel(
        "At the end of the run",
        text,
        [Plot(figures.shares(names, after), f"Contributions at the end, of {run['title']}", _shares(names, after))],
    )
    before = _when_learned(run, names)
    if before is None:
        return Section(title, [Words("Contributions before the end were not recorded by this run."), last])
    first = Panel(
        "When the modality was new",
        text + " Each row as it was after the first task of its modality; empty: not learned by then.",
        [
            Plot(
                figures.shares(names, before),
                f"Contributions when the modality was new, of {run['title']}",
                _shares(names, before),
            )
        ],
    )
    changes = Panel(
        "What changed",
        "The own share when the modality was new and at the end, and the other share that changed most.",
        [_changes(names, before, after)],
    )
    return Section(title, [Row([first, last, changes])])


def _when_learned(run: Run, names: Sequence[str]) -> list[list[float | None]] | None:
    """Each modality's row after its first task, over ``names``; None where one of them is not recorded."""
    events = [event for event in run["events"] if event["event"] == "contributions"]
    out = []
    for name in names:
        found = next((event for event in events if name in event["modalities"]), None)
        if found is None:
            return None
        row = dict(zip(found["modalities"], found["matrix"][found["modalities"].index(name)]))
        out.append([row.get(other) for other in names])
    return out


def _shares(names: Sequence[str], values: Sequence[Sequence[float | None]]) -> Table:
    rows = [[name, *("–" if v is None else f"{v:.3f}" for v in row)] for name, row in zip(names, values)]
    return Table(["sample of", *(f"from {name}" for name in names)], rows)


def _changes(names: Sequence[str], before: Sequence[Sequence[float | None]], after: Sequence[Sequence[float]]) -> Table:
    rows = []
    for m, name in enumerate(names):
        gaps = [(after[m][k] - (before[m][k] or 0.0), other) for k, other in enumerate(names) if k != m]
        gap, other = max(gaps, key=lambda pair: abs(pair[0]), default=(0.0, ""))
        own = before[m][m]
        rows.append(
            [
                name,
                "–" if own is None else f"{own:.3f}",
                f"{after[m][m]:.3f}",
                f"{gap:+.3f} from {other}" if abs(gap) >= 0.0005 else "none",
            ]
        )
    return Table(["sample of", "new", "end", "largest change"], rows, ["k", "n", "n", ""])


# ---- time, and what was run -----------------------------------------------------------------------------------


def cost(run: Run) -> Section:
    events = [event for event in run["events"] if event["event"] in ("start", "task") and event.get("seconds")]
    if not events:
        return Section("What it cost", [Words("The run's metrics.jsonl names no times.")])
    phases = list(dict.fromkeys(phase for event in events for phase in event["seconds"]))
    rows = [[figures.label(event), *(f"{event['seconds'].get(phase, 0):.2f}" for phase in phases)] for event in events]
    plot = Plot(
        figures.seconds(events), f"Seconds by task and phase, of {run['title']}", Table(["task", *phases], rows)
    )
    text = (
        "Work over the seconds it was counted in. Samples that the cache of trunk tokens already held count as decoded."
    )
    return Section(
        "What it cost",
        [
            Row(
                [
                    Panel("Seconds", "By task and phase.", [plot]),
                    Panel("Phases and throughput", text, [_phases(events, phases)]),
                ]
            )
        ],
    )


def _phases(events: Sequence[Run], phases: Sequence[str]) -> Table:
    spent: Counter[str] = Counter()
    done: Counter[str] = Counter()
    meanwhile: Counter[str] = Counter()  # seconds of the events that say how much was done
    for event in events:
        for phase, seconds in event["seconds"].items():
            spent[phase] += seconds
            if event.get("counts", {}).get(phase):
                done[phase] += event["counts"][phase]
                meanwhile[phase] += seconds
    total = sum(spent.values())
    rows = []
    for phase in phases:
        unit = "samples" if phase in SAMPLES else "steps"
        known = done[phase] and meanwhile[phase]
        rows.append(
            [
                phase,
                f"{spent[phase]:.1f}",
                f"{100 * spent[phase] / total:.1f}" if total else "–",
                f"{done[phase]:,} {unit}" if known else "–",
                f"{done[phase] / meanwhile[phase]:,.1f} {unit}/s" if known else "–",
            ]
        )
    rows.append(["all", f"{total:.1f}", "100.0", "", ""])
    return Table(["phase", "seconds", "% of the time", "work", "throughput"], rows)


def how(run: Run) -> Section:
    rows = [
        [str(i), t["name"], t["modality"], ", ".join(t["classes"]), str(t.get("train", "")), str(t.get("test", ""))]
        for i, t in enumerate(run["tasks"], 1)
    ]
    head = ["number", "task", "modality", "classes", "train", "test"]
    folds = [Fold("Tasks", [Table(head, rows, ["n", "k", "k", "", "n", "n"])])]
    for title, values in (("Configuration", run["config"]), ("Environment", run["environment"])):
        if values:
            pairs = [[key, text(value)] for key, value in flatten(values).items()]
            folds.append(Fold(title, [Table(["key", "value"], pairs, ["k", "v"])]))
    return Section("What was run", folds)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as ``a.b.c`` keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        key: value
        for name, item in values.items()
        for key, value in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
