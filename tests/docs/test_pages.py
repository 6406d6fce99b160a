"""Pages are run as a reader runs them. A block that needs what a test does not have must be valid."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmcl_fast.errors import UserError
from tests.docs import pages

TUTORIAL = pages.DOCS / "tutorial.md"  # test_tutorial.py runs it, in a folder of its own
ALL = [*sorted(pages.DOCS.rglob("*.md")), *sorted(pages.ROOT.glob("*.md"))]
RUN = [page for page in ALL if page != TUTORIAL and any(block.run for block in pages.blocks(page))]
SERVING = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


def name(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


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
@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_page_runs(page: Path, place: Path) -> None:
    if page.stem == "serving":
        for package in SERVING:
            pytest.importorskip(package)
    pages.run(page, place)


@pytest.mark.parametrize("page", ALL, ids=name)
def test_blocks_that_are_not_run_are_valid(page: Path) -> None:
    variables: dict[str, str] = {}
    for block in pages.blocks(page):
        if not block.run:
            pages.check_unrun(block, variables)


def test_pages_with_commands_are_among_those_that_run() -> None:
    assert {"howto", "reference"} <= {page.parent.name for page in RUN} and len(RUN) > 10


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
        pages.Block("sh", "A=comm:lrr=0.1\nmmcl-fast compare demo --methods ridge,$A\n", 1, False),
        pages.Block("sh", "mmcl-fast ablate demo --switches prompt\n", 1, False),
        pages.Block("sh", "torchrun -m mmcl_fast train demo --set train.sed=1\n", 1, False),
    ],
)
def test_what_is_not_run_and_not_valid_is_seen(block: pages.Block) -> None:
    with pytest.raises((AssertionError, ImportError, UserError)):
        pages.check_unrun(block)


@pytest.mark.parametrize(
    ("code", "line"), [("false", 2), ("echo one\n```\n```text\ntwo", 2), ("python -c 'import nothing'", 2)]
)
def test_a_page_that_does_not_run_is_seen(tmp_path: Path, code: str, line: int) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"A page\n```sh\n{code}\n```\n")
    with pytest.raises(AssertionError, match=f"line {line}"):
        pages.run(page, tmp_path)


def test_the_readme_is_short() -> None:
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table.splitlines()) - 2 for table in tables] == [2]
    (program,) = (block.text for block in pages.blocks(pages.ROOT / "README.md") if block.language == "python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
