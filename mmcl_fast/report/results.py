"""The results of a sweep: each row's runs and costs, intervals, and differences to a reference row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.learning.reliability import BINS, calibration_error
from mmcl_fast.learning.sample_bootstrap import holm
from mmcl_fast.learning.statistics import interval, paired
from mmcl_fast.report.read_run import read_run
from mmcl_fast.report.sample_intervals import add_sample_intervals
from mmcl_fast.runs.prediction_file import read_predictions

CONFIDENCE = 0.95
# The keys that results keep of a run.
KEYS_OF_RUN = ("tasks", "settings", "contributions", "seconds", "state_bytes", "environment")
SHARED_PHASES = (
    "decode and trunk",
    "calibration",
    "evaluation",
    "checkpoint",
)  # whose time does not depend on the method
TASK_METRICS = ("avg", "forgetting", "bwt", "fwt")  # depend on how the classes are divided into tasks
ECE_FORMULA = (
    f"expected calibration error on test samples: sum over {BINS} bins b of n_b / n |accuracy of b - mean confidence "
    "of b| (Guo et al. 2017); few samples make it too large"
)
# Metrics whose differences to the reference are tested together, in one table each.
TESTED_TOGETHER = (("last",), ("avg", "forgetting"))


def collect(
    rows: Sequence[tuple[dict[str, Any], Mapping[int, Path]]], reference: str, faults: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Read finished runs and compute the statistics of each row.

    Args:
        rows: (``{"title": ..., ...}``, seed -> run folder) in the order of the table. The mapping leaves out runs
            that are not finished.
        reference: the title of the row that the other rows are compared with.
        faults: name of a failed cell -> why it failed.

    Returns:
        A JSON object with ``rows``, ``reference``, ``confidence``, ``failed``, ``formulas`` and ``notes``. Each row
        has ``cells`` (R, metrics, seconds, bytes and environment of each seed), ``statistics`` and ``cost``.

        ``statistics[setting][metric]`` holds the fields of ``statistics.Interval``, or is None if a run lacks the
        metric. ``over`` says what the interval is over. For ``last`` and ``pooled`` these are seeds and test samples
        where the runs kept their predictions, with the fields of ``sample_bootstrap.SampleInterval``. For the other
        metrics, and for runs of earlier versions, they are the seeds alone.

        Its ``difference`` holds ``difference`` (the same fields), ``p``, ``t_p`` and ``permutation_p``: the difference
        to the reference on the seeds that both rows have. ``holm_p`` is corrected for all tests of a table
        (``TESTED_TOGETHER``), and ``clear`` says whether it is below 1 - ``confidence``. It is missing in the
        reference's own row, and where no seed is common or a run lacks the metric.
        ``statistics[setting]["per_modality"][modality][metric]`` has no difference.

        The first setting also has the metric ``ece``, the expected calibration error in %. It is None where a run of an
        earlier version kept no confidences.

        A row whose ``stream`` changes ``classes_per_task`` has other tasks than the other rows. Its metrics of
        ``TASK_METRICS`` are None.

        ``cost`` has ``seconds`` of learning: the median over seeds, without ``SHARED_PHASES``. The other keys are the
        keys of ``learning.state_size.state_bytes``, as means over seeds. A value that a run lacks is None.

    Raises:
        RunError: a run, or what it predicted, can't be read.
    """
    out: list[dict[str, Any]] = []
    formulas: dict[str, str] = {}
    notes: dict[str, None] = {}
    predictions: list[dict[int, Predictions]] = []
    for about, folders in rows:
        cells = []
        predictions.append({})
        for seed, folder in folders.items():
            run = read_run(folder)
            formulas |= run.get("formulas", {})
            notes |= dict.fromkeys(run.get("notes", []))
            kept = {key: run.get(key) for key in KEYS_OF_RUN}
            cells.append({"seed": seed, "folder": "/".join(folder.parts[-2:]), **kept})
            found = read_predictions(folder)
            if found is not None:
                predictions[-1][seed] = found
        out.append({**about, "cells": cells})
    reference_cells: list[dict[str, Any]] = next((row["cells"] for row in out if row["title"] == reference), [])
    for row in out:
        row["statistics"] = _statistics(row["cells"], reference_cells if row["title"] != reference else [])
        row["cost"] = _cost(row["cells"])
    _add_calibration_errors(out, predictions)
    position = next((i for i, row in enumerate(out) if row["title"] == reference), None)
    lines = add_sample_intervals(out, predictions, position)
    _leave_out_task_metrics(out, position)
    _correct_p_values(out)
    return {
        "reference": reference,
        "confidence": CONFIDENCE,
        "rows": out,
        "failed": dict(faults or {}),
        "formulas": {**formulas, "ece": ECE_FORMULA},
        "notes": [*notes, *lines],
    }


