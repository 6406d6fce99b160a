"""The CUDA kernels run on the CPU by an emulator: their logic and memory layouts, not the hardware's timing.

csrc/cuda/*.cu are compiled as C++. Before, each launch kernel<<<grid, block, ...>>>(a) becomes a call of the emulator.
tests/ops/emulated/wgmma.cuh replaces wgmma and the bulk tensor copy.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from mmcl_fast import ops
from mmcl_fast.ops import choice
from mmcl_fast.ops.arguments import NEEDS_Z, AlignmentArguments
from mmcl_fast.ops.backends import cuda as cuda_
from mmcl_fast.ops.backends import gpu
from tests.ops import test_half
from tests.ops.cases import check_loss, check_realign

pybind11 = pytest.importorskip("pybind11")
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "emulated"
CUDA = next((p for p in (Path("/usr/local/cuda/include"), Path("/usr/include")) if (p / "cuda_bf16.h").is_file()), None)
pytestmark = pytest.mark.skipif(CUDA is None, reason="needs the CUDA toolkit's headers")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALF = DTYPES[1:]
LAUNCH = re.compile(
    r"(\w+<[\w, ]+>)<<<(.+?), 0, stream>>>\((.*?)\)|(\w+<T, NC>)<<<grid, 256, [^>]+>\(\), stream>>>\((.*?)\)"
)


def as_calls(source: str) -> str:
    """Return the source with every launch turned into a call of the emulator."""

    def call(m: re.Match) -> str:
        kernel, where, arguments = (m[1], m[2], m[3]) if m[1] else (m[4], "grid, 256", m[5])
        grid, block = split_top(where)
        return f"emulated::launch(dim3({grid}), dim3({block}), [&] {{ {kernel}({arguments}); }})"

    changed, n = LAUNCH.subn(call, source)
    assert n and "<<<" not in changed, "a launch was not recognised"
    return changed.replace("extern __shared__ unsigned char raw[];", "unsigned char* raw = emulated::shared_memory;")


def split_top(text: str) -> tuple[str, str]:
    """Split "grid, block" at the comma outside all parentheses."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            return text[:i], text[i + 1 :]
    raise AssertionError(text)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulated")
    for path in (ROOT / "csrc/cuda").glob("*.cu"):
        (folder / f"{path.stem}.cpp").write_text('#include "emulate.h"\n' + as_calls(path.read_text()))
    includes = [
        f"-I{p}" for p in (HERE, ROOT / "csrc/cuda", CUDA, pybind11.get_include(), sysconfig.get_path("include"))
    ]
    sources = [*folder.glob("*.cpp"), HERE / "runtime.cpp", ROOT / "csrc/cuda/bindings.cpp"]
    library = folder / f"_emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [
        "c++",
        "-std=c++17",
        "-O1",
        "-w",
        "-fPIC",
        "-shared",
        "-DMMCL_SM90A",
        *includes,
        *map(str, sources),
        "-o",
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    spec = importlib.util.spec_from_file_location("_emulated", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cuda


@pytest.fixture(autouse=True)
def on_the_cpu(emulated, monkeypatch):
    """The cuda backend with the emulated kernels, on CPU tensors."""

    def launch(kernel, x, *args):
        assert kernel(*args, cuda_.DTYPES[x.dtype], 0) == 0

    monkeypatch.setattr(cuda_, "LIB", emulated)
    monkeypatch.setattr(cuda_, "_launch", launch)
    monkeypatch.setattr(cuda_, "_hopper", lambda index: 0)
    monkeypatch.setattr(choice, "_refusal", lambda name, device, index, dtype: "")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (9, 130, 40), (6, 1000, 72)])
@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none", "weighted": True}, {"label_smoothing": 0.1, "ignored": True}]
)
def test_loss(dtype, shape, options):
    check_loss("cuda", dtype, *shape, grads=("z", "weight", "logit_scale"), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_text_gradient_in_chunks(dtype, reduction, monkeypatch):
    monkeypatch.setattr(gpu, "TEXT_ROWS", 4)
    check_loss(
        "cuda",
        dtype,
        10,
        60,
        24,
        grads=("z", "text"),
        reduction=reduction,
        label_smoothing=0.1,
        weighted=True,
        ignored=True,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_column_chunks(dtype, scale, monkeypatch):
    monkeypatch.setattr(gpu, "CHUNK_BYTES", 1024)
    check_loss("cuda", dtype, 5, 1300, 16, scale=scale, spread=0.1, ignored=True)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 8), (70, 200, 72), (64, 64, 128), (3, 700, 200), (66, 130, 512), (2, 90, 264)]
)
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_one_pass(dtype, shape, scale, monkeypatch, emulated):
    calls = []
    monkeypatch.setattr(cuda_, "_hopper", lambda index: 3)
    before = cuda_.CudaBackend.one_pass
    monkeypatch.setattr(cuda_.CudaBackend, "one_pass", lambda *a: calls.append(1) or before(*a))
    check_loss("cuda", dtype, *shape, scale=scale, weighted=True, ignored=True, grads=("z", "logit_scale"))
    assert calls


@pytest.mark.parametrize("path", ["one pass", "chunks"])
@pytest.mark.parametrize("name", test_half.CHECKS)
def test_float16_and_nan(name, path, monkeypatch):
    monkeypatch.setattr(cuda_, "_hopper", lambda index: 3 if path == "one pass" else 0)
    test_half.CHECKS[name]("cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, None, 1, 1), (3, 8, 5, 1, 2), (20, 48, None, 5, 16), (9, 33, 77, 3, 7)])
def test_realign(dtype, shape):
    check_realign("cuda", dtype, *shape)


def test_a_whole_number_reaches_the_kernels_as_a_float(monkeypatch):
    """Triton would compile another kernel for an integer."""
    scales = []
    before = cuda_.CudaBackend.finish
    monkeypatch.setattr(
        cuda_.CudaBackend, "finish", lambda k, inputs, *a: scales.append(inputs.scale) or before(k, inputs, *a)
    )
    ops.alignment_loss(torch.randn(2, 8), torch.randn(3, 8), torch.arange(2), logit_scale=9, backend="cuda")
    assert scales == [9.0] and isinstance(scales[0], float)


def test_labels_out_of_range_are_nan():
    """On a GPU nothing checks labels before the kernels, because reading them would wait for the device."""
    labels = torch.tensor([0, 5, -1, 4])
    a = AlignmentArguments(torch.randn(4, 16), torch.randn(5, 16), labels, None, 10.0, 0.0, -100, "none", NEEDS_Z)
    assert cuda_.BACKEND.alignment_rows(a, None).loss.isnan().tolist() == [False, True, True, False]
