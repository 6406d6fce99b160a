"""Runs and a browser for the tests of reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import learn, write_files

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return method -> its finished run, whose data is deleted. Tests must not change the runs."""
    folder = tmp_path_factory.mktemp("whole")
    write_files(folder / "data")
    runs = {method: learn(folder, method) for method in ("comm", "finetune")}
    shutil.rmtree(folder / "data")
    return runs


@pytest.fixture(scope="module")  # closed after each module: while it is open, other tests can't run an event loop
def browser() -> Iterator[Any]:
    """Return a headless Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-test.txt")
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, CHROMIUM)), driver.chromium.executable_path)
        if not os.path.isfile(found):
            pytest.skip("no Chromium here: apt install chromium, or playwright install chromium")
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
