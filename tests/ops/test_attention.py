"""Attention over a prefix, against the definition in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.ops import attention
from mmcl_fast.ops.attention import measure_keys_and_values, prefix_attention

# (B, N, L, d, heads, whether the batch shares one prefix, whether there is a mask, causal)
CASES = {
    "per sample": (3, 11, 4, 24, 3, False, False, False),
    "shared, masked": (3, 11, 4, 24, 3, True, True, False),
    "no prefix, causal, masked": (2, 7, 0, 24, 3, False, True, True),
    "long, causal": (2, 130, 8, 64, 2, False, False, True),
    "one token": (1, 1, 3, 24, 3, False, False, False),
    "short prefix": (4, 50, 1, 32, 1, True, False, False),
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}  # of the largest entry


def attention_by_definition(q, k, v, heads, prefix, mask, causal):
    q, k, v = (x.double() for x in (q, k, v))
    length = 0
    if prefix is not None:
        length, before = prefix.shape[-2], prefix.double().expand(len(q), *prefix.shape[-3:])
        k, v = torch.cat([before[:, 0], k], 1), torch.cat([before[:, 1], v], 1)
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    seen = torch.ones(len(q), 1, q.shape[2], k.shape[2], dtype=torch.bool)
    if mask is not None:
        seen = seen & F.pad(mask, (length, 0), value=True)[:, None, None]
    if causal:
        seen = seen & torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(length)
    scores = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def inputs(case, dtype):
    batch, count, length, width, heads, shared, masked, causal = CASES[case]
    g = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(batch, count, width, generator=g).to(dtype) for _ in range(4))
    prefix = None
    if length:
        shape = (2, length, width) if shared else (batch, 2, length, width)
        prefix = torch.randn(shape, generator=g).requires_grad_()
    mask = None
    if masked:
        mask = torch.rand(batch, count, generator=g) < 0.7
        mask[:, 0] = True
    return q, k, v, grad, heads, prefix, mask, causal


def close(got, want, dtype):
    assert (got.double() - want).abs().max() <= TOLERANCE[dtype] * want.abs().max()


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "sdpa"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_definition_and_gradients(case, dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(attention, "_most_columns", lambda: 0)
    q, k, v, grad, heads, prefix, mask, causal = inputs(case, dtype)
    leaves = [x.requires_grad_() for x in (q, k, v)] + ([] if prefix is None else [prefix])
    out, want = (f(q, k, v, heads, prefix, mask, causal) for f in (prefix_attention, attention_by_definition))
    assert out.dtype == dtype
    close(out, want, dtype)
    for got, expected in zip(torch.autograd.grad(out, leaves, grad), torch.autograd.grad(want, leaves, grad.double())):
        close(got, expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][2]])
def test_only_the_prefix_needs_a_gradient(case, dtype):
    q, k, v, grad, heads, prefix, mask, causal = inputs(case, dtype)
    out, want = (f(q, k, v, heads, prefix, mask, causal) for f in (prefix_attention, attention_by_definition))
    close(*(torch.autograd.grad(o, prefix, g)[0] for o, g in ((out, grad), (want, grad.double()))), dtype)


def test_an_empty_prefix_is_none():
    q = torch.randn(2, 5, 8)
    assert torch.equal(prefix_attention(q, q, q, 2, torch.empty(2, 0, 8)), prefix_attention(q, q, q, 2))


@pytest.mark.parametrize("case", ["per sample", "no prefix, causal, masked"])
def test_sizes_of_keys_and_values_are_measured_inside_the_block_alone(case):
    q, k, v, _, heads, prefix, mask, causal = inputs(case, torch.float32)

    def attend(scale=1.0):
        return prefix_attention(q, scale * k, v, heads, prefix, mask, causal)

    with measure_keys_and_values() as sizes:
        plain = attend()
        attend(3.0)
        with measure_keys_and_values() as inner:
            attend()
    assert torch.equal(attend(), plain)
    want = torch.stack([x.square().mean().sqrt() for x in (k, v)])
    assert len(sizes) == 2 and len(inner) == 1  # without the prefix, and not what ran outside
    torch.testing.assert_close(sizes[0], want)
    torch.testing.assert_close(sizes[1], want * torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(inner[0], want)
