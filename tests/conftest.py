"""Fixtures and values that several test folders share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

TASKS = [
    ("image-0", "image", ["cat", "dog"]),
    ("audio-0", "audio", ["bark", "horn"]),
    ("text-0", "text", ["<b>food</b>", "plant"]),
    ("image-1", "image", ["car", "ship"]),
    ("video-0", "video", ["run", "bow"]),
    ("depth-0", "depth", ["chair", "stool"]),
]


def summary_of(seed: int = 0, method: str = "comm") -> dict[str, Any]:
    """Return a summary as a finished run writes it; the package computes its metrics."""
    from mmcl_fast.learning.metrics import FORMULAS, summarize

    T = len(TASKS)
    settings = {}
    for n, name in enumerate(("agnostic", "given", "given_masked")):
        R = [
            [(3.0 + i if i >= t else max(20.0, 94 - 6 * (i % 3) - 3 * (t - i) - seed + n)) for i in range(T)]
            for t in range(T + 1)
        ]
        settings[name] = {"R": R, "metrics": summarize(R, [50] * T, [m for _, m, _ in TASKS])}
    modalities = list(dict.fromkeys(m for _, m, _ in TASKS))
    shares = [[0.8 if i == j else 0.05 for j in range(len(modalities))] for i in range(len(modalities))]
    return {
        "tasks": [{"name": n, "modality": m, "classes": c, "train": 80, "test": 50} for n, m, c in TASKS],
        "settings": settings,
        "formulas": FORMULAS,
        "contributions": {"modalities": modalities, "matrix": shares},
        "seconds": {"prompts": 6.0},
        "method": method,
        "options": {},
        "encoder": "embedded",
        "seed": seed,
        "notes": ["Demo media: the depth maps are rendered and the videos are authored animation."],
    }


@pytest.fixture(scope="session", autouse=True)
def _user_cache(tmp_path_factory):
    """Keep tests, and the processes that they start, out of the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture
def write_run(tmp_path: Path):
    """Return a function that writes a finished run folder: ``write_run("a", seed=1) -> Path``."""

    def write(name: str = "run", seed: int = 0, method: str = "comm") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        events: list[dict] = [{"event": "start", "seconds": {"evaluation": 1.5}}]
        events += [
            {
                "event": "task",
                "task": i,
                "name": n,
                "modality": m,
                "seconds": {"decode and trunk": 2.0, "prompts": 1.0 + 0.3 * i, "evaluation": 0.7},
            }
            for i, (n, m, _) in enumerate(TASKS, 1)
        ]
        (folder / "summary.json").write_text(json.dumps(summary_of(seed, method)))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
        (folder / "config.json").write_text(json.dumps({"train": {"seed": seed}, "method": {"name": method}}))
        (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "packages": {"torch": "2.13.0"}}))
        return folder

    return write


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream, an encoder, a config over both, and a finished run; to be read only."""
    pytest.importorskip("transformers")
    from tests.cli.calls import write_place

    return write_place(tmp_path_factory.mktemp("cli"))


def pytest_runtest_makereport() -> None:
    """Give this process its ordinary priority back after each phase of a test.

    SVT-AV1, run by root, asks for the highest real-time priority for the process that encodes a video. Such a process
    starves all others of the machine, the other test processes too.
    """
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
