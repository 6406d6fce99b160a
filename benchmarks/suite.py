"""Runs a suite of pytest-benchmark cases, and keeps what it measured as JSON and Markdown."""

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
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return found.group(1) if found else platform.processor()


def about(machine: str, **more: object) -> dict:
    return {
        "machine": machine,
        "processor": processor(),
        **more,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def run(file: str, select: str) -> tuple[int, list[dict]]:
    """Runs ``benchmarks/<file>``; pytest's exit code and each case's ``extra_info``, none where it did not start."""
    import pytest  # the operations' benchmark needs torch alone

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "benchmark.json"
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
                f"--benchmark-json={kept}",
                "-k",
                select,
            ]
        )
        results = json.loads(kept.read_text())["benchmarks"] if kept.is_file() else []
    return int(code), [b["extra_info"] for b in results]


def named(asked: str | None, machine: str) -> str:
    """The results' name: what was asked for, else ``<machine>-<date>`` with a number where that is taken."""
    name = re.sub(r"[^\w.-]+", "-", asked or f"{machine}-{datetime.date.today()}")
    taken = [] if asked else [file.stem for file in (HERE / "results").glob("*.json")]
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)


def keep(
    name: str,
    facts: dict,
    results: list[dict],
    columns: list[str],
    table: list[list[str]],
    notes: Sequence[str] = (),
    folder: Path | None = None,
) -> str:
    """Writes ``<folder>/<name>.json`` and ``.md``, ``notes`` below the table; returns the latter's text.

    ``folder``: None: benchmarks/results.
    """
    folder = folder or HERE / "results"
    lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *table]]
    text = "\n".join([", ".join(f"{k} {v}" for k, v in facts.items()), "", *lines, *(f"\n{note}" for note in notes)])
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in (
        ("json", json.dumps({"about": facts, "results": results}, indent=1) + "\n"),
        ("md", text + "\n"),
    ):
        part = folder / f"{name}.{suffix}.part"  # a run that is killed here leaves the file before it whole
        part.write_text(content)
        part.replace(folder / f"{name}.{suffix}")
    return text
