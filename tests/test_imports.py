"""Imports go one way: cli -> learning -> methods -> encoders, ops -> kernels, _C; streams -> media."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.import_circles import circles, import_graph

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmcl_fast"

# The rooms that each room may import. Itself, errors and other packages are always allowed.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_renamed": set(),
    "option_fields": set(),
    "user_cache": set(),
    "atomic_files": set(),
    "distributed": set(),
    "plugins": set(),
    "progress": {"distributed"},
    "templates": set(),
    "bench": set(),
    "_extension": {"_C"},
    "kernels": set(),
    "ops": {"_extension", "kernels"},
    "media": {"_extension", "plugins"},
    "streams": {"media", "progress", "user_cache"},
    "encoders": {"media", "ops", "user_cache"},
    "feature_cache": {"_extension", "encoders", "media", "user_cache"},
    "methods": {"distributed", "encoders", "ops", "option_fields"},
    "config": {"atomic_files", "methods", "option_fields"},
    "learning": {"atomic_files", "distributed", "encoders", "feature_cache", "media", "methods", "progress", "streams"},
    "runs": {
        *("atomic_files", "config", "distributed", "encoders", "feature_cache", "learning", "media", "methods"),
        *("plugins", "progress", "streams"),
    },
    "report": {"config", "learning", "runs", "templates"},
    "export": {"config", "encoders", "learning", "media", "report", "runs", "streams", "templates"},
    "serve": {"atomic_files", "distributed", "learning", "media", "runs", "streams", "templates"},
    "compare": {
        "atomic_files",
        "config",
        "distributed",
        "learning",
        "methods",
        "option_fields",
        "plugins",
        "report",
        "runs",
        "streams",
        "progress",
    },
    "doctor": {"encoders", "feature_cache", "media", "ops", "streams", "_C", "_extension"},
    "cli": {
        *(
            "atomic_files",
            "bench",
            "compare",
            "config",
            "distributed",
            "doctor",
            "encoders",
            "export",
            "feature_cache",
            "learning",
            "option_fields",
        ),
        *("media", "methods", "ops", "plugins", "progress", "report", "runs", "serve", "streams"),
    },
    "__init__": {"_renamed", "learning", "ops", "streams"},
    "__main__": {"cli"},
}
# Packages that importing mmcl_fast must not need.
LAZY = (
    "transformers",
    "triton",
    "torch._dynamo",
    "plotly",
    "jinja2",
    "av",
    "soundfile",
    "PIL",
    "simplejpeg",
    "typer",
    "nvidia",
    "tensorboard",
    "wandb",
    "onnxscript",
    "onnxruntime",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "scipy",
    "python_multipart",
)


def room_of(file: Path) -> str:
    """Return the name of a file's room: a folder or a module at the top of the package, or "kernels"."""
    if file.is_relative_to(ROOT / "kernels"):
        return "kernels"
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, package: list[str], names: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, room) of every import from the package, absolute or relative.

    Args:
        tree: the syntax tree of a module.
        package: the parts of the dotted name of its package.
        names: the rooms to look for. ``from mmcl_fast import x`` imports the room x.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found = [[*base, alias.name] for alias in node.names] if base == ["mmcl_fast"] else [base]
        else:
            continue
        for parts in found:
            if parts[0] == "mmcl_fast" and len(parts) > 1 and parts[1] in names:
                yield node.lineno, parts[1]


def sources() -> list[Path]:
    """Return the modules of the package and the kernels."""
    return [*sorted(PACKAGE.rglob("*.py")), *sorted((ROOT / "kernels").rglob("*.py"))]


def wrong_imports(source: str, room: str, package: list[str]) -> list[str]:
    """Return one line for each import in ``source`` that ``ALLOWED`` does not allow to the room."""
    allowed = ALLOWED[room] | {room, "errors"}
    return [
        f"line {line}: {room} imports {other}"
        for line, other in imports(ast.parse(source), package, [*list(ALLOWED), "_C"])
        if other not in allowed
    ]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    room = room_of(file)
    assert room in ALLOWED, f"{room}: a new room is not in ALLOWED: add the rooms that it may import"
    folders = ["kernels"] if room == "kernels" else list(file.relative_to(PACKAGE).parts[:-1])
    assert not wrong_imports(file.read_text(), room, ["mmcl_fast", *folders])


@pytest.mark.parametrize(
    ("source", "room"),
    [
        ("from mmcl_fast.learning import Learner", "ops"),
        ("import mmcl_fast.methods.comm.method", "media"),
        ("def f():\n    from mmcl_fast import learning", "methods"),
        ("from ..learning import run", "encoders"),
        ("from .. import ops", "media"),
    ],
)
def test_the_rule_sees_a_wrong_import(source: str, room: str) -> None:
    assert wrong_imports(source, room, ["mmcl_fast", room])


def test_the_package_imports_with_torch_only() -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({LAZY!r}))\n"  # None: importing it fails
        "import mmcl_fast, mmcl_fast.ops, mmcl_fast.media, mmcl_fast.streams, mmcl_fast.encoders\n"
        "import mmcl_fast.methods, mmcl_fast.learning, mmcl_fast.runs, mmcl_fast.progress\n"
        "mmcl_fast.Learner, mmcl_fast.Stream, mmcl_fast.realign, mmcl_fast.runs.train, mmcl_fast.ops.backends()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_module_imports_itself_through_others() -> None:
    assert not circles(import_graph())


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"f"}, "f": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e", "f"]]
