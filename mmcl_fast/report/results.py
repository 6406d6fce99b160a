"""The results of a sweep: each row's runs, intervals over their seeds, and differences to a reference row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcl_fast.learning.statistics import interval, paired
from mmcl_fast.report.read_run import read_run

CONFIDENCE = 0.95
KEYS_OF_RUN = ("tasks", "settings", "contributions", "seconds", "environment")  # the keys that results keep of a run


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
        has ``cells`` (R, metrics, seconds and environment of each seed) and ``statistics``.

        ``statistics[setting][metric]`` holds the fields of ``statistics.Interval``, or is None if a run lacks the
        metric. Its ``difference`` holds the fields of ``statistics.Paired``: the difference to the reference on
        the seeds that both rows have. It is missing in the reference's own row, and where no seed is common or a run
        lacks the metric. ``statistics[setting]["per_modality"][modality][metric]`` has no difference.

    Raises:
        RunError: a run can't be read.
    """
    out: list[dict[str, Any]] = []
    formulas: dict[str, str] = {}
    notes: dict[str, None] = {}
    for about, folders in rows:
        cells = []
        for seed, folder in folders.items():
            run = read_run(folder)
            formulas |= run.get("formulas", {})
            notes |= dict.fromkeys(run.get("notes", []))
            kept = {key: run.get(key) for key in KEYS_OF_RUN}
            cells.append({"seed": seed, "folder": "/".join(folder.parts[-2:]), **kept})
        out.append({**about, "cells": cells})
    reference_cells: list[dict[str, Any]] = next((row["cells"] for row in out if row["title"] == reference), [])
    for row in out:
        row["statistics"] = _statistics(row["cells"], reference_cells if row["title"] != reference else [])
    return {
        "reference": reference,
        "confidence": CONFIDENCE,
        "rows": out,
        "failed": dict(faults or {}),
        "formulas": formulas,
        "notes": list(notes),
    }


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
            statistics = _interval([_metric(cell, setting, metric) for cell in cells])
            pairs = [
                (a, b)
                for cell in paired_cells
                if (a := _metric(cell, setting, metric)) is not None
                and (b := _metric(reference[cell["seed"]], setting, metric)) is not None
            ]
            if statistics is not None and paired_cells and len(pairs) == len(paired_cells):
                difference = paired([a for a, _ in pairs], [b for _, b in pairs], CONFIDENCE)
                statistics["difference"] = asdict(difference)
            out[setting][metric] = statistics
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
    return asdict(interval(known, CONFIDENCE)) if len(known) == len(values) else None
