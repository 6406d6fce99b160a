"""The figures of a report, without colours of paper or ink: the page sets those by its theme."""

from __future__ import annotations

from typing import Any

Run = dict[str, Any]

COLOURS = {"image": "#3b82f6", "video": "#e8590c", "audio": "#0ca678", "depth": "#ae3ec9", "text": "#d99a00"}
LINES = ("#3b82f6", "#e8590c", "#0ca678", "#ae3ec9", "#d99a00", "#e03131", "#15aabf", "#868e96")
GREY = [[0, "rgba(128,136,150,0.10)"], [1, "rgba(128,136,150,0.45)"]]
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
BESIDE = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
MARGIN = {"l": 10, "r": 10, "t": 10, "b": 10}


def matrix(run: Run, setting: str) -> Any:
    """R of one setting: rows after each task, columns tasks; not yet learned: grey."""
    import plotly.graph_objects as go

    tasks, R = run["tasks"], run["settings"][setting]["R"]
    columns = [f"{i + 1} {task['name']}" for i, task in enumerate(tasks)]
    rows = ["before", *(f"after {t}" for t in range(1, len(tasks) + 1))]
    classes = [", ".join(task["classes"]) for task in tasks]
    figure = go.Figure()
    for learned in (False, True):
        z = [[v if (i < t) == learned else None for i, v in enumerate(row)] for t, row in enumerate(R)]
        figure.add_heatmap(
            z=z,
            x=columns,
            y=rows,
            zmin=0,
            zmax=100,
            colorscale="Viridis" if learned else GREY,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            texttemplate="%{z:.0f}",
            textfont={"size": 11} | ({} if learned else {"color": "#7b8794"}),
            customdata=[classes] * len(rows),
            showscale=False,
            hovertemplate="%{y}: %{z:.1f} % on %{x}<br>%{customdata}<extra>"
            + ("learned" if learned else "not learned yet")
            + "</extra>",
        )
    figure.update_layout(
        height=110 + 30 * len(rows), margin=MARGIN, showlegend=False, meta={"min_width": 80 + 30 * len(columns)}
    )
    figure.update_xaxes(side="top", tickangle=-45, showgrid=False, fixedrange=True)
    figure.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True, type="category")
    return figure


def mean_seen(R: list[list[float | None]], members: list[int] | None = None) -> list[float | None]:
    """After each task, the mean over the tasks seen so far (of ``members``, if given), or None."""
    out: list[float | None] = []
    for t, row in enumerate(R):
        values = [v for i, v in enumerate(row) if i < t and (members is None or i in members)]
        out.append(sum(values) / len(values) if values and None not in values else None)
    return out


