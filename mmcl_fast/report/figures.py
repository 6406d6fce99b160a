"""The lines, bars and points of a report: JSON objects for plotly.js, which page.js draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmcl_fast.learning.reliability import ReliabilityBin
from mmcl_fast.report.labels import setting_label
from mmcl_fast.report.plot_style import (
    DASHES,
    HATCHES,
    LEGEND_ABOVE,
    LEGEND_RIGHT,
    MARGIN,
    MARKERS,
    NUM_COLOURS,
    Figure,
    escape_text,
    series_colour,
    series_number,
)
from mmcl_fast.report.read_run import Run

Numbers = Sequence[float | None]
ZEROS = re.compile(r"\.0+(?!\d)|(?<=\.\d)0+(?!\d)")  # that say nothing: "2.00 MB" is "2 MB"
MOST_ABOVE = 8  # lines that a legend above the plot leaves room for


# ---- lines ----------------------------------------------------------------------------------------------------


def mean_over_seen(R: Sequence[Numbers], members: Iterable[int] | None = None) -> list[float | None]:
    """Return, for each row of R, the mean accuracy over the tasks seen by then.

    Args:
        R: rows: before any task, then after each task. Columns: tasks. In per cent; None: not evaluated.
        members: average over these tasks alone.

    Returns:
        None for a row without such a task, or with one that was not evaluated.
    """
    chosen = None if members is None else set(members)
    out: list[float | None] = []
    for t, row in enumerate(R):
        values = [v for i, v in enumerate(row) if i < t and (chosen is None or i in chosen)]
        found = [v for v in values if v is not None]
        out.append(sum(found) / len(found) if found and len(found) == len(values) else None)
    return out


def mean_accuracy_lines(runs: Sequence[Run]) -> Figure:
    """Return the mean accuracy over the tasks seen: a line for each setting of each run."""
    lines = []
    several = len(runs) > 1
    for n, run in enumerate(runs):
        for k, (name, setting) in enumerate(run["settings"].items()):
            lines.append(
                _line(
                    f"{run['title']}: {setting_label(name)}" if several else setting_label(name),
                    mean_over_seen(setting["R"])[1:],
                    n if several else k,
                    dash=(k + n // NUM_COLOURS) % len(DASHES) if several else k,
                )
            )
    figure = _line_plot(lines)
    if len(lines) > MOST_ABOVE:
        figure["layout"] |= {"height": 160 + 20 * len(lines), "legend": LEGEND_RIGHT}
    return figure


def task_accuracy_lines(run: Run, setting: str) -> Figure:
    """Return the accuracy after each task: a thin line for each task, a bold line for each modality's mean."""
    tasks, R = run["tasks"], run["settings"][setting]["R"]
    names = list(dict.fromkeys(task["modality"] for task in tasks))
    lines = []
    for modality in names:
        series = series_number(modality, names)
        members = [i for i, task in enumerate(tasks) if task["modality"] == modality]
        for i in members:
            thin = _line(tasks[i]["name"], [R[t][i] for t in range(i + 1, len(R))], series, start=i + 1)
            lines.append(thin | {"mode": "lines", "showlegend": False, "legendgroup": escape_text(modality)})
            lines[-1]["line"]["width"] = 1
        mean = _line(f"{modality} (mean)", mean_over_seen(R, members)[1:], series, dash=series % len(DASHES))
        lines.append(mean | {"legendgroup": escape_text(modality)})
    return _line_plot(lines)


def _line(name: str, values: Numbers, series: int, *, dash: int = 0, start: int = 1) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": list(range(start, start + len(values))),
        "y": list(values),
        "name": escape_text(name),
        "mode": "lines+markers",
        "line": {"color": series_colour(series), "width": 2.5, "dash": DASHES[dash % len(DASHES)]},
        "marker": {"symbol": MARKERS[series % len(MARKERS)], "size": 8},
        "connectgaps": True,
        "hovertemplate": "after task %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
    }


def _line_plot(lines: list[dict[str, Any]]) -> Figure:
    longest = max((max(line["x"], default=0) for line in lines), default=0)
    return {
        "data": lines,
        "layout": {
            "height": 380,
            "margin": MARGIN,
            "hovermode": "closest",
            "legend": LEGEND_ABOVE,
            "xaxis": {"title": {"text": "tasks learned"}, **({"dtick": 1} if longest <= 20 else {})},
            "yaxis": {"title": {"text": "accuracy in %"}, "range": [0, 103]},
        },
    }


