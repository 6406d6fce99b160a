"""Every backend implements the protocol, and the reference's formulas of gradients agree with autograd."""

from __future__ import annotations

import inspect

import pytest
import torch

from mmcl_fast.ops import choice
from mmcl_fast.ops.arguments import NEEDS_SCALE, NEEDS_TEXT, NEEDS_WEIGHT, NEEDS_Z, AlignmentArguments, RealignArguments
from mmcl_fast.ops.backends import reference
from mmcl_fast.ops.backends.protocol import Backend
from tests.ops.cases import realign_inputs

ALL = NEEDS_Z | NEEDS_TEXT | NEEDS_SCALE | NEEDS_WEIGHT


@pytest.mark.parametrize("name", choice.NAMES)
def test_a_backend_has_the_methods_of_the_protocol_with_their_parameters(name):
    if name == "triton":
        pytest.importorskip("triton")
    backend = choice.load_backend(name)
    assert backend.name == name
    for method in ("alignment_loss", "fuses", "loss_and_dz", "realign", "realign_backward"):
        wanted = list(inspect.signature(getattr(Backend, method)).parameters)[1:]
        assert list(inspect.signature(getattr(backend, method)).parameters) == wanted, method


def test_only_the_cpp_backend_fuses_and_the_others_say_so():
    z, text, labels = torch.randn(4, 8), torch.randn(5, 8), torch.arange(4)
    assert choice.load_backend("cpp").fuses(z, text, labels)
    backend = choice.load_backend("reference")
    assert not backend.fuses(z, text, labels)
    with pytest.raises(NotImplementedError, match="'reference' has no kernel for the whole loss"):
        backend.loss_and_dz(AlignmentArguments(z, text, labels, None, 9.0, 0.0, -100, "mean", NEEDS_Z))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_registered_reference_has_the_gradients_of_autograd(reduction, smoothing):
    g = torch.Generator().manual_seed(0)
    z, text = (torch.randn(n, 6, generator=g).double().requires_grad_() for n in (7, 5))
    weight = (torch.rand(7, generator=g).double() + 0.1).requires_grad_()
    scale = torch.tensor(9.0).double().requires_grad_()
    leaves = [z, text, weight, scale]
    labels = torch.tensor([0, 4, -100, 2, 1, 1, 3])
    a = AlignmentArguments(z, text, labels, weight, scale, smoothing, -100, reduction, ALL)
    want = reference.alignment_loss(a)
    got = torch.ops.mmcl_fast.alignment_loss(*a.flat(), "reference")[0]
    torch.testing.assert_close(got, want)
    upstream = torch.randn(want.shape, generator=g).double()
    for x, y in zip(torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(want, leaves, upstream)):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("source_width", [None, 9])
def test_registered_realign_reference_has_the_gradients_of_autograd(source_width):
    tensors = {k: v.requires_grad_() for k, v in realign_inputs(5, 6, source_width, 3, 2).items()}
    a = RealignArguments(**{"source": None} | tensors)
    want = reference.realign(a)
    got = torch.ops.mmcl_fast.realign(*a, "reference")[0]
    torch.testing.assert_close(got, want)
    leaves = list(tensors.values())
    upstream = torch.randn(want.shape).double()
    for x, y in zip(torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(want, leaves, upstream)):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck_of_the_reference(dtype):
    z, text = (torch.randn(n, 6).to(dtype).requires_grad_() for n in (4, 3))
    a = AlignmentArguments(z, text, torch.tensor([0, 2, 1, -100]), None, 9.0, 0.1, -100, "mean", NEEDS_Z | NEEDS_TEXT)
    torch.library.opcheck(torch.ops.mmcl_fast.alignment_loss.default, (*a.flat(), "reference"))


@pytest.mark.parametrize("scale", [20.0, torch.tensor(20.0)])
def test_flat_arguments_become_the_same_record(scale):
    z, text, labels = torch.randn(4, 6), torch.randn(3, 6), torch.arange(4) % 3
    a = AlignmentArguments(z, text, labels, None, scale, 0.1, -100, "sum", NEEDS_Z)
    flat = a.flat()
    assert len(flat) == len(a) + 1
    assert all(x is y or x == y for x, y in zip(AlignmentArguments.from_flat(*flat), a, strict=True))
