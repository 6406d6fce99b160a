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
        if (root / "benchmarks" / "ops.py").is_file():
            return root
    raise UserError("bench: no benchmarks/ here; run it in a checkout of the repository (they are not in the wheel)")


def ops(arguments: Sequence[str], seconds: float | None = None) -> int:
    """Runs ``python -m benchmarks`` with these arguments; returns its exit code.

    Args:
        seconds: measured for each case and rival; None: the suite's own.
    """
    return _run("benchmarks", arguments, {"BENCH_SECONDS": seconds})


def media(arguments: Sequence[str], seconds: float | None = None, data: Path | None = None) -> int:
    """Runs ``python -m benchmarks.media`` with these arguments; returns its exit code.

    Args:
        seconds: measured for each case and way; None: the suite's own.
        data: a folder of media to read; None: media are written from a seed.
    """
    if data is not None and not data.is_dir():
        raise UserError(f"bench: --data {data}: no such folder")
    return _run("benchmarks.media", arguments, {"BENCH_SECONDS": seconds, "BENCH_DATA": data and data.resolve()})


def train(arguments: Sequence[str]) -> int:
    """Runs ``python -m benchmarks.train`` with these arguments; returns its exit code."""
    return _run("benchmarks.train", arguments, {})


def serve(run: Path, arguments: Sequence[str], isolation: bool = False) -> int:
    """Runs ``python -m benchmarks.serve`` on a run folder with these arguments; returns its exit code.

    ``isolation``: ``python -m benchmarks.isolation`` in its place.
    """
    if not run.is_dir():
        raise UserError(f"bench: {run}: no such run folder; make one with mmcl-fast train demo --out {run}")
    return _run(f"benchmarks.{'isolation' if isolation else 'serve'}", [str(run.resolve()), *arguments], {})


def _run(module: str, arguments: Sequence[str], settings: dict[str, object]) -> int:
    root = checkout()
    environment = os.environ | {name: str(value) for name, value in settings.items() if value is not None}
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=root, env=environment).returncode