# ---- bars -----------------------------------------------------------------------------------------------------


def reliability_plot(bins: Sequence[ReliabilityBin]) -> Figure:
    """Return accuracy over confidence: a point for each bin, and a dashed diagonal."""
    line = _line("accuracy", [100 * b.accuracy for b in bins], 0)
    line |= {
        "x": [100 * b.confidence for b in bins],
        "text": [f"{b.samples} samples" for b in bins],
        "hovertemplate": "confidence %{x:.1f} %, accuracy %{y:.1f} %, %{text}<extra></extra>",
        "showlegend": False,
    }
    return _diagonal_plot([line], "confidence in %", "accuracy in %")


def flagged_lines(groups: Iterable[tuple[str, bool, Numbers]], rates: Sequence[float]) -> Figure:
    """Return the share of samples that are flagged as unknown over the promised rate, and a dashed diagonal.

    Args:
        groups: (modality, whether its samples are new, shares in % at each rate). Lines of new samples are dotted.
        rates: in %.
    """
    groups = list(groups)
    names = list(dict.fromkeys(modality for modality, _, _ in groups))
    lines = []
    for modality, is_new, shares in groups:
        line = _line(
            f"{modality}, new" if is_new else modality, shares, series_number(modality, names), dash=2 * is_new
        )
        line |= {"x": list(rates), "mode": "lines"}
        lines.append(line | {"hovertemplate": "rate %{x} %: %{y:.1f} % flagged<extra>%{fullData.name}</extra>"})
    figure = _diagonal_plot(lines, "promised rate in %", "flagged in %")
    figure["layout"]["legend"] = LEGEND_RIGHT if len(lines) > MOST_ABOVE else LEGEND_ABOVE
    return figure


