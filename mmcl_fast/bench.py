"""Run the benchmark suites of a checkout of the repository; the wheel does not hold them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mmcl_fast
from mmcl_fast.errors import UserError


def find_checkout() -> Path:
    """Return the folder that holds ``benchmarks/``: the current folder, or the checkout that holds this package.

    Raises:
        UserError: there is none.
    """
    for root in (Path.cwd(), Path(mmcl_fast.__file__).resolve().parents[1]):
        if (root / "benchmarks" / "ops.py").is_file():
            return root
    raise UserError("bench: no benchmarks/ here; run it in a checkout of the repository, which the wheel does not hold")


def ops(arguments: Sequence[str], seconds: float | None = None) -> int:
    """Run ``python -m benchmarks`` and return its exit code.

    Args:
        arguments: arguments of the suite.
        seconds: seconds to measure for each case and rival; None: the suite's default.
    """
    return _run("benchmarks", arguments, {"BENCH_SECONDS": seconds})


def media(arguments: Sequence[str], seconds: float | None = None, data: Path | None = None) -> int:
    """Run ``python -m benchmarks.media`` and return its exit code.

    Args:
        arguments: arguments of the suite.
        seconds: seconds to measure for each case and way to read; None: the suite's default.
        data: a folder of media to read; None: the suite generates media.

    Raises:
        UserError: ``data`` is no folder.
    """
    if data is not None and not data.is_dir():
        raise UserError(f"bench: --data {data}: no such folder")
    return _run("benchmarks.media", arguments, {"BENCH_SECONDS": seconds, "BENCH_DATA": data and data.resolve()})


def train(arguments: Sequence[str]) -> int:
    """Run ``python -m benchmarks.train`` and return its exit code."""
    return _run("benchmarks.train", arguments, {})


def serve(run: Path, arguments: Sequence[str], isolation: bool = False) -> int:
    """Run ``python -m benchmarks.serve`` on a run folder and return its exit code.

    Args:
        run: the run folder to serve.
        arguments: arguments of the suite.
        isolation: run ``python -m benchmarks.isolation`` instead.

    Raises:
        UserError: ``run`` is no folder.
    """
    if not run.is_dir():
        raise UserError(f"bench: {run}: no such run folder; make one with mmcl-fast train demo --out {run}")
    return _run(f"benchmarks.{'isolation' if isolation else 'serve'}", [str(run.resolve()), *arguments], {})


def _run(module: str, arguments: Sequence[str], settings: dict[str, object]) -> int:
    root = find_checkout()
    environment = os.environ | {name: str(value) for name, value in settings.items() if value is not None}
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=root, env=environment).returncode
