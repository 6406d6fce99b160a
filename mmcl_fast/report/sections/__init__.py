"""The sections of a report about one run, one module each, and their order."""

from __future__ import annotations

from mmcl_fast.report.blocks import Cards, Notes, Part
from mmcl_fast.report.labels import format_number, setting_label
from mmcl_fast.report.read_run import Run
from mmcl_fast.report.sections.accuracy import accuracy_section
from mmcl_fast.report.sections.certainty import certainty_section
from mmcl_fast.report.sections.configuration import configuration_section
from mmcl_fast.report.sections.contributions import contributions_section
from mmcl_fast.report.sections.cost import cost_section
from mmcl_fast.report.sections.embeddings import embeddings_section
from mmcl_fast.report.sections.forgetting import forgetting_section
from mmcl_fast.report.sections.version import version_section


def make_sections(run: Run) -> list[Part]:
    """Return the whole report about a run of ``read_run_with_samples``."""
    return [
        *([Notes(run["notes"])] if run.get("notes") else []),
        Cards(_cards(run)),
        *([changed] if (changed := version_section(run)) else []),
        accuracy_section(run),
        forgetting_section(run),
        *([sure] if (sure := certainty_section(run)) else []),
        embeddings_section(run["samples"]),
        contributions_section(run),
        cost_section(run),
        configuration_section(run),
    ]


def describe_run(run: Run) -> str:
    """Return method, encoder, number of tasks and classes, modalities and seed in one line."""
    tasks = run["tasks"]
    modalities = dict.fromkeys(task["modality"] for task in tasks)
    return (
        f"{run.get('method')} on {run.get('encoder')}, {len(tasks)} tasks, "
        f"{sum(len(t['classes']) for t in tasks)} classes in {', '.join(modalities)}, seed {run.get('seed')}"
    )


def _cards(run: Run) -> list[tuple[str, str]]:
    out = []
    for name, setting in run["settings"].items():
        for metric in ("last", "forgetting"):
            if metric == "last" or not name.endswith("_masked"):
                out.append((format_number(setting["metrics"].get(metric)), f"{metric} in %, {setting_label(name)}"))
    total = sum(value for event in run["events"] for value in event.get("seconds", {}).values())
    return [*out, (f"{total / 60:.1f} min" if total >= 90 else f"{total:.0f} s", "learning and evaluation")]
