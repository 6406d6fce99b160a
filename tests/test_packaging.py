"""The wheel: built from a copy of the sources without torch's headers, imported from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCES = ["csrc", "kernels", "mmcl_fast", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]
pytest.importorskip("pybind11")
pytest.importorskip("ninja")


def build(folder: Path, **env: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-v",
        "-w",
        str(folder / "out"),
        str(folder),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(sources) -> Path:
    done = build(sources, MMCL_FAST_CUDA="0")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("building for the CPU only (MMCL_FAST_CUDA=0)") == 1
    return next((sources / "out").glob("mmcl_fast-*.whl"))


def test_wheel_holds_the_package_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(n.startswith("mmcl_fast/_C.") and n.endswith(".so") for n in names)
    assert {
        "mmcl_fast/kernels/alignment.py",
        "mmcl_fast/kernels/realignment.py",
        "mmcl_fast/ops/table.json",
        "mmcl_fast/py.typed",
        "mmcl_fast/configs/demo.toml",
    } <= set(names)
    assert {n.split("/")[0] for n in names} == {"mmcl_fast", "mmcl_fast-0.1.0.dist-info"}
    weights = {f"mmcl_fast/encoders/weights/{p.name}" for p in (ROOT / "mmcl_fast/encoders/weights").glob("*")}
    assert weights <= set(names)


def test_wheel_runs_from_elsewhere(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (
        "import torch, mmcl_fast.ops as o, mmcl_fast.kernels as k\n"
        "z = torch.randn(3, 4, requires_grad=True)\n"
        "o.alignment_loss(z, torch.randn(5, 4), torch.tensor([0, 1, 2]), logit_scale=9.0, backend='cpp').backward()\n"
        "print(o.__file__, k.__file__, z.grad.isfinite().all().item(), o.backends()['cuda'].why)"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(tmp_path)) == 2 and " True " in done.stdout
    assert "built without nvcc" in done.stdout


def test_torch_is_not_needed_to_build():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not any("torch" in need for need in project["build-system"]["requires"])
    headers = [
        line
        for path in (ROOT / "csrc").rglob("*.[ch]*")
        for line in path.read_text().splitlines()
        if line.startswith("#include")
    ]
    assert headers and not any("torch" in line or "ATen" in line or "c10" in line for line in headers)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"MMCL_FAST_CUDA": "yes"}, "MMCL_FAST_CUDA must be 0 (forbid) or 1 (require), not 'yes'"),
        (
            {"MMCL_FAST_CUDA": "1", "CUDA_HOME": "", "CUDA_PATH": "", "PATH": "/nowhere"},
            "no nvcc on PATH or under CUDA_HOME",
        ),
    ],
)
def test_build_says_what_is_wrong(sources, env, message):
    if env.get("PATH") and Path("/usr/local/cuda/bin/nvcc").is_file():
        pytest.skip("a toolkit at its usual place is found without PATH")
    done = build(sources, **env)
    assert done.returncode and message in done.stdout + done.stderr
