"""The figures of a report: JSON objects of plotly.js, drawn by the page.

A colour that begins with ``--`` is a variable of the page's style, which has it for light and for dark. Series differ
by colour (Okabe and Ito's, for colour-blind people) and by dash, sign or hatching too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

Figure = dict[str, Any]
Run = dict[str, Any]
Numbers = Sequence[float | None]

SCALE = "Cividis"
HUES = 5  # --c0 to --c4
DASHES = ("solid", "dash", "dot", "longdash", "dashdot")
SIGNS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "pentagon")
HATCHES = ("", "/", ".", "x")
MODALITIES = ("image", "video", "audio", "depth", "text")
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
BESIDE = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
MARGIN = {"l": 10, "r": 10, "t": 10, "b": 10}


def words(text: Any) -> str:
    """A name from data, of whose signs plotly.js makes no markup."""
    return escape(str(text), quote=False)


def colour(number: int) -> str:
    return f"--c{number % HUES}"


def number_of(modality: str, among: Sequence[str]) -> int:
    """A modality's series: the same in every run, others after the five."""
    others = [name for name in among if name not in MODALITIES]
    return MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES) + others.index(modality)


# ---- heat maps ------------------------------------------------------------------------------------------------


def matrix(run: Run, setting: str) -> Figure:
    """R of one setting: rows after each task, columns tasks; not yet learned: grey."""
    tasks, R = run["tasks"], run["settings"][setting]["R"]
    return _heat(
        R,
        ["before", *(f"after {t}" for t in range(1, len(tasks) + 1))],
        [f"{i + 1} {task['name']}" for i, task in enumerate(tasks)],
        100.0,
        lambda value: f"{value:.0f}",
        lambda t, i: f"{R[t][i]:.1f} %, " + ("learned" if i < t else "not learned yet"),
        faint=lambda t, i: i >= t,
        turned=True,
    )


def shares(names: Sequence[str], values: Sequence[Numbers]) -> Figure:
    """How much samples of each modality (row) take from each (column)."""
    figure = _heat(
        values,
        names,
        names,
        1.0,
        lambda value: f"{value:.2f}",
        lambda m, k: f"{words(names[m])} samples take {values[m][k]:.3f} from {words(names[k])}",
    )
    figure["layout"]["height"] = 120 + 46 * len(names)
    figure["layout"]["xaxis"]["title"] = {"text": "borrows from", "standoff": 8}
    figure["layout"]["yaxis"]["title"] = {"text": "sample of", "standoff": 12}
    return figure


def _heat(
    values: Sequence[Numbers],
    rows: Sequence[str],
    columns: Sequence[str],
    top: float,
    shown: Callable[[float], str],
    told: Callable[[int, int], str],
    *,
    faint: Callable[[int, int], bool] = lambda row, column: False,
    turned: bool = False,
) -> Figure:
    """Values from 0 to ``top`` as cells with their numbers in them, black or white, whichever stands out more.

    Args:
        told: what a cell says when it is pointed at.
        faint: cells in grey.
        turned: the columns' names, slanting.
    """
    from plotly.colors import sample_colorscale

    cells = [(r, c, v) for r, row in enumerate(values) for c, v in enumerate(row) if v is not None]
    layers = []
    for grey in (False, True):
        layers.append(
            {
                "type": "heatmap",
                "z": [
                    [v if faint(r, c) == grey and v is not None else None for c, v in enumerate(row)]
                    for r, row in enumerate(values)
                ],
                "text": [
                    [told(r, c) if v is not None else "" for c, v in enumerate(row)] for r, row in enumerate(values)
                ],
                "zmin": 0,
                "zmax": top,
                "colorscale": [[0, "rgba(128,136,150,0.12)"], [1, "rgba(128,136,150,0.12)"]] if grey else SCALE,
                "xgap": 2,
                "ygap": 2,
                "hoverongaps": False,
                "showscale": False,
                "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
            }
        )
        some = [(r, c, v) for r, c, v in cells if faint(r, c) == grey]
        under = sample_colorscale(SCALE, [min(max(v / top, 0), 1) for *_, v in some], colortype="tuple") if some else []
        layers.append(
            {
                "type": "scatter",
                "mode": "text",
                "x": [c for _, c, _ in some],
                "y": [r for r, _, _ in some],
                "text": [shown(v) for *_, v in some],
                "textfont": {"size": 11, "color": "--soft" if grey else [black_or_white(rgb) for rgb in under]},
                "hoverinfo": "skip",
            }
        )
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "tickmode": "array"}
    return {
        "data": [layers[0], layers[2], layers[1], layers[3]],
        "layout": {
            "height": 110 + 30 * len(rows),
            "margin": MARGIN,
            "showlegend": False,
            "meta": {"min_width": 80 + 30 * len(columns)},
            "xaxis": {
                **axis,
                "side": "top",
                "range": [-0.5, len(columns) - 0.5],
                "tickvals": list(range(len(columns))),
                "ticktext": [words(name) for name in columns],
                "tickangle": -45 if turned else 0,
                "ticklabeloverflow": "allow",
            },
            "yaxis": {
                **axis,
                "range": [len(rows) - 0.5, -0.5],
                "tickvals": list(range(len(rows))),
                "ticktext": [words(name) for name in rows],
            },
        },
    }


