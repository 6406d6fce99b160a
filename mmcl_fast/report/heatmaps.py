"""The heat maps of a report: accuracy by task, and contributions between modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmcl_fast.report.plot_style import COLORSCALE, MARGIN, Figure, escape_text
from mmcl_fast.report.read_run import Run

Numbers = Sequence[float | None]
GREY = "rgba(128,136,150,0.12)"


def accuracy_heatmap(run: Run, setting: str) -> Figure:
    """Return R of one setting: a row after each task, a column for each task. Tasks not yet learned are grey."""
    tasks, R = run["tasks"], run["settings"][setting]["R"]
    return _heatmap(
        R,
        ["before", *(f"after {t}" for t in range(1, len(tasks) + 1))],
        [f"{i + 1} {task['name']}" for i, task in enumerate(tasks)],
        100.0,
        lambda value: f"{value:.0f}",
        lambda t, i: f"{R[t][i]:.1f} %, " + ("learned" if i < t else "not learned yet"),
        is_grey=lambda t, i: i >= t,
        slanted=True,
    )


def contribution_heatmap(names: Sequence[str], values: Sequence[Numbers]) -> Figure:
    """Return the contributions: the row is the modality of a sample, the column is the modality it borrows from.

    Args:
        names: the modalities.
        values: the matrix of mean contributions, from 0 to 1. None: not learned yet.
    """
    figure = _heatmap(
        values,
        names,
        names,
        1.0,
        lambda value: f"{value:.2f}",
        lambda m, k: f"{escape_text(names[m])} samples take {values[m][k]:.3f} from {escape_text(names[k])}",
    )
    figure["layout"]["height"] = 120 + 46 * len(names)
    figure["layout"]["xaxis"]["title"] = {"text": "borrows from", "standoff": 8}
    figure["layout"]["yaxis"]["title"] = {"text": "sample of", "standoff": 12}
    return figure


def _heatmap(
    values: Sequence[Numbers],
    rows: Sequence[str],
    columns: Sequence[str],
    top: float,
    format_number: Callable[[float], str],
    hover_text: Callable[[int, int], str],
    *,
    is_grey: Callable[[int, int], bool] = lambda row, column: False,
    slanted: bool = False,
) -> Figure:
    """Return values from 0 to ``top`` as coloured cells with their numbers in black or white.

    Args:
        rows, columns: their names.
        format_number: a value as it stands in its cell.
        hover_text: what a cell (row, column) shows when a reader points at it.
        is_grey: whether a cell (row, column) is grey.
        slanted: whether the names of the columns slant.
    """
    from plotly.colors import sample_colorscale

    cells = [(r, c, v) for r, row in enumerate(values) for c, v in enumerate(row) if v is not None]
    layers = []
    for grey in (False, True):  # plotly.js has one colour scale for each layer
        layers.append(
            {
                "type": "heatmap",
                "z": [
                    [v if is_grey(r, c) == grey and v is not None else None for c, v in enumerate(row)]
                    for r, row in enumerate(values)
                ],
                "text": [
                    [hover_text(r, c) if v is not None else "" for c, v in enumerate(row)]
                    for r, row in enumerate(values)
                ],
                "zmin": 0,
                "zmax": top,
                "colorscale": [[0, GREY], [1, GREY]] if grey else COLORSCALE,
                "xgap": 2,
                "ygap": 2,
                "hoverongaps": False,
                "showscale": False,
                "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
            }
        )
        some = [(r, c, v) for r, c, v in cells if is_grey(r, c) == grey]
        shares = [min(max(v / top, 0), 1) for *_, v in some]
        colours = sample_colorscale(COLORSCALE, shares, colortype="tuple") if some else []
        layers.append(
            {
                "type": "scatter",
                "mode": "text",
                "x": [c for _, c, _ in some],
                "y": [r for r, _, _ in some],
                "text": [format_number(v) for *_, v in some],
                "textfont": {"size": 11, "color": "--soft" if grey else [black_or_white(rgb) for rgb in colours]},
                "hoverinfo": "skip",
            }
        )
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "tickmode": "array"}
    return {
        "data": [layers[0], layers[2], layers[1], layers[3]],  # both layers of cells lie below the numbers
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
                "ticktext": [escape_text(name) for name in columns],
                "tickangle": -45 if slanted else 0,
                "ticklabeloverflow": "allow",
            },
            "yaxis": {
                **axis,
                "range": [len(rows) - 0.5, -0.5],
                "tickvals": list(range(len(rows))),
                "ticktext": [escape_text(name) for name in rows],
            },
        },
    }


def black_or_white(rgb: Sequence[float]) -> str:
    """Return the one with the higher contrast (WCAG 2) on a colour in 0..1. The contrast is at least 4.58."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"
