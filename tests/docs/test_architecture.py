"""docs/architecture.md names functions that exist, every room, and rooms that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "architecture.md"
CODE_LINK = re.compile(r"\[`([\w.]+)`\]\(([^)#]+\.py)\)")


def defined(file: Path) -> set[str]:
    """Dotted names of a file's classes, functions, methods and top-level constants."""
    found: set[str] = set()

    def visit(node: ast.AST, above: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found.add(above + child.name)
                visit(child, f"{above}{child.name}.")
            elif not above and isinstance(child, (ast.Assign, ast.AnnAssign)):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found.update(target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(file.read_text(encoding="utf-8")), "")
    return found


def missing(page: Path) -> list[str]:
    links = CODE_LINK.findall(page.read_text(encoding="utf-8"))
    return [f"{name} in {file}" for name, file in links if name not in defined((page.parent / file).resolve())]


def test_functions_that_the_page_names_exist() -> None:
    assert missing(PAGE) == []
    assert len(CODE_LINK.findall(PAGE.read_text(encoding="utf-8"))) > 12


def test_a_function_that_is_not_there_is_seen(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("class A:\n    def b(self): ...\n\nC = 1\n")
    (tmp_path / "page.md").write_text("[`A.b`](code.py) [`C`](code.py) [`A.c`](code.py) [`b`](code.py)")
    assert missing(tmp_path / "page.md") == ["A.c in code.py", "b in code.py"]


def test_the_page_names_every_room_and_no_other() -> None:
    named = set(re.findall(r"^\| `([\w/]+)/` \|", PAGE.read_text(encoding="utf-8"), re.M))
    packages = {f"mmcl_fast/{file.parent.name}" for file in (ROOT / "mmcl_fast").glob("*/__init__.py")}
    packages.discard("mmcl_fast/kernels")  # an editable install links kernels/ there
    tops = {"csrc", "kernels", "benchmarks", "tests", "demo", "docs"}
    assert named == packages | tops
    assert all((ROOT / name).is_dir() for name in tops)
