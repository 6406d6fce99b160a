"""``mmcl-fast bench``: runs the benchmark suites of a checkout (they are not in the wheel)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mmcl_fast
from mmcl_fast.errors import UserError


def checkout() -> Path:
    """The folder that holds ``benchmarks/``: the current one, or the checkout this package is imported from."""
    for root in (Path.cwd(), Path(mmcl_fast.__file__).resolve().parents[1]):
        if (root / "benchmarks" / "test_ops.py").is_file():
            return root
    raise UserError("bench: no benchmarks/ here; run it in a checkout of the repository (they are not in the wheel)")


def ops(arguments: Sequence[str], seconds: float | None = None) -> int:
    """Runs ``python -m benchmarks`` with these arguments; returns its exit code.

    Args:
        seconds: measured for each case and rival; None: the suite's own.
    """
    root = checkout()
    environment = os.environ | ({} if seconds is None else {"BENCH_SECONDS": str(seconds)})
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=root, env=environment).returncode
