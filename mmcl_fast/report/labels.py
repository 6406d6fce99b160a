"""Labels of settings and metrics, and the format of numbers, in reports."""

from __future__ import annotations

from typing import Any

from mmcl_fast.learning.settings import SETTINGS
from mmcl_fast.learning.settings import setting_label as setting_label


def explain_setting(name: str) -> str:
    """Return what a setting means, or its name if it is not known."""
    return SETTINGS.get(name, name)


def format_number(value: float | None) -> str:
    """Return a number with one decimal, or ``-`` for None."""
    return "-" if value is None else f"{value:.1f}"


def metric_names(summary: dict[str, Any]) -> list[str]:
    """Return the metrics that a summary has over all tasks, in their order."""
    first = next(iter(summary["settings"].values()))["metrics"]
    return [name for name in first if name != "per_modality"]
