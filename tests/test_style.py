"""ruff's findings and layout, and mypy's types, over the whole repository; pyproject.toml holds the settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("command", "mend"),
    [
        pytest.param(("ruff", "check"), "what can be mended by itself: make format", id="findings"),
        pytest.param(("ruff", "format", "--diff"), "make format", id="layout"),
        pytest.param(("mypy",), "", id="types", marks=pytest.mark.slow),
    ],
)
def test_style(command: tuple[str, ...], mend: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}{mend}", pytrace=False)