def means(runs: list[Run]) -> Any:
    """Mean accuracy over the tasks seen, a line for each setting of each run."""
    import plotly.graph_objects as go

    figure = go.Figure()
    several = len(runs) > 1
    for n, run in enumerate(runs):
        for k, (name, setting) in enumerate(run["settings"].items()):
            title = f"{run['title']}: {name}" if several else name
            values = mean_seen(setting["R"])[1:]
            figure.add_scatter(
                x=list(range(1, len(values) + 1)),
                y=values,
                name=title,
                mode="lines+markers",
                line={
                    "color": LINES[(n if several else k) % len(LINES)],
                    "width": 2.5,
                    "dash": ("solid", "dash", "dot")[(k + n // len(LINES)) % 3] if several else "solid",
                },
                connectgaps=True,
                hovertemplate="after task %{x}: %{y:.1f} %<extra>" + title + "</extra>",
            )
    _curves(figure)
    if len(figure.data) > len(LINES):  # a legend above would leave no room for the lines
        figure.update_layout(height=160 + 20 * len(figure.data), legend=BESIDE)
    return figure


def curves(run: Run, setting: str) -> Any:
    """Accuracy of every task (thin) and the mean of each modality's tasks (bold) after each task learned."""
    import plotly.graph_objects as go

    tasks, R = run["tasks"], run["settings"][setting]["R"]
    figure = go.Figure()
    for modality in dict.fromkeys(task["modality"] for task in tasks):
        colour = COLOURS.get(modality, LINES[-1])
        members = [i for i, task in enumerate(tasks) if task["modality"] == modality]
        for i in members:
            figure.add_scatter(
                x=list(range(i + 1, len(R))),
                y=[R[t][i] for t in range(i + 1, len(R))],
                mode="lines",
                name=tasks[i]["name"],
                legendgroup=modality,
                showlegend=False,
                opacity=0.45,
                line={"color": colour, "width": 1},
                connectgaps=True,
                hovertemplate="after task %{x}: %{y:.1f} %<extra>" + tasks[i]["name"] + "</extra>",
            )
        figure.add_scatter(
            x=list(range(1, len(R))),
            y=mean_seen(R, members)[1:],
            mode="lines+markers",
            name=f"{modality} (mean)",
            legendgroup=modality,
            line={"color": colour, "width": 3},
            connectgaps=True,
            hovertemplate="after task %{x}: %{y:.1f} %<extra>" + modality + "</extra>",
        )
    return _curves(figure)


def _curves(figure: Any) -> Any:
    figure.update_layout(height=380, margin=MARGIN, hovermode="closest", legend=LEGEND)
    figure.update_xaxes(title="tasks learned", dtick=1 if _longest(figure) <= 20 else None)
    figure.update_yaxes(title="accuracy in %", range=[0, 102])
    return figure


def _longest(figure: Any) -> int:
    return max((max(trace.x, default=0) for trace in figure.data), default=0)


def contributions(run: Run) -> Any:
    """Mean contribution to a sample's prompts and gates: row its modality, column whose they are."""
    import plotly.graph_objects as go

    shares = run["contributions"]
    names = shares["modalities"]
    figure = go.Figure(
        go.Heatmap(
            z=shares["matrix"],
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            texttemplate="%{z:.2f}",
            xgap=2,
            ygap=2,
            colorbar={"thickness": 10},
            hovertemplate="%{y} samples take %{z:.3f} from %{x}<extra></extra>",
        )
    )
    figure.update_layout(height=150 + 48 * len(names), margin=MARGIN)
    figure.update_xaxes(side="top", title={"text": "borrows from", "standoff": 8}, showgrid=False, fixedrange=True)
    figure.update_yaxes(
        autorange="reversed", title={"text": "sample of", "standoff": 12}, showgrid=False, fixedrange=True
    )
    return figure


def seconds(run: Run) -> Any:
    """Seconds of each phase, a bar a task."""
    import plotly.graph_objects as go

    events = [event for event in run["events"] if event["event"] in ("start", "task") and event.get("seconds")]
    labels = [f"{event['task']} {event['name']}" if event["event"] == "task" else "before" for event in events]
    figure = go.Figure()
    for n, phase in enumerate(dict.fromkeys(key for event in events for key in event["seconds"])):
        figure.add_bar(
            y=labels,
            x=[event["seconds"].get(phase, 0) for event in events],
            name=phase,
            orientation="h",
            marker={"color": LINES[n % len(LINES)]},
            hovertemplate="%{y}: %{x:.2f} s<extra>" + phase + "</extra>",
        )
    figure.update_layout(barmode="stack", height=150 + 24 * len(labels), margin=MARGIN, bargap=0.25, legend=LEGEND)
    figure.update_xaxes(title="seconds")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def bars(runs: list[Run], metric: str) -> Any:
    """One metric of several runs, a group of bars a run, a bar a setting; ``half`` beside ``metrics``: of intervals."""
    import plotly.graph_objects as go

    figure = go.Figure()
    names = list(dict.fromkeys(name for run in runs for name in run["settings"]))
    for n, name in enumerate(names):
        values = [run["settings"].get(name, {}).get("metrics", {}).get(metric) for run in runs]
        halves = [run["settings"].get(name, {}).get("half", {}).get(metric) for run in runs]
        figure.add_bar(
            x=[run["title"] for run in runs],
            y=values,
            name=name,
            marker={"color": LINES[n]},
            error_y={"array": halves, "thickness": 1, "width": 3} if any(halves) else None,
            texttemplate="%{y:.1f}",
            hovertemplate="%{x}: %{y:.2f} %<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="group", height=340, margin=MARGIN, legend=LEGEND)
    figure.update_yaxes(title=f"{metric} in %")
    return figure
