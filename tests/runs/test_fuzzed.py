"""Of 1,250 damaged checkpoints each is refused in one line or loads as what it was; nothing in one is executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.conftest import report_of


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_or_right(tmp_path: Path) -> None:
    report = report_of("fuzzing", tmp_path, 1250, 0, timeout=600)
    print({key: value for key, value in report.items() if key != "wrong"})
    assert report["wrong"] == [] and report["executed"] == []
    assert report["cases"] == 1250 and report["refused"] > 1000 and report["right"] > 10
