"""The section of a report about how sure the model is, what it calls unknown, and what each class is taken for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.learning.reliability import calibration_error, reliability_bins
from mmcl_fast.report.blocks import Panel, Plot, ReportRow, ReportSection, Table
from mmcl_fast.report.figures import reliability_plot
from mmcl_fast.report.labels import setting_label
from mmcl_fast.report.read_run import Run
from mmcl_fast.report.sections.unknown_samples import unknown_row

MOST_TAKEN = 3  # wrong classes that are named for each class


def certainty_section(run: Run) -> ReportSection | None:
    """Return the section "How sure it is"; None for a run that recorded no probabilities."""
    found: Predictions | None = run.get("predictions")
    if found is None or not found.confidence or found.tasks.max() > len(run["tasks"]):
        return None
    setting = next(iter(found.confidence))
    table = error_table(run, found)
    bins = reliability_bins(found.confidence[setting], found.correct(setting))
    rows = [[f"{b.low:.2f}", str(b.samples), f"{100 * b.confidence:.1f}", f"{100 * b.accuracy:.1f}"] for b in bins]
    plot = Plot(
        reliability_plot(bins),
        f"Accuracy by confidence, {setting_label(setting)}, of {run['title']}",
        Table(["confidence from", "samples", "mean confidence in %", "accuracy in %"], rows),
    )
    about = (
        "Expected calibration error in % on test samples: the mean distance of confidence and accuracy in 15 bins. "
        "With few samples it is too large."
    )
    return ReportSection(
        "How sure it is",
        [
            ReportRow(
                [
                    Panel("Confidence and accuracy", f"{_about_temperatures(run)} Dashed: as sure as right.", [plot]),
                    Panel("Calibration error", about, [table]),
                ]
            ),
            *([flagged] if (flagged := unknown_row(run, found)) else []),
            ReportRow(
                [
                    Panel(
                        "By class",
                        f"Right answers and what samples were taken for, {setting_label(setting)}.",
                        [class_table(found, setting)],
                    )
                ]
            ),
        ],
    )


def _about_temperatures(run: Run) -> str:
    """Return what the probabilities were calibrated on."""
    values: Mapping[str, Any] = run.get("calibration") or {}
    samples = values.get("samples") or {}
    if not samples:
        return "Probabilities are not calibrated, because there were no validation samples."
    names = ", ".join(f"{modality} {values['temperatures'][modality]:.3g}" for modality in samples)
    return f"Calibrated on {sum(samples.values())} validation samples by a temperature for each modality: {names}."


def error_table(run: Run, found: Predictions) -> Table:
    """Return the calibration error of each setting, over all samples and by modality."""
    modalities = np.array([run["tasks"][number - 1]["modality"] for number in found.tasks])
    names = list(dict.fromkeys(modalities.tolist()))
    rows = []
    for setting, confidence in found.confidence.items():
        correct = found.correct(setting)
        errors = [calibration_error(confidence, correct)]
        errors += [calibration_error(confidence[modalities == m], correct[modalities == m]) for m in names]
        rows.append([setting_label(setting), *(f"{error:.1f}" for error in errors)])
    return Table(["", "all", *names], rows)


def class_table(found: Predictions, setting: str) -> Table:
    """Return a row for each class: its samples, accuracy, mean confidence and most frequent wrong answers."""
    rows = []
    for key, result in found.by_class(setting).items():
        taken = ", ".join(f"{'/'.join(other)} {count}" for other, count in result.taken_for[:MOST_TAKEN])
        sure = "" if result.confidence is None else f"{result.confidence:.1f}"
        rows.append(["/".join(key), str(result.samples), f"{result.accuracy:.1f}", sure, taken])
    head = ["class", "samples", "right in %", "mean confidence in %", "taken for"]
    return Table(head, rows, ["v", "n", "n", "n", "w"])