def black_or_white(rgb: Sequence[float]) -> str:
    """Of both the one with the higher contrast (WCAG 2) on a colour in 0..1: at least 4.58 on any."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


# ---- lines ----------------------------------------------------------------------------------------------------


def mean_seen(R: Sequence[Numbers], members: Iterable[int] | None = None) -> list[float | None]:
    """After each task, the mean over the tasks seen so far (of ``members``, if given), or None."""
    own = None if members is None else set(members)
    out: list[float | None] = []
    for t, row in enumerate(R):
        values = [v for i, v in enumerate(row) if i < t and (own is None or i in own)]
        found = [v for v in values if v is not None]
        out.append(sum(found) / len(found) if found and len(found) == len(values) else None)
    return out


def means(runs: Sequence[Run]) -> Figure:
    """Mean accuracy over the tasks seen, a line for each setting of each run."""
    lines = []
    several = len(runs) > 1
    for n, run in enumerate(runs):
        for k, (name, setting) in enumerate(run["settings"].items()):
            lines.append(
                _line(
                    f"{run['title']}: {name}" if several else name,
                    mean_seen(setting["R"])[1:],
                    n if several else k,
                    dash=(k + n // HUES) % len(DASHES) if several else k,
                )
            )
    figure = _curves(lines)
    if len(lines) > 8:  # a legend above would leave no room for the lines
        figure["layout"] |= {"height": 160 + 20 * len(lines), "legend": BESIDE}
    return figure


def curves(run: Run, setting: str) -> Figure:
    """Accuracy of every task (thin) and the mean of each modality's tasks (bold) after each task learned."""
    tasks, R = run["tasks"], run["settings"][setting]["R"]
    names = list(dict.fromkeys(task["modality"] for task in tasks))
    lines = []
    for modality in names:
        series = number_of(modality, names)
        members = [i for i, task in enumerate(tasks) if task["modality"] == modality]
        for i in members:
            thin = _line(tasks[i]["name"], [R[t][i] for t in range(i + 1, len(R))], series, start=i + 1)
            lines.append(thin | {"mode": "lines", "showlegend": False, "legendgroup": words(modality)})
            lines[-1]["line"]["width"] = 1
        mean = _line(f"{modality} (mean)", mean_seen(R, members)[1:], series, dash=series % len(DASHES))
        lines.append(mean | {"legendgroup": words(modality)})
    return _curves(lines)


def _line(name: str, values: Numbers, series: int, *, dash: int = 0, start: int = 1) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": list(range(start, start + len(values))),
        "y": list(values),
        "name": words(name),
        "mode": "lines+markers",
        "line": {"color": colour(series), "width": 2.5, "dash": DASHES[dash % len(DASHES)]},
        "marker": {"symbol": SIGNS[series % len(SIGNS)], "size": 8},
        "connectgaps": True,
        "hovertemplate": "after task %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
    }


def _curves(lines: list[dict[str, Any]]) -> Figure:
    longest = max((max(line["x"], default=0) for line in lines), default=0)
    return {
        "data": lines,
        "layout": {
            "height": 380,
            "margin": MARGIN,
            "hovermode": "closest",
            "legend": LEGEND,
            "xaxis": {"title": {"text": "tasks learned"}, **({"dtick": 1} if longest <= 20 else {})},
            "yaxis": {"title": {"text": "accuracy in %"}, "range": [0, 103]},
        },
    }


# ---- bars -----------------------------------------------------------------------------------------------------


