"""Of 1,250 damaged checkpoints each is refused in one line or loads as what it was; nothing in one is executed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_or_right(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.fuzzing", str(tmp_path), "1250", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print({key: value for key, value in report.items() if key != "wrong"})
    assert report["wrong"] == [] and report["executed"] == []
    assert report["cases"] == 1250 and report["refused"] > 1000 and report["right"] > 10
