"""The section of a report about the run itself: tasks, configuration, environment."""

from __future__ import annotations

import json
from typing import Any

from mmcl_fast.report.blocks import Fold, ReportSection, Table
from mmcl_fast.report.read_run import Run


def configuration_section(run: Run) -> ReportSection:
    """Return the tasks, the configuration and the environment of the run, each in a fold."""
    rows = [
        [str(i), t["name"], t["modality"], ", ".join(t["classes"]), str(t.get("train", "")), str(t.get("test", ""))]
        for i, t in enumerate(run["tasks"], 1)
    ]
    head = ["number", "task", "modality", "classes", "train", "test"]
    folds = [Fold("Tasks", [Table(head, rows, ["n", "k", "k", "", "n", "n"])])]
    for title, values in (("Configuration", run["config"]), ("Environment", run["environment"])):
        if values:
            pairs = [[key, format_value(value)] for key, value in flatten(values).items()]
            folds.append(Fold(title, [Table(["key", "value"], pairs, ["k", "v"])]))
    return ReportSection("What was run", folds)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one with dotted keys: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        key: value
        for name, item in values.items()
        for key, value in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def format_value(value: Any) -> str:
    """Return a string as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