def seconds(events: Sequence[Run]) -> Figure:
    """Seconds of each phase, a bar for each event."""
    labels = [label(event) for event in events]
    bars = [
        {
            "type": "bar",
            "y": [words(name) for name in labels],
            "x": [event["seconds"].get(phase, 0) for event in events],
            "name": words(phase),
            "orientation": "h",
            "marker": {"color": colour(n), "pattern": {"shape": HATCHES[n // HUES % len(HATCHES)], "size": 5}},
            "hovertemplate": "%{y}: %{x:.2f} s<extra>%{fullData.name}</extra>",
        }
        for n, phase in enumerate(dict.fromkeys(key for event in events for key in event["seconds"]))
    ]
    return {
        "data": bars,
        "layout": {
            "barmode": "stack",
            "height": 190 + 24 * len(labels),
            "margin": MARGIN,
            "bargap": 0.25,
            "legend": LEGEND,
            "xaxis": {"title": {"text": "seconds"}},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
    }


def label(event: Run) -> str:
    return f"{event['task']} {event['name']}" if event["event"] == "task" else "before"


def bars(runs: Sequence[Run], metric: str) -> Figure:
    """One metric of several runs, a group of bars a run, a bar a setting; ``half`` beside ``metrics``: of intervals."""
    names = list(dict.fromkeys(name for run in runs for name in run["settings"]))
    groups = []
    for n, name in enumerate(names):
        halves = [run["settings"].get(name, {}).get("half", {}).get(metric) for run in runs]
        groups.append(
            {
                "type": "bar",
                "x": [words(run["title"]) for run in runs],
                "y": [run["settings"].get(name, {}).get("metrics", {}).get(metric) for run in runs],
                "name": words(name),
                "marker": {"color": colour(n), "pattern": {"shape": HATCHES[n % len(HATCHES)], "size": 5}},
                "texttemplate": "%{y:.1f}",
                "textposition": "outside",
                "cliponaxis": False,
                "hovertemplate": "%{x}: %{y:.2f} %<extra>%{fullData.name}</extra>",
                **({"error_y": {"array": halves, "thickness": 1, "width": 3}} if any(halves) else {}),
            }
        )
    return {
        "data": groups,
        "layout": {
            "barmode": "group",
            "height": 340,
            "margin": MARGIN,
            "legend": LEGEND,
            "xaxis": {},
            "yaxis": {"title": {"text": f"{metric} in %"}},
        },
    }


# ---- points ---------------------------------------------------------------------------------------------------


def points(
    places: Sequence[Sequence[float]],
    labels: Sequence[str],
    right: Sequence[bool],
    groups: Sequence[tuple[str, Sequence[int]]],
    stars: Sequence[Sequence[float]],
    names: Sequence[str],
    ranges: Sequence[Sequence[float]],
) -> Figure:
    """Samples as points, class texts as stars.

    Args:
        places: x and y of each sample; ``labels``: what it is; ``right``: whether it is taken for that.
        groups: modalities, and which samples are theirs.
        stars: x and y of each class text; ``names``: theirs.
        ranges: of x and y.
    """
    modalities = [modality for modality, _ in groups]
    layers = []
    for modality, some in groups:
        own = sorted(some, key=lambda i: not right[i])  # the legend takes the first one's sign
        series = number_of(modality, modalities)
        layers.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words(modality),
                "x": [places[i][0] for i in own],
                "y": [places[i][1] for i in own],
                "customdata": own,
                "text": [words(labels[i]) for i in own],
                "marker": {
                    "color": colour(series),
                    "symbol": [SIGNS[series % len(SIGNS)] + ("" if right[i] else "-open") for i in own],
                    "size": 7,
                },
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    layers.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "class texts",
            "x": [x for x, _ in stars],
            "y": [y for _, y in stars],
            "text": [words(name) for name in names],
            "marker": {"color": "--star", "symbol": "star", "size": 12, "line": {"color": "--ink", "width": 1}},
            "hovertemplate": "%{text}<extra></extra>",
        }
    )
    axis = {"zeroline": False, "showticklabels": False}
    return {
        "data": layers,
        "layout": {
            "height": 460,
            "margin": MARGIN,
            "hovermode": "closest",
            "legend": LEGEND,
            "xaxis": {**axis, "range": list(ranges[0])},
            "yaxis": {**axis, "range": list(ranges[1])},
        },
    }
