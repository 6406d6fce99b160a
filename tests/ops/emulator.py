"""Builds csrc/cuda as C++ for the CPU, with tests/ops/emulated in place of Hopper's instructions.

csrc/cuda/*.cu are compiled as C++. Before, each launch kernel<<<grid, block, ...>>>(a) becomes a call of the emulator.
tests/ops/emulated/sm90.cuh replaces Hopper's instructions.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pybind11

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc" / "cuda"
HERE = Path(__file__).parent / "emulated"
CUDA = next((p for p in (Path("/usr/local/cuda/include"), Path("/usr/include")) if (p / "cuda_bf16.h").is_file()), None)
LAUNCH = re.compile(r"(\w+<[\w, ]+>)<<<(.+?), 0, stream>>>\((.*?)\)")
CLUSTER_LAUNCH = re.compile(r"cudaLaunchKernelEx\(&config, kernel, (.*?)\)")
EARLY, LATE, RANDOM = range(3)  # when copies land and products read their operands: emulated::Timing


def split_top(text: str) -> tuple[str, str]:
    """Split "grid, block" at the comma outside all parentheses."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            return text[:i], text[i + 1 :]
    raise AssertionError(text)


def as_calls(source: str) -> str:
    """Return the source with every launch turned into a call of the emulator."""

    def call(m: re.Match) -> str:
        grid, block = split_top(m[2])
        return f"emulated::launch(dim3({grid}), dim3({block}), 0, 1, [&] {{ {m[1]}({m[3]}); }})"

    changed, n = LAUNCH.subn(call, source)
    changed, clusters = CLUSTER_LAUNCH.subn(r"emulated::launch_ex(config, [&] { kernel(\1); })", changed)
    assert n + clusters and "<<<" not in changed, "a launch was not recognised"
    return changed.replace("extern __shared__ unsigned char raw[];", "unsigned char* raw = emulated::shared_window;")


def write_sources(folder: Path, edit: Callable[[str, str], str] = lambda name, text: text) -> None:
    """Write all sources into one folder, since quoted includes look beside the file first.

    edit: name and text of a file of csrc/cuda -> its changed text.
    """
    for path in CSRC.iterdir():
        text = edit(path.name, path.read_text())
        if path.suffix == ".cu":
            (folder / f"{path.stem}.cpp").write_text('#include "emulate.h"\n' + as_calls(text))
        else:
            (folder / path.name).write_text(text)
    for path in HERE.iterdir():
        shutil.copy(path, folder)


def compile_objects(folder: Path, names: list[str], *flags: str) -> list[Path]:
    """Compile sources of a folder, one process each; return the objects."""
    includes = [f"-I{p}" for p in (CUDA, pybind11.get_include(), sysconfig.get_path("include"))]
    common = ["c++", "-std=c++17", "-O1", "-w", "-fPIC", "-DMMCL_SM90A", *flags, *includes]
    running = [
        subprocess.Popen(
            [*common, "-c", f"{name}.cpp", "-o", f"{name}.o"], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        for name in names
    ]
    for process in running:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors[-3000:]
    return [folder / f"{name}.o" for name in names]


def link(objects: list[Path], library: Path) -> Path:
    """Link objects into a shared library."""
    done = subprocess.run(["c++", "-shared", *map(str, objects), "-o", str(library)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return library


def build_module(folder: Path) -> ModuleType:
    """Build all kernels into an extension module of its own, and import it."""
    write_sources(folder)
    names = [path.stem for path in folder.glob("*.cpp") if path.stem != "one_kernel"]
    library = link(compile_objects(folder, names), folder / f"_emulated{sysconfig.get_config_var('EXT_SUFFIX')}")
    spec = importlib.util.spec_from_file_location("_emulated", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
