"""Shared by the benchmarks: runs pytest-benchmark cases, describes the machine, writes results as JSON and Markdown."""

from __future__ import annotations

import datetime
import json
import platform
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).parent


def processor() -> str:
    """Return the processor's name, "" if the system does not tell."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return found.group(1) if found else platform.processor()


def run_facts(machine: str, **more: object) -> dict:
    """Return the facts at the head of a result: machine, processor, ``more``, date, versions of torch and Python."""
    return {
        "machine": machine,
        "processor": processor(),
        **more,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def run_cases(file: str, select: str) -> tuple[int, list[dict]]:
    """Run ``benchmarks/<file>`` with pytest.

    Returns:
        pytest's exit code, and the ``extra_info`` of each case; none if pytest did not start.
    """
    import pytest  # the operations' benchmark needs torch alone

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "benchmark.json"
        code = pytest.main(
            [
                str(HERE / file),
                "-q",
                "-p",
                "no:cacheprovider",
                "-o",
                "addopts=",
                "--benchmark-only",
                "--benchmark-columns=median",
                f"--benchmark-json={report}",
                "-k",
                select,
            ]
        )
        results = json.loads(report.read_text())["benchmarks"] if report.is_file() else []
    return int(code), [b["extra_info"] for b in results]


def result_name(requested: str | None, machine: str) -> str:
    """Return the requested name, or else ``<machine>-<date>``, with a number if that name is taken."""
    name = re.sub(r"[^\w.-]+", "-", requested or f"{machine}-{datetime.date.today()}")
    taken = [] if requested else [file.stem for file in (HERE / "results").glob("*.json")]
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)


def write_results(
    name: str,
    facts: dict,
    results: list[dict],
    columns: list[str],
    table: list[list[str]],
    notes: Sequence[str] = (),
    folder: Path | None = None,
) -> str:
    """Write ``<folder>/<name>.json`` and ``<folder>/<name>.md``, and return the Markdown.

    Args:
        name: the files' name.
        facts: the first line of the Markdown, see ``run_facts``.
        results: the measured numbers, for the JSON.
        columns, table: head and rows of the Markdown's table.
        notes: paragraphs below the table.
        folder: None: benchmarks/results.
    """
    folder = folder or HERE / "results"
    lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *table]]
    text = "\n".join([", ".join(f"{k} {v}" for k, v in facts.items()), "", *lines, *(f"\n{note}" for note in notes)])
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in (
        ("json", json.dumps({"about": facts, "results": results}, indent=1) + "\n"),
        ("md", text + "\n"),
    ):
        part = folder / f"{name}.{suffix}.part"  # renamed last: a killed run leaves the old file intact
        part.write_text(content)
        part.replace(folder / f"{name}.{suffix}")
    return text
