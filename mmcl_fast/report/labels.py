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


def format_bytes(count: float | None) -> str:
    """Return a number of bytes with three digits and a unit, such as ``1.24 MB`` (10^6 bytes); ``–`` for None."""
    if count is None:
        return "–"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while round(value, 1) >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:#.3g} {units[0]}"


def format_seconds(seconds: float | None) -> str:
    """Return a number of seconds with three digits or more; ``–`` for None."""
    return "–" if seconds is None else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:#.3g}"


def format_state(state: dict[str, Any] | None) -> tuple[str, str]:
    """Return the fixed bytes of a method's state and its bytes a class.

    Args:
        state: ``state_bytes`` of summary.json, or None for a run that lacks it.
    """
    if not state or state["fixed"] is None:
        return "–", "–"
    fixed = format_bytes(state["fixed"]) + (" +data" if state["all_data"] else "")
    return fixed, format_bytes(state["of_classes"] / state["classes"] if state["classes"] else None)
