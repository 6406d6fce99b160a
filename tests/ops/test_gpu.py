"""The GPU backends on a GPU, run by `pytest -m gpu`: numbers, graphs, streams, devices, large sizes."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast import ops
from tests.ops.cases import check_loss, check_realign, loss_inputs, realign_inputs

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)
BACKENDS = [name for name in ("triton", "cuda") if ops.backends()[name].available]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ALL = ("z", "text", "weight", "logit_scale")


@pytest.fixture(autouse=True)
def exact_products():
    """Forbid TF32 in torch's products, which the results are compared with."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_both_backends_are_available():
    assert BACKENDS == ["triton", "cuda"], ops.backends()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (1, 7, 5),
        (33, 100, 64),
        (130, 1000, 256),
        (257, 3001, 512),
        (200, 5000, 640),
        (100, 40000, 768),
        (130, 9000, 1024),
        (40, 3000, 1152),
        (70000, 130, 512),
    ],
)
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_loss(backend, dtype, shape, scale):
    check_loss(
        backend,
        dtype,
        *shape,
        scale=scale,
        weighted=True,
        ignored=True,
        grads=("z", "weight", "logit_scale"),
        device="cuda",
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_text_gradient(backend, dtype, reduction, smoothing):
    check_loss(
        backend,
        dtype,
        300,
        1111,
        200,
        grads=ALL,
        weighted=True,
        ignored=True,
        reduction=reduction,
        label_smoothing=smoothing,
        device="cuda",
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [(1, 1, None, 1, 1), (200, 48, None, 5, 16), (70, 33, 77, 3, 7), (1000, 512, 1664, 5, 64)]
)
def test_realign(backend, dtype, shape):
    check_realign(backend, dtype, *shape, device="cuda")


def step(backend: str, device: str = "cuda"):
    """Return a function of realigned embeddings' loss, and its leaves."""
    t = {k: v.to(device, torch.bfloat16).requires_grad_() for k, v in realign_inputs(64, 128, None, 3, 16).items()}
    inputs, labels = loss_inputs(64, 500, 128)
    text, labels = inputs["text"].to(device, torch.bfloat16), labels.to(device)

    def run(z, gate, down, up):
        return ops.realigned_alignment_loss(z, gate, down, up, text, labels, logit_scale=50.0, backend=backend)

    return run, t


def gradients(run, leaves: dict) -> list[torch.Tensor]:
    loss = run(*leaves.values())
    return [loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile(backend):
    run, leaves = step(backend)
    for a, b in zip(gradients(torch.compile(run, fullgraph=True), leaves), gradients(run, leaves), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cuda_graph(backend):
    run, leaves = step(backend)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradients(run, leaves)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(run, leaves)
    with torch.no_grad():
        leaves["z"].copy_(torch.randn_like(leaves["z"]))
    graph.replay()
    for a, b in zip(captured, gradients(run, leaves), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_streams(backend):
    run, leaves = step(backend)
    want = gradients(run, leaves)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    got = []
    for k in range(10):
        with torch.cuda.stream(streams[k % 2]):
            got.append(gradients(run, leaves))
    torch.cuda.synchronize()
    for other in got:
        for a, b in zip(other, want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
@pytest.mark.parametrize("backend", BACKENDS)
def test_second_device(backend):
    first, second = (gradients(*step(backend, f"cuda:{k}")) for k in range(2))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b.to(a.device))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scale_on_the_cpu(backend):
    """A 0-d tensor on the CPU is accepted, as by torch's operations; its gradient is on the CPU."""
    inputs, labels = loss_inputs(33, 70, 64)
    z, text = (x.to("cuda", torch.bfloat16) for x in inputs.values())
    scale = torch.tensor(9.0, requires_grad=True)
    loss = ops.alignment_loss(z, text, labels.cuda(), logit_scale=scale, backend=backend)
    torch.testing.assert_close(loss, ops.alignment_loss(z, text, labels.cuda(), logit_scale=9.0, backend=backend))
    loss.backward()
    assert scale.grad.device.type == "cpu" and scale.grad.isfinite()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [256, 512, 1024])
def test_the_largest_shape_of_the_benchmark(backend, width):
    g = torch.Generator("cuda").manual_seed(0)
    text = torch.randn(131072, width, generator=g, device="cuda", dtype=torch.bfloat16)
    labels = torch.randint(0, len(text), (4096,), generator=g, device="cuda")
    z = torch.randn(4096, width, generator=g, device="cuda", dtype=torch.bfloat16) + text[labels]
    rows = torch.tensor([0, 1, 63, 64, 2047, 4095], device="cuda")
    got, want = [], []
    for out, u, y, name in ((got, z, labels, backend), (want, z[rows].double(), labels[rows], "reference")):
        u = u.detach().requires_grad_()
        t = text if name == backend else text.double()
        loss = ops.alignment_loss(u, t, y, logit_scale=20.0, reduction="none", backend=name)
        loss.sum().backward()
        out += [loss.detach().double(), u.grad.double()]
    for a, b in zip((x[rows] for x in got), want, strict=True):
        assert (a - b).abs().max() <= 0.03 * b.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_out_of_range_are_nan(backend):
    z, text = torch.randn(4, 16, device="cuda").half(), torch.randn(5, 16, device="cuda").half()
    labels = torch.tensor([0, 5, -1, 4], device="cuda")
    rows = ops.alignment_loss(z, text, labels, logit_scale=10.0, reduction="none", backend=backend)
    assert rows.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("need", [1, 15])
def test_opcheck(backend, need):
    z, text = (torch.randn(n, 32, device="cuda").requires_grad_(need == 15 or n == 6) for n in (6, 9))
    weight, scale = torch.rand(6, device="cuda"), torch.tensor(9.0, device="cuda")
    if need == 15:
        weight.requires_grad_(), scale.requires_grad_()
    labels = torch.randint(0, 9, (6,), device="cuda")
    torch.library.opcheck(
        torch.ops.mmcl_fast.alignment_loss.default,
        (z, text, labels, weight, scale, 0.0, 0.1, -100, "mean", need, backend),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_past_2_31(backend):
    b, d = (1 << 31) // 1024 + 8, 1024
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GB of free memory")
    z = torch.randn(b, d, device="cuda", dtype=torch.bfloat16)
    text = torch.randn(4, d, device="cuda", dtype=torch.bfloat16)
    labels = torch.zeros(b, dtype=torch.int64, device="cuda")
    rows = ops.alignment_loss(z, text, labels, logit_scale=10.0, reduction="none", backend=backend)
    last = ops.alignment_loss(z[-8:], text, labels[-8:], logit_scale=10.0, reduction="none", backend="reference")
    torch.testing.assert_close(rows[-8:], last, rtol=0.05, atol=0.05)
