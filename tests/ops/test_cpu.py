"""The `reference` and `cpp` backends against float64, over dtypes and shapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmcl_fast import ops
from mmcl_fast.ops.backends import cpp, cpp_realign
from tests.ops.cases import check_loss, check_realign, realign_inputs

BACKENDS = ["reference", "cpp"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (5, 1, 8), (33, 100, 64), (130, 1000, 96), (1100, 37, 16)])
@pytest.mark.parametrize("reduction", ["mean", "none", "sum"])
def test_loss(backend, dtype, shape, reduction):
    check_loss(backend, dtype, *shape, grads=("z", "weight", "logit_scale"), weighted=True, reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignored": True, "weighted": True}])
def test_text_gradient(backend, dtype, reduction, options):
    check_loss(
        backend, dtype, 130, 301, 64, grads=("z", "text", "weight", "logit_scale"), reduction=reduction, **options
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 39.0, 100.0, 300.0])
@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_temperatures(backend, dtype, scale, spread):
    check_loss(backend, dtype, 65, 500, 32, scale=scale, spread=spread, label_smoothing=0.05, ignored=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [20.0, 100.0])
@pytest.mark.parametrize("grads", [("z",), ("z", "text")])
def test_many_chunks(monkeypatch, dtype, scale, grads):
    monkeypatch.setattr(cpp, "CHUNK", 4096)
    monkeypatch.setattr(cpp, "ROWS", 24)
    monkeypatch.setattr(cpp, "FUSED_TEXT", 0)
    check_loss("cpp", dtype, 70, 1500, 24, scale=scale, grads=grads, weighted=True, ignored=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [(1, 1, None, 1, 1), (3, 8, 5, 1, 2), (200, 48, None, 5, 16), (70, 33, 77, 3, 7), (300, 64, 96, 2, 32)]
)
def test_realign(backend, dtype, shape):
    check_realign(backend, dtype, *shape)


@pytest.mark.parametrize("needed", [{"z"}, {"gate"}, {"down"}, {"up"}, {"source"}, {"down", "up"}, {"z", "gate"}])
@pytest.mark.parametrize("with_source", [True, False])
def test_realign_gives_only_what_is_asked(needed, with_source):
    if needed == {"source"} and not with_source:
        needed = {"z"}
    tensors = {k: v.float() for k, v in realign_inputs(40, 16, 24 if with_source else None, 3, 4).items()}
    grads = {}
    for backend in BACKENDS:
        leaves = {k: v.clone().requires_grad_(k in needed) for k, v in tensors.items()}
        out = ops.realign(**leaves, backend=backend)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
        assert {k for k, v in leaves.items() if v.grad is not None} == needed
        grads[backend] = [leaves[k].grad for k in sorted(needed)]
    for a, b in zip(grads["reference"], grads["cpp"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[1, 2])
def threads(request, monkeypatch):
    for module in (cpp, cpp_realign):
        monkeypatch.setattr(module, "threads_for", lambda _: request.param)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}])
@pytest.mark.parametrize("shape", [(300, 100, 400), (3, 50, 33), (65, 401, 17)])
def test_fused_loss_in_threads(threads, shape, options):
    check_loss("cpp", torch.float32, *shape, weighted=True, ignored=True, scale=60.0, **options)


@pytest.mark.parametrize("shape", [(900, 70, 430, 3, 17), (801, 50, None, 2, 20), (5, 100, None, 1, 3)])
def test_realign_in_threads(threads, shape):
    """More rows than a chunk, widths that no vector divides, more depth than a panel."""
    check_realign("cpp", torch.float32, *shape)


def test_fused_loss_keeps_its_gradient_for_a_second_backward():
    z, text, labels = torch.randn(9, 8, requires_grad=True), torch.randn(5, 8), torch.randint(0, 5, (9,))
    loss = ops.alignment_loss(z, text, labels, logit_scale=10.0, backend="cpp")
    once, twice = (torch.autograd.grad(loss, z, torch.tensor(g), retain_graph=True)[0] for g in (1.0, 3.0))
    torch.testing.assert_close(twice, 3 * once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # the fused kernel, and the row kernels
def test_registered_loss_refuses_labels_that_are_no_class(dtype):
    arguments = (
        torch.randn(2, 8, dtype=dtype),
        torch.randn(5, 8, dtype=dtype),
        torch.tensor([0, 5]),
        None,
        None,
        9.0,
        0.0,
        -100,
        "mean",
        1,
        "cpp",
    )
    with pytest.raises(ValueError, match="row 1 holds 5"):
        torch.ops.mmcl_fast.alignment_loss(*arguments)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_lesser_instruction_sets(isa):
    """In a process of its own: mmcl_fast._C reads MMCL_FAST_ISA once."""
    if ops.backends()["cpp"].built.count(isa) == 0:
        pytest.skip(f"not compiled for {isa}")
    script = """
import torch
from mmcl_fast import _C
from tests.ops.cases import check_loss, check_realign
for dtype in (torch.float32, torch.bfloat16):
    for scale in (20.0, 100.0):
        check_loss("cpp", dtype, 67, 301, 45, grads=("z", "text", "logit_scale"), scale=scale, label_smoothing=0.1,
                   weighted=True, ignored=True)
    check_realign("cpp", dtype, 70, 33, 77, 3, 7)
print(_C.cpu_isa())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MMCL_FAST_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == isa