def _add_calibration_errors(rows: Sequence[dict[str, Any]], predictions: Sequence[Mapping[int, Predictions]]) -> None:
    """Add ``ece`` to the first setting's statistics, from what each run predicted."""
    for row, found in zip(rows, predictions):
        for setting in list(row["statistics"])[:1]:
            errors = [_calibration_error(found.get(cell["seed"]), setting) for cell in row["cells"]]
            row["statistics"][setting]["ece"] = _interval(errors)


def _calibration_error(found: Predictions | None, setting: str) -> float | None:
    if found is None or setting not in found.confidence:
        return None
    return calibration_error(found.confidence[setting], found.correct(setting))


def _leave_out_task_metrics(rows: Sequence[dict[str, Any]], reference: int | None) -> None:
    """Leave out the metrics of rows with other tasks, and all differences to such a row."""
    own_tasks = ["classes_per_task" in row.get("stream", {}) for row in rows]
    for row, other in zip(rows, own_tasks):
        for found in row["statistics"].values():
            for some in (found, *found["per_modality"].values()):
                if other:
                    some |= dict.fromkeys(some.keys() & TASK_METRICS)
                elif reference is not None and own_tasks[reference]:
                    for metric in TASK_METRICS:
                        (some.get(metric) or {}).pop("difference", None)


def _correct_p_values(rows: Sequence[dict[str, Any]]) -> None:
    """Add ``holm_p`` and ``clear`` to the differences of each table."""
    for setting in dict.fromkeys(name for row in rows for name in row["statistics"]):
        for metrics in TESTED_TOGETHER:
            tests = [
                found["difference"]
                for row in rows
                for metric in metrics
                if (found := row["statistics"].get(setting, {}).get(metric)) and found.get("difference")
            ]
            for test, p in zip(tests, holm([test["p"] for test in tests])):
                test |= {"holm_p": p, "clear": p is not None and p < 1 - CONFIDENCE}


def learning_seconds(seconds: Mapping[str, float]) -> float:
    """Return a run's seconds of learning, without ``SHARED_PHASES``. ``seconds`` is phase -> seconds of a summary."""
    return sum(v for k, v in seconds.items() if k not in SHARED_PHASES and not k.startswith("total"))


def _cost(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the seconds of learning, and the bytes of the state."""
    seconds = [learning_seconds(cell["seconds"]) for cell in cells if cell["seconds"]]
    sizes = [cell["state_bytes"] for cell in cells if cell["state_bytes"]]
    out: dict[str, Any] = {"seconds": statistics.median(seconds) if seconds else None}
    for key in ("fixed", "of_classes", "classes"):
        out[key] = statistics.mean(size[key] for size in sizes) if sizes and len(sizes) == len(cells) else None
    return {**out, "all_data": any(size["all_data"] for size in sizes)}


def _statistics(cells: Sequence[dict[str, Any]], reference_cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return intervals over the cells, with differences to the reference on the seeds that both have."""
    settings = cells[0]["settings"] if cells else {}
    reference = {cell["seed"]: cell for cell in reference_cells}
    paired_cells = [cell for cell in cells if cell["seed"] in reference]
    out: dict[str, Any] = {}
    for setting, found in settings.items():
        out[setting] = {}
        for metric in found["metrics"]:
            if metric == "per_modality":
                continue
            known = _interval([_metric(cell, setting, metric) for cell in cells])
            pairs = [
                (a, b)
                for cell in paired_cells
                if (a := _metric(cell, setting, metric)) is not None
                and (b := _metric(reference[cell["seed"]], setting, metric)) is not None
            ]
            if known is not None and paired_cells and len(pairs) == len(paired_cells):
                test = paired([a for a, _ in pairs], [b for _, b in pairs], CONFIDENCE)
                known["difference"] = asdict(test) | {"p": test.t_p}
                known["difference"]["difference"]["over"] = "seeds"
            out[setting][metric] = known
        out[setting]["per_modality"] = {
            modality: {
                metric: _interval(
                    [
                        cell["settings"][setting]["metrics"]["per_modality"].get(modality, {}).get(metric)
                        for cell in cells
                    ]
                )
                for metric in values
            }
            for modality, values in found["metrics"].get("per_modality", {}).items()
        }
    return out


def _metric(cell: dict[str, Any], setting: str, metric: str) -> float | None:
    return cell["settings"].get(setting, {"metrics": {}})["metrics"].get(metric)


def _interval(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return asdict(interval(known, CONFIDENCE)) | {"over": "seeds"} if len(known) == len(values) else None
