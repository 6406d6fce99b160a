"""Many finished runs as rows of several seeds each: their numbers, intervals over seeds, differences to one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcl_fast.learning.statistics import interval, paired
from mmcl_fast.report.page import read

CONFIDENCE = 0.95
KEPT = ("tasks", "settings", "contributions", "seconds", "environment")  # of each run


def collect(
    rows: Sequence[tuple[dict[str, Any], Mapping[int, Path]]], reference: str, faults: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Read finished runs and work out what is to be said of each row.

    Args:
        rows: (``{"title": ..., ...}``, seed -> run folder) in the order of the table; runs that are not finished are
            left out of the mapping.
        reference: the title of the row that the others are compared with.
        faults: cells that failed, and why.

    Returns:
        A JSON value: for every row its cells (R and metrics of each seed, seconds, environment) and its
        ``statistics``: by setting and metric the fields of ``statistics.Interval``, under ``difference`` those of
        ``statistics.Paired`` to the reference on the seeds that both have; ``per_modality`` likewise, without
        differences. A metric that a run lacks is None.

    Raises:
        RunError: a run can't be read.
    """
    out: list[dict[str, Any]] = []
    formulas: dict[str, str] = {}
    notes: dict[str, None] = {}
    for about, folders in rows:
        cells = []
        for seed, folder in folders.items():
            run = read(folder)
            formulas |= run.get("formulas", {})
            notes |= dict.fromkeys(run.get("notes", []))
            cells.append({"seed": seed, "folder": "/".join(folder.parts[-2:]), **{key: run.get(key) for key in KEPT}})
        out.append({**about, "cells": cells})
    base: list[dict[str, Any]] = next((row["cells"] for row in out if row["title"] == reference), [])
    for row in out:
        row["statistics"] = _statistics(row["cells"], base if row["title"] != reference else [])
    return {
        "reference": reference,
        "confidence": CONFIDENCE,
        "rows": out,
        "failed": dict(faults or {}),
        "formulas": formulas,
        "notes": list(notes),
    }


def _statistics(cells: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    settings = cells[0]["settings"] if cells else {}
    shared = {cell["seed"]: cell for cell in base}
    own = [cell for cell in cells if cell["seed"] in shared]
    out: dict[str, Any] = {}
    for setting, found in settings.items():
        out[setting] = {}
        for metric in found["metrics"]:
            if metric == "per_modality":
                continue
            said = _interval([_metric(cell, setting, metric) for cell in cells])
            both = [
                (a, b)
                for cell in own
                if (a := _metric(cell, setting, metric)) is not None
                and (b := _metric(shared[cell["seed"]], setting, metric)) is not None
            ]
            if said is not None and own and len(both) == len(own):
                said["difference"] = asdict(paired([a for a, _ in both], [b for _, b in both], CONFIDENCE))
            out[setting][metric] = said
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
