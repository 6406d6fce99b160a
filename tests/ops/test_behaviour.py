"""The operations apart from their numbers: refusals, edge cases, second derivatives, compilation, autocast."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mmcl_fast import ops
from mmcl_fast.errors import UserError
from mmcl_fast.ops import choice
from tests.ops.cases import eager_realign, loss_inputs, realign_inputs

BACKENDS = ["reference", "cpp"]
Z, TEXT, Y = torch.randn(4, 6), torch.randn(3, 6), torch.tensor([0, 2, 1, -100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.randn(4)}, r"z must have shape \[B, D\], got \[4\]"),
        ({"z": torch.randint(0, 3, (4, 6))}, "z must be a floating-point tensor"),
        ({"text": torch.randn(3, 5)}, r"text \[3, 5\] and z \[4, 6\] must have the same width"),
        ({"z": torch.randn(0, 6), "labels": Y[:0]}, r"z \[0, 6\] is an empty batch"),
        ({"text": torch.randn(0, 6)}, r"text \[0, 6\] has no classes"),
        ({"labels": Y[:3]}, r"labels must have shape \[B\] for z \[4, 6\], got \[3\]"),
        ({"labels": Y.float()}, "labels .* must be int64 or int32"),
        ({"labels": torch.tensor([0, 3, 1, 1])}, r"row 1 holds 3, but text \[3, 6\] has classes 0 to 2"),
        ({"labels": torch.tensor([0, 1, -1, 1])}, "row 2 holds -1"),
        ({"weight": torch.ones(3)}, r"weight \[3\] must have one number per row of z \[4, 6\]"),
        ({"weight": torch.tensor([1.0, -1, 1, 1])}, "weight .* must not hold negative numbers or NaN"),
        ({"weight": torch.tensor([1.0, float("nan"), 1, 1])}, "weight .* must not hold negative numbers or NaN"),
        ({"logit_scale": torch.ones(1)}, "logit_scale must be a float or a 0-d"),
        ({"logit_scale": 0.0}, "logit_scale must be positive"),
        ({"label_smoothing": 1.5}, "label_smoothing must lie in"),
        ({"reduction": "max"}, "reduction must be one of mean, sum, none"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_refuses(change, message, backend):
    arguments = {"z": Z, "text": TEXT, "labels": Y, "logit_scale": 10.0} | change
    with pytest.raises(ValueError, match=message):
        ops.alignment_loss(**arguments, backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.randn(4)}, r"z must have shape"),
        ({"gate": torch.randn(4, 3)}, r"gate \[4, 3\] must have one column per modality of down \[2, 6, 5\]"),
        ({"gate": torch.randn(3, 2)}, r"gate \[3, 2\] must have one row per row of z \[4, 6\]"),
        ({"up": torch.randn(2, 4, 6)}, r"up \[2, 4, 6\] and down \[2, 6, 5\] must agree in M and r"),
        ({"up": torch.randn(2, 5, 7)}, r"up \[2, 5, 7\] must end in the width of z \[4, 6\]"),
        ({"down": torch.randn(2, 7, 5)}, r"down \[2, 7, 5\] must have the width of z \(source is None\) \[4, 6\]"),
        ({"source": torch.randn(4, 9)}, r"down \[2, 6, 5\] must have the width of source \[4, 9\]"),
        ({"source": torch.randn(3, 6)}, r"source \[3, 6\] must have one row per row of z"),
        ({"z": torch.randn(0, 6), "gate": torch.randn(0, 2)}, "empty batch"),
    ],
)
def test_realign_refuses(change, message):
    arguments = {"z": Z, "gate": torch.randn(4, 2), "down": torch.randn(2, 6, 5), "up": torch.randn(2, 5, 6)} | change
    with pytest.raises(ValueError, match=message):
        ops.realign(**arguments)


def test_backends_are_refused_with_the_reason(monkeypatch):
    with pytest.raises(UserError, match="there is no backend 'fast': choose one of auto, reference, cpp, triton, cuda"):
        ops.alignment_loss(Z, TEXT, Y, logit_scale=1.0, backend="fast")
    with pytest.raises(UserError, match="'cpp' cannot compute alignment_loss here: it computes float32"):
        ops.alignment_loss(Z.double(), TEXT.double(), Y, logit_scale=1.0, backend="cpp")
    monkeypatch.setenv("MMCL_FAST_BACKEND", "cuda")
    with pytest.raises(UserError, match="'cuda' cannot compute"):
        ops.alignment_loss(Z, TEXT, Y, logit_scale=1.0)


def test_auto_on_the_cpu_is_cpp_and_the_reference_for_float64():
    assert choice.choose(choice.loss_problem(Z, TEXT, False), Z.device) == "cpp"
    assert choice.choose(choice.loss_problem(Z.double(), TEXT.double(), True), Z.device, "auto") == "reference"
    assert choice.choose(choice.realign_problem(Z, torch.randn(2, 6, 5)), Z.device) == "cpp"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["all ignored", "all weights zero"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_loss_without_rows_is_zero_not_nan(backend, case, reduction):
    leaves = [x.clone().requires_grad_() for x in (Z, TEXT, torch.tensor(10.0))]
    labels = torch.full((4,), -100) if case == "all ignored" else Y
    weight = torch.zeros(4) if case == "all weights zero" else None
    out = ops.alignment_loss(
        leaves[0], leaves[1], labels, weight=weight, logit_scale=leaves[2], reduction=reduction, backend=backend
    )
    out.sum().backward()
    assert (out == 0).all()
    assert all((x.grad == 0).all() for x in leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides(backend, dtype):
    tensors, labels = loss_inputs(40, 30, 16)
    z, text = tensors["z"].to(dtype), tensors["text"].to(dtype)
    plain = ops.alignment_loss(z, text, labels, logit_scale=20.0, backend=backend)
    wide = torch.randn(40, 50).to(dtype)
    wide[:, 5:21] = z
    for zz in (wide[:, 5:21], z.T.contiguous().T, z.repeat_interleave(2, 0)[::2]):
        leaf = zz.detach().requires_grad_()
        loss = ops.alignment_loss(leaf, text.T.contiguous().T, labels, logit_scale=20.0, backend=backend)
        torch.testing.assert_close(loss, plain)
        loss.backward()
        assert leaf.grad.isfinite().all()
    r = {k: v.to(dtype) for k, v in realign_inputs(10, 8, None, 3, 4).items()}
    strided = {k: v.transpose(-1, -2).contiguous().transpose(-1, -2) for k, v in r.items()}
    torch.testing.assert_close(ops.realign(**strided, backend=backend), ops.realign(**r, backend=backend))


def test_int32_labels_and_no_grad():
    with torch.no_grad():
        a, b = (ops.alignment_loss(Z, TEXT, y, logit_scale=5.0) for y in (Y, Y.int()))
    assert a == b and not a.requires_grad


def test_nan_in_a_row_is_seen():
    z = Z.clone()
    z[1, 0] = float("nan")
    for backend in BACKENDS:
        rows = ops.alignment_loss(z, TEXT, Y, logit_scale=5.0, reduction="none", backend=backend)
        assert rows.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reference_gradients(reduction):
    g = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(4, 6, generator=g).double(),
        torch.randn(5, 6, generator=g).double(),
        torch.rand(4, generator=g).double() + 0.1,
        torch.tensor(4.0).double(),
    ]
    for x in leaves:
        x.requires_grad_()
    labels = torch.tensor([0, 4, -100, 2])

    def loss(z, text, weight, scale):
        return ops.alignment_loss(
            z, text, labels, weight=weight, logit_scale=scale, label_smoothing=0.1, reduction=reduction
        )

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_reference_realign_gradients():
    leaves = [v.requires_grad_() for v in realign_inputs(3, 5, 7, 2, 2).values()]
    z, gate, down, up, source = leaves

    def run(z, gate, down, up, source):
        return ops.realign(z, gate, down, up, source=source)

    assert torch.autograd.gradcheck(run, (z, gate, down, up, source))
    torch.testing.assert_close(run(*leaves), eager_realign(z, gate, down, up, source=source))


def test_kernels_refuse_second_derivatives():
    z = Z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ops.alignment_loss(z, TEXT, Y, logit_scale=5.0, backend="cpp"), z, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck_loss(reduction):
    z, text, weight, scale = (x.clone().requires_grad_() for x in (Z, TEXT, torch.rand(4), torch.tensor(9.0)))
    for arguments in (
        (z, text, Y, weight, scale, 0.0, 0.1, -100, reduction, 15, "cpp"),
        (z, TEXT, Y, None, None, 9.0, 0.0, -100, reduction, 1, "cpp"),
    ):
        torch.library.opcheck(torch.ops.mmcl_fast.alignment_loss.default, arguments)


def test_opcheck_realign():
    for du in (None, 9):
        t = {k: v.float().requires_grad_() for k, v in realign_inputs(5, 6, du, 3, 2).items()}
        arguments = (t["z"], t["gate"], t["down"], t["up"], t.get("source"), "cpp")
        torch.library.opcheck(torch.ops.mmcl_fast.realign.default, arguments)


def test_compiles_as_one_graph():
    leaves = {k: v.float().requires_grad_() for k, v in realign_inputs(20, 8, None, 3, 4).items()}
    text, labels, weight = torch.randn(7, 8), torch.randint(0, 7, (20,)), torch.rand(20)

    def step(z, gate, down, up):
        return ops.realigned_alignment_loss(z, gate, down, up, text, labels, weight=weight, logit_scale=10.0)

    grads = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        loss = function(**leaves)
        grads.append([loss, *torch.autograd.grad(loss, list(leaves.values()))])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_computes_in_its_dtype(backend):
    z = Z.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.alignment_loss(z, TEXT, Y, logit_scale=5.0, backend=backend)
        assert ops.realign(Z, torch.randn(4, 2), torch.randn(2, 6, 3), torch.randn(2, 3, 6)).dtype == torch.bfloat16
    loss.backward()
    half = ops.alignment_loss(Z.bfloat16(), TEXT.bfloat16(), Y, logit_scale=5.0, backend=backend)
    assert loss == half and loss.dtype == torch.float32 and z.grad.dtype == torch.float32


def test_logits_are_never_all_in_memory():
    """The peak of torch's CPU allocations over one step stays far below one B x C array."""
    b, c, d = 1024, 20000, 16
    z, text, y = torch.randn(b, d, requires_grad=True), torch.randn(c, d), torch.randint(0, c, (b,))
    from torch.profiler import ProfilerActivity, profile

    def peak(backend: str) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
            ops.alignment_loss(z, text, y, logit_scale=20.0, backend=backend).backward()
        events = sorted(
            (e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
        )
        total = high = 0
        for e in events:
            total += e.nbytes()
            high = max(high, total)
        return high

    assert peak("reference") > 4 * b * c
    assert peak("cpp") < 4 * b * c / 4


def test_int64_offsets_in_the_fakes():
    """Tensors of more than 2^31 numbers pass through the fake operations, which need no memory."""
    with torch._subclasses.fake_tensor.FakeTensorMode():
        z = torch.empty(1 << 21, 2048, dtype=torch.bfloat16)
        out = torch.ops.mmcl_fast.alignment_loss(
            z,
            torch.empty(10, 2048, dtype=torch.bfloat16),
            torch.empty(1 << 21, dtype=torch.int64),
            None,
            None,
            10.0,
            0.0,
            -100,
            "mean",
            1,
            "cpp",
        )
    assert out[4].shape == z.shape and out[0].shape == ()


def test_offsets_past_2_31_in_the_row_kernels():
    """Two rows lie 2^31 numbers apart: 4 GB of addresses, but only two pages of memory."""
    from mmcl_fast._extension import compiled

    apart = (1 << 31) + 16
    base = torch.empty(apart + 64, dtype=torch.bfloat16)
    rows = base.as_strided((2, 64), (apart, 1)).copy_(torch.randn(2, 64))
    inv = torch.empty(2)
    compiled().row_norm(rows.data_ptr(), 0, inv.data_ptr(), apart, 0, 2, 64, 1, 1)
    torch.testing.assert_close(inv, 1 / rows.float().norm(dim=1))


def test_compiled_sizes_may_change():
    """Classes grow from task to task. The second call makes the sizes symbols, so the third needs no new graph."""
    graphs = []

    def count(graph, _examples):
        graphs.append(graph)
        return graph

    @partial(torch.compile, fullgraph=True, backend=count)
    def step(z, gate, down, up, text, labels):
        return ops.alignment_loss(ops.realign(z, gate, down, up), text, labels, logit_scale=10.0)

    torch._dynamo.reset()
    for rows, classes, modalities in ((8, 5, 2), (9, 7, 3), (11, 9, 4)):
        sizes = ((rows, 16), (rows, modalities), (modalities, 16, 4), (modalities, 4, 16), (classes, 16))
        leaves = [torch.randn(*size) for size in sizes]
        labels = torch.arange(rows) % classes
        want = ops.alignment_loss(ops.realign(*leaves[:4]), leaves[4], labels, logit_scale=10.0)
        torch.testing.assert_close(step(*leaves, labels), want)
    assert len(graphs) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_number_is_a_scale(backend):
    """Also with the gradient of the text's rows, which goes through the registered operation."""
    grads = []
    for scale in (9, 9.0):
        text = TEXT.clone().requires_grad_()
        ops.alignment_loss(Z, text, Y, logit_scale=scale, reduction="none", backend=backend).sum().backward()
        grads.append(text.grad)
    assert torch.equal(*grads)
