"""Learn the cells of a sweep in the test's own process, with the toy encoder, where workers are not the point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mmcl_fast import runs
from mmcl_fast.compare import sweep
from mmcl_fast.compare.cell import Cell
from mmcl_fast.learning import learner
from tests.toy import ToyEncoder


def learn_here(cells: Sequence[Cell], jobs: int, shown: Any, **options: Any) -> dict[str, str]:
    """Stand in for ``processes.learn_cells``."""
    for cell in cells:
        if not cell.finished:
            runs.learn_stream(cell.config, cell.folder, resume=True)
    return {}


def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sweeps learn in this process until the test ends."""
    monkeypatch.setattr(sweep, "learn_cells", learn_here)
    monkeypatch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())
