"""The part of a report about unknown scores: how many known samples they flag, and how many new ones they find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.learning.unknown_counts import PERCENTS, flagged_by_percent
from mmcl_fast.report.blocks import Panel, Plot, ReportRow, Table
from mmcl_fast.report.figures import flagged_lines
from mmcl_fast.report.read_run import Run

SHOWN = (1, 5, 10)  # rates of the table, in %
PLOTTED = (1, 2, 5, 10, 20, 30, 50, 70, 90)  # rates of the plot's numbers, in %


@dataclass(frozen=True)
class FlaggedGroup:
    """The test samples of one modality that have an unknown score.

    Attributes:
        modality: of the samples.
        is_new: whether they were tested before their classes were learned.
        samples: their number.
        flagged: how many are flagged at each rate of ``PERCENTS``.
        auroc: of the learned samples against these, from 0 to 1: a mean over tasks; None for learned samples.
    """

    modality: str
    is_new: bool
    samples: int
    flagged: list[int]
    auroc: float | None = None

    def share(self, percent: int) -> float:
        """Return the share in % that is flagged at a rate in %."""
        return 100 * self.flagged[percent - PERCENTS.start] / self.samples


def count_flagged(run: Run, found: Predictions) -> list[FlaggedGroup]:
    """Return for each modality its learned test samples, then the new ones, where they have scores."""
    if found.unknown is None:
        return []
    once = list(found.first_positions().values())  # a sample that tests two tasks counts once
    scores = found.unknown[once]
    modalities = np.array([run["tasks"][number - 1]["modality"] for number in found.tasks[once]])
    events = [event for event in run["events"] if event["event"] == "unknown"]
    out = []
    for modality in dict.fromkeys(modalities.tolist()):
        known = scores[(modalities == modality) & ~np.isnan(scores)]
        if len(known):
            out.append(FlaggedGroup(modality, False, len(known), flagged_by_percent(known)))
        own = [event for event in events if event["modality"] == modality]
        if own:
            flagged = [sum(counts) for counts in zip(*(event["flagged"] for event in own))]
            area = sum(event["auroc"] for event in own) / len(own)
            out.append(FlaggedGroup(modality, True, sum(event["new"] for event in own), flagged, area))
    return out


def unknown_row(run: Run, found: Predictions) -> ReportRow | None:
    """Return the panels "Known against unknown"; None for a run of an older version."""
    if found.unknown is None:
        return None
    groups = count_flagged(run, found)
    if not groups:
        about = "No test sample has an unknown score: a modality needs two classes and ten held-out training samples."
        return ReportRow([Panel("Known against unknown", about, [])])
    names = [f"{group.modality}, new" if group.is_new else group.modality for group in groups]
    numbers = Table(["rate in %", *names], [[str(p), *(f"{group.share(p):.1f}" for group in groups)] for p in PLOTTED])
    lines = [(group.modality, group.is_new, [group.share(p) for p in PERCENTS]) for group in groups]
    plot = Plot(flagged_lines(lines, PERCENTS), f"Samples flagged as unknown by rate, of {run['title']}", numbers)
    rows = [
        [
            name,
            str(group.samples),
            *(f"{group.share(p):.1f}" for p in SHOWN),
            "" if group.auroc is None else f"{group.auroc:.3f}",
        ]
        for name, group in zip(names, groups)
    ]
    table = Table(["", "samples", *(f"at {p} %" for p in SHOWN), "AUROC"], rows)
    about = (
        "Test samples of learned classes should be flagged at the promised rate: the share that predict --unknown RATE "
        "flags by mistake. Dashed grey: as promised. Dotted: samples of classes that were not learned yet."
    )
    return ReportRow(
        [Panel("Known against unknown", about, [plot]), Panel("False alarms", _about_new(groups), [table])]
    )


def _about_new(groups: list[FlaggedGroup]) -> str:
    """Return what the table shows, and whether the run tested samples before their classes were learned."""
    about = "Samples in % that are flagged at each promised rate. With few samples a share says little. "
    if any(group.is_new for group in groups):
        return (
            f"{about}New: samples of a task that were tested before it was learned, so flagging them is right. AUROC "
            "is the chance that a new sample scores higher than a learned one: a mean over tasks."
        )
    return (
        f"{about}This run tested no samples of classes that it had not learned. So nothing here says how many of "
        "them would be flagged."
    )
