"""Find import circles: ``python -m tests.import_circles``. Imports for the type checker alone count too.

The lazy face ``mmcl_fast/__init__.py`` is left out: it imports a room only when a user asks for one of its names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"mmcl_fast": ROOT / "mmcl_fast", "mmcl_fast.kernels": ROOT / "kernels", "benchmarks": ROOT / "benchmarks"}


def modules() -> dict[str, Path]:
    """Return the file of every module of the package, the kernels and the benchmarks, by dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            if "kernels" in parts[:1] and package == "mmcl_fast":
                continue  # an editable install links kernels/ there
            found[".".join([package, *(part for part in parts if part != "__init__")])] = file
    del found["mmcl_fast"]  # see the module's docstring
    return found


def imported(file: Path, name: str, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules in ``known`` that one file imports, at its top or in a function.

    Args:
        file: a Python file.
        name: the file's dotted name.
        known: as from ``modules``.
    """
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # ``from a import b`` imports the module a.b, or a name b of the module a.
                module = f"{stem}.{alias.name}"
                if module in known or stem in known:
                    yield module if module in known else stem


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other: Tarjan's strongly connected components of several modules.

    Args:
        graph: the modules that each module imports.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    known = modules()
    return {name: set(imported(file, name, known)) - {name} for name, file in known.items()}


if __name__ == "__main__":
    for circle in circles(import_graph()):
        print(" <-> ".join(circle))
