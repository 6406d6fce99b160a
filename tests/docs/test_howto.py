"""The how-to pages: what they show runs, or is valid where it needs what a test does not have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs import pages

HOWTO = sorted((pages.DOCS / "howto").glob("*.md"))
FILES = {"image/orange": 10, "image/satsuma": 10, "text/animal": 12, "text/plant": 12}  # of the demo's, as mine/


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A smaller folder of the tutorial, ``mine``, and a new photo."""
    for name, count in FILES.items():
        modality, label = name.split("/")
        (tmp_path / "mine" / name).mkdir(parents=True)
        for file in sorted((pages.ROOT / "demo" / modality / "train" / label).iterdir())[:count]:
            shutil.copy(file, tmp_path / "mine" / name)
    (tmp_path / "new").mkdir()
    shutil.copy(pages.ROOT / "demo/image/test/satsuma/000.jpg", tmp_path / "new/photo.jpg")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
def test_a_how_to_runs(page: Path, place: Path) -> None:
    pages.run(page, place)


@pytest.mark.parametrize("page", [*HOWTO, pages.DOCS / "tutorial.md"], ids=lambda page: page.stem)
def test_what_is_not_run_is_valid(page: Path) -> None:
    for block in pages.blocks(page):
        if not block.run:
            pages.check_unrun(block)


def test_a_method_of_ones_own_is_short() -> None:
    (method,) = (b for b in pages.blocks(pages.DOCS / "howto/own-method.md") if b.file)
    assert len(method.text.splitlines()) <= 60


@pytest.mark.parametrize(
    "block",
    [
        pages.Block("python", "from mmcl_fast import media\nmedia.loader_of_old([])\n", 1, False),
        pages.Block("python", "from mmcl_fast.media import nothing\n", 1, False),
        pages.Block("sh", "mmcl-fast train demo --outt runs/x\n", 1, False),
        pages.Block("sh", "mmcl-fast trian demo\n", 1, False),
        pages.Block("sh", "torchrun -m mmcl_fast train demo --set train.sed=1\n", 1, False),
    ],
)
def test_what_is_not_run_and_not_valid_is_seen(block: pages.Block) -> None:
    with pytest.raises((AssertionError, ImportError)):
        pages.check_unrun(block)


@pytest.mark.parametrize(
    ("code", "line"), [("false", 2), ("echo one\n```\n```text\ntwo", 2), ("python -c 'import nothing'", 2)]
)
def test_a_page_that_does_not_run_is_seen(tmp_path: Path, code: str, line: int) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"A page\n```sh\n{code}\n```\n")
    with pytest.raises(AssertionError, match=f"line {line}"):
        pages.run(page, tmp_path)
