"""The CUDA kernels run on the CPU by an emulator (tests/ops/emulator.py), which knows no times."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast import ops
from mmcl_fast.ops import choice
from mmcl_fast.ops.arguments import NEEDS_Z, AlignmentArguments
from mmcl_fast.ops.backends import cuda as cuda_
from mmcl_fast.ops.backends import gpu
from tests.ops import test_half
from tests.ops.cases import check_loss, check_realign

pytest.importorskip("pybind11")
from tests.ops.emulator import CUDA, build_module

pytestmark = pytest.mark.skipif(CUDA is None, reason="needs the CUDA toolkit's headers")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALF = DTYPES[1:]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    return build_module(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(autouse=True)
def on_the_cpu(emulated, monkeypatch):
    """The cuda backend with the emulated kernels, on CPU tensors."""

    def launch(kernel, x, *args):
        assert kernel(*args, cuda_.DTYPES[x.dtype], 0) == 0

    monkeypatch.setattr(cuda_, "LIB", emulated.cuda)
    monkeypatch.setattr(cuda_, "_launch", launch)
    monkeypatch.setattr(cuda_, "is_hopper", lambda device: False)
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
    "shape",
    [
        (1, 1, 8),
        (70, 200, 72),
        (64, 64, 128),
        (3, 700, 200),
        (66, 130, 512),
        (2, 90, 264),
        (3, 300, 640),
        (66, 70, 1024),
    ],
)
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_one_pass(dtype, shape, scale, monkeypatch, emulated):
    calls = []
    monkeypatch.setattr(cuda_, "is_hopper", lambda device: True)
    before = cuda_.CudaBackend.one_pass
    monkeypatch.setattr(cuda_.CudaBackend, "one_pass", lambda *a: calls.append(1) or before(*a))
    check_loss("cuda", dtype, *shape, scale=scale, weighted=True, ignored=True, grads=("z", "logit_scale"))
    assert calls


@pytest.mark.parametrize("path", ["one pass", "chunks"])
@pytest.mark.parametrize("name", test_half.CHECKS)
def test_float16_and_nan(name, path, monkeypatch):
    monkeypatch.setattr(cuda_, "is_hopper", lambda device: path == "one pass")
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
