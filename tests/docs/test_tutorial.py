"""The tutorial, run from its first file to the served model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import pages


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    for package in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(package)
    (tmp_path / "demo").symlink_to(pages.ROOT / "demo")
    pages.run(pages.DOCS / "tutorial.md", tmp_path)
