"""The section of a report about cost: seconds by task and phase, throughput, and the bytes that the method keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmcl_fast.report import figures
from mmcl_fast.report.blocks import Panel, Plot, ReportRow, ReportSection, Table, Words
from mmcl_fast.report.labels import format_bytes, format_state
from mmcl_fast.report.read_run import Run

IN_SAMPLES = ("decode and trunk", "evaluation")  # phases whose work is counted in samples; the others count steps


def cost_section(run: Run) -> ReportSection:
    """Return the time that the run took, and the bytes that its method keeps; words for what it did not record."""
    title = "What it cost"
    kept = _bytes_panel(run)
    events = [event for event in run["events"] if event["event"] in ("start", "task") and event.get("seconds")]
    if not events:
        return ReportSection(title, [Words("The run's metrics.jsonl holds no times."), *kept])
    phases = list(dict.fromkeys(phase for event in events for phase in event["seconds"]))
    rows = [
        [figures.event_label(event), *(f"{event['seconds'].get(phase, 0):.2f}" for phase in phases)] for event in events
    ]
    about = f"Seconds by task and phase, of {run['title']}"
    seconds = Plot(figures.phase_bars(events), about, Table(["task", *phases], rows))
    throughput = (
        "Throughput is the work divided by the seconds of the same tasks. A sample whose trunk tokens came from the "
        "cache counts as decoded."
    )
    panels = [
        Panel("Seconds", "By task and phase.", [seconds]),
        Panel("Phases and throughput", throughput, [_phases_table(events, phases)]),
    ]
    return ReportSection(title, [ReportRow(panels), *kept])


def _bytes_panel(run: Run) -> list[Panel]:
    """Return the bytes of the method's state; nothing for a run of an earlier version, which did not count them."""
    state = run.get("state_bytes")
    if not state:
        return []
    about = (
        "Bytes of the tensors that the method keeps, without the frozen encoder."
        + " It also needs the data of all tasks, which are not counted." * state["all_data"]
    )
    total = format_bytes(state["fixed"] + state["of_classes"])
    row = [format_bytes(state["fixed"]), format_bytes(state["of_classes"]), *format_state(state)[1:], total]
    head = ["shared by all classes", f"of its {state['classes']} classes", "of a class", "all"]
    return [Panel("Bytes kept", about, [Table(head, [row], ["n"] * 4)])]


def _phases_table(events: Sequence[Mapping[str, Any]], phases: Sequence[str]) -> Table:
    """Return the seconds, the work and the throughput of all events together: a row for each phase, and one for all.

    ``events`` are the "start" and "task" events of metrics.jsonl.
    """
    seconds: Counter[str] = Counter()
    work: Counter[str] = Counter()
    seconds_of_work: Counter[str] = Counter()  # of the events that recorded their work
    for event in events:
        for phase, spent in event["seconds"].items():
            seconds[phase] += spent
            if event.get("counts", {}).get(phase):
                work[phase] += event["counts"][phase]
                seconds_of_work[phase] += spent
    total = sum(seconds.values())
    rows = []
    for phase in phases:
        unit = "samples" if phase in IN_SAMPLES else "steps"
        known = work[phase] and seconds_of_work[phase]
        rows.append(
            [
                phase,
                f"{seconds[phase]:.1f}",
                f"{100 * seconds[phase] / total:.1f}" if total else "–",
                f"{work[phase]:,} {unit}" if known else "–",
                f"{work[phase] / seconds_of_work[phase]:,.1f} {unit}/s" if known else "–",
            ]
        )
    rows.append(["all", f"{total:.1f}", "100.0", "", ""])
    return Table(["phase", "seconds", "% of the time", "work", "throughput"], rows)