def _diagonal_plot(lines: list[dict[str, Any]], x: str, y: str) -> Figure:
    """Return lines over a dashed diagonal; both axes are in %."""
    diagonal = {
        "type": "scatter",
        "x": [0, 100],
        "y": [0, 100],
        "mode": "lines",
        "line": {"color": "#888", "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    axes = {name: {"title": {"text": title}, "range": [0, 102]} for name, title in (("xaxis", x), ("yaxis", y))}
    return {"data": [diagonal, *lines], "layout": {"height": 380, "margin": MARGIN, **axes}}


def phase_bars(events: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the seconds of each phase: a stacked bar for each event of metrics.jsonl; all were timed."""
    labels = [event_label(event) for event in events]
    bars = [
        {
            "type": "bar",
            "y": [escape_text(name) for name in labels],
            "x": [event["seconds"].get(phase, 0) for event in events],
            "name": escape_text(phase),
            "orientation": "h",
            "marker": {
                "color": series_colour(n),
                "pattern": {"shape": HATCHES[n // NUM_COLOURS % len(HATCHES)], "size": 5},
            },
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
            "legend": LEGEND_ABOVE,
            "xaxis": {"title": {"text": "seconds"}},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
    }


def event_label(event: Mapping[str, Any]) -> str:
    """Return the number and name of the task that a "task" event is about, or "before" for a "start" event."""
    return f"{event['task']} {event['name']}" if event["event"] == "task" else "before"


def metric_bars(runs: Sequence[Run], metric: str) -> Figure:
    """Return one metric of several runs: a group of bars for each run, a bar for each setting.

    A setting may have ``half``, by metric half the width of an interval; its bars then have error bars.
    """
    names = list(dict.fromkeys(name for run in runs for name in run["settings"]))
    groups = []
    for n, name in enumerate(names):
        halves = [run["settings"].get(name, {}).get("half", {}).get(metric) for run in runs]
        groups.append(
            {
                "type": "bar",
                "x": [escape_text(run["title"]) for run in runs],
                "y": [run["settings"].get(name, {}).get("metrics", {}).get(metric) for run in runs],
                "name": escape_text(setting_label(name)),
                "marker": {"color": series_colour(n), "pattern": {"shape": HATCHES[n % len(HATCHES)], "size": 5}},
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
            "legend": LEGEND_ABOVE,
            "xaxis": {},
            "yaxis": {"title": {"text": f"{metric} in %"}},
        },
    }


# ---- points ---------------------------------------------------------------------------------------------------


def cost_points(
    names: Sequence[str],
    costs: Numbers,
    values: Numbers,
    halves: Numbers,
    axes: tuple[str, str],
    format_cost: Callable[[float], str],
) -> Figure:
    """Return a metric over a cost on a logarithmic axis: a point for each row, and a line through the best ones.

    A row is on the line if no other row has both a lower cost and a higher metric. A row whose metric is not known, or
    whose cost is not known or 0, is left out.

    Args:
        names: the rows' names.
        costs: the cost of each row.
        values: the metric of each row, in %.
        halves: half the width of each interval; None: no error bar.
        axes: titles of the axis of the cost and of the metric.
        format_cost: writes a cost.
    """
    known = [(i, c, v) for i, (c, v) in enumerate(zip(costs, values)) if c and v is not None]
    best: list[tuple[float, float]] = []
    for _, c, v in sorted(known, key=lambda point: (point[1], -point[2])):
        if not best or v > best[-1][1]:
            best.append((c, v))
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [c for c, _ in best],
        "y": [v for _, v in best],
        "line": {"color": "--soft", "width": 1, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
        "name": "best for its cost",
    }
    points = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [c],
            "y": [v],
            "name": escape_text(names[i]),
            "marker": {"color": series_colour(i), "symbol": MARKERS[i // NUM_COLOURS % len(MARKERS)], "size": 11},
            "error_y": {"array": [halves[i]], "thickness": 1, "width": 3},
            "hovertemplate": f"{format_cost(c)}, %{{y:.1f}} %<extra>{escape_text(names[i])}</extra>",
        }
        for i, c, v in known
    ]
    ticks = _log_ticks([c for _, c, _ in known])
    return {
        "data": [line, *points],
        "layout": {
            "height": max(380, 120 + 20 * len(points)),
            "margin": MARGIN,
            "hovermode": "closest",
            "legend": LEGEND_RIGHT if len(points) > MOST_ABOVE else LEGEND_ABOVE,
            "xaxis": {
                "title": {"text": axes[0]},
                "type": "log",
                "tickvals": ticks,
                "ticktext": [ZEROS.sub("", format_cost(tick)) for tick in ticks],
            },
            "yaxis": {"title": {"text": axes[1]}},
        },
    }


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers from just below the smallest positive value to just above the largest."""
    if not values:
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1,) if high - low > 4 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return [tick for tick in ticks if min(values) / 3 <= tick <= 3 * max(values)]


def sample_points(
    places: Sequence[Sequence[float]],
    labels: Sequence[str],
    right: Sequence[bool],
    groups: Sequence[tuple[str, Sequence[int]]],
    stars: Sequence[Sequence[float]],
    names: Sequence[str],
    ranges: Sequence[Sequence[float]],
) -> Figure:
    """Return samples as points and class texts as stars.

    Args:
        places: x and y of each sample.
        labels: the name of each sample's class.
        right: whether each sample's class is predicted; the point of a wrong one is hollow.
        groups: (modality, indices of its samples).
        stars: x and y of each class text.
        names: the name of each class text.
        ranges: (low, high) of x, then of y.
    """
    modalities = [modality for modality, _ in groups]
    layers = []
    for modality, some in groups:
        ordered = sorted(some, key=lambda i: not right[i])  # the legend shows the marker of the first point
        series = series_number(modality, modalities)
        layers.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape_text(modality),
                "x": [places[i][0] for i in ordered],
                "y": [places[i][1] for i in ordered],
                "customdata": ordered,
                "text": [escape_text(labels[i]) for i in ordered],
                "marker": {
                    "color": series_colour(series),
                    "symbol": [MARKERS[series % len(MARKERS)] + ("" if right[i] else "-open") for i in ordered],
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
            "text": [escape_text(name) for name in names],
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
            "legend": LEGEND_ABOVE,
            "xaxis": {**axis, "range": list(ranges[0])},
            "yaxis": {**axis, "range": list(ranges[1])},
        },
    }
