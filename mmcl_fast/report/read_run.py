"""Read the files of a finished run for its report, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcl_fast.config import read_json_object
from mmcl_fast.errors import RunError
from mmcl_fast.learning.forgotten_classes import find_forgotten_classes
from mmcl_fast.report import run_schema
from mmcl_fast.runs import sample_file
from mmcl_fast.runs.prediction_file import read_predictions

Run = dict[str, Any]


def read_run(folder: Path | str) -> Run:
    """Read a finished run.

    Returns:
        The values of summary.json, and: ``events`` (the lines of metrics.jsonl), ``config``, ``environment`` and
        ``title``, such as "comm, seed 0". ``version`` has the values of version.json, or None without one.

    Raises:
        RunError: the run is not finished, or one of its files is damaged.

    Example::

        run = read_run("runs/demo")
        print(run["settings"]["agnostic"]["metrics"]["last"])
    """
    folder = Path(folder)
    file = folder / "summary.json"
    summary = read_json_object(file, "run mmcl-fast train --resume to write it again")
    if summary is None:
        raise RunError(f"{folder}: no summary.json, so the run is not finished; go on with mmcl-fast train --resume")
    if not summary.get("tasks") or not summary.get("settings"):
        raise RunError(f"{file}: names no tasks or no settings; finish the run with --resume")
    fault = run_schema.find_summary_fault(summary)
    if fault:
        raise RunError(f"{file}: {fault}; run mmcl-fast train --resume to write it again")
    return {
        **summary,
        "events": _read_events(folder / "metrics.jsonl"),
        "config": read_json_object(folder / "config.json", "restore it from a copy") or {},
        "environment": read_json_object(folder / "environment.json", "restore it from a copy, or remove it") or {},
        "version": read_json_object(folder / "version.json", "remove the version with mmcl-fast prune"),
        "title": f"{summary.get('method', '?')}, seed {summary.get('seed', '?')}",
    }


def _read_events(file: Path) -> list[dict[str, Any]]:
    events = []
    for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else [], 1):
        try:
            events.append(json.loads(line))
        except (ValueError, RecursionError):  # RecursionError: brackets nested very deep
            raise RunError(f"{file}:{number}: not readable as JSON; mend or remove that line") from None
        fault = run_schema.find_event_fault(events[-1])
        if fault:
            raise RunError(f"{file}:{number}: not an event of a run ({fault}); mend or remove that line")
    return events


def read_run_with_samples(folder: Path) -> Run:
    """Read a run as ``read_run`` does, with ``falls`` (the classes it forgot most), ``samples`` and ``predictions``.

    ``falls`` is None for a run that did not record them. The others are None for a run without their files.
    """
    run = read_run(folder)
    try:
        found = find_forgotten_classes(run["tasks"], run["events"], next(iter(run["settings"])))
    except IndexError:
        raise RunError(
            f"{folder / 'metrics.jsonl'}: right answers by class of other tasks than summary.json's; restore both from "
            "a copy"
        ) from None
    return {**run, "falls": found, "samples": sample_file.read_samples(folder), "predictions": read_predictions(folder)}
