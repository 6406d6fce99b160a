"""float16 loses neither small gradients of confident rows, nor long vectors, nor loss scales, nor NaN."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import ops

ROOT = Path(__file__).parents[2]


def confident(d: int, device: str) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return z, text, labels and a scale, with rows whose label has all the probability but about 1e-5."""
    g = torch.Generator().manual_seed(0)
    text = torch.randn(300, d, generator=g).half()
    labels = torch.randint(0, 300, (32,), generator=g)
    z = (text[labels].float() + torch.randn(32, d, generator=g)).half()
    return z.to(device), text.to(device), labels.to(device), {64: 30.0, 272: 22.0}[d]


def gradient_error(backend: str, device: str, d: int, leaf: str = "z") -> tuple[float, float]:
    """Return the median relative error of a gradient's rows under a loss scale of 2^14, and 1 - p of the median row."""
    z, text, labels, scale = confident(d, device)
    upstream = torch.full((len(z),), 2.0**14, device=device)

    def gradient(function, *tensors: Tensor) -> Tensor:
        leaves = [x.clone().requires_grad_() for x in tensors]
        function(*leaves).backward(upstream.to(torch.float64 if tensors[0].dtype == torch.float64 else torch.float32))
        return leaves[leaf == "text"].grad.double()

    def true(z: Tensor, text: Tensor) -> Tensor:
        return F.cross_entropy(scale * F.normalize(z, dim=1) @ F.normalize(text, dim=1).T, labels, reduction="none")

    def ours(z: Tensor, text: Tensor) -> Tensor:
        text = text if leaf == "text" else text.detach()
        return ops.alignment_loss(z, text, labels, logit_scale=scale, reduction="none", backend=backend)

    want, got = gradient(true, z.double(), text.double()), gradient(ours, z, text)
    large = want.norm(dim=1) > want.norm(dim=1).max() / 100
    error = ((got - want).norm(dim=1) / want.norm(dim=1))[large].median().item()
    return error, true(z.double(), text.double()).median().item()


def check_confident_rows(backend: str, device: str = "cpu") -> None:
    """Width 64 takes the GPU backends' one pass, width 272 their chunks; the text's gradient is checked too."""
    for d in (64, 272):
        error, doubt = gradient_error(backend, device, d)
        assert 1e-6 < doubt < 2e-4, doubt
        assert error < 5e-4, f"{backend}, width {d}: {error:.1e}"
    error, _ = gradient_error(backend, device, 64, "text")
    assert error < 2e-3, f"{backend}, texts: {error:.1e}"


def check_long_vectors(backend: str, device: str = "cpu") -> None:
    """The product of two rows of length 480 is beyond float16's largest number, 65504."""
    z, text, labels, _ = confident(272, device)
    long = [(30 * x.float()).half() for x in (z, text)]
    assert (long[0].float() @ long[1].float().T).abs().max() > 65504
    got, want = (ops.alignment_loss(a, b, labels, logit_scale=5.0, backend=backend) for a, b in (long, (z, text)))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def check_nan(backend: str, device: str = "cpu") -> None:
    """A NaN in z or in the label's text makes the row's loss NaN: it must not look like a perfect row."""
    for d in (64, 272):
        z, text, labels, _ = confident(d, device)
        z[1, 0] = float("nan")
        for dtype in (torch.float16, torch.float32):
            rows = ops.alignment_loss(
                z.to(dtype), text.to(dtype), labels, logit_scale=9.0, reduction="none", backend=backend
            )
            assert rows.isnan().nonzero().tolist() == [[1]], (backend, d, dtype)
        one = torch.full((1, d), float("nan"), device=device)
        rows = ops.alignment_loss(torch.ones_like(one), one, labels[:1] * 0, logit_scale=9.0, backend=backend)
        assert rows.isnan(), (backend, d)


CHECKS = {"confident rows": check_confident_rows, "long vectors": check_long_vectors, "NaN": check_nan}


@pytest.mark.parametrize("name", CHECKS)
def test_on_the_cpu(name):
    CHECKS[name]("cpp")


@pytest.mark.parametrize("name", CHECKS)
def test_triton_interpreted(name):
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from tests.ops import test_half as t; t.CHECKS[{name!r}]('triton')"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name, backend):
    CHECKS[name](backend, "cuda")
