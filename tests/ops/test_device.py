"""The GPU backends make their tensors' device the current one, and time no configuration where waiting is forbidden."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast.ops.arguments import NEEDS_Z, AlignmentArguments, RealignArguments, RealignResult
from mmcl_fast.ops.backends import gpu


@pytest.fixture
def current(monkeypatch) -> list:
    """The devices that ``torch.cuda.device`` has made the current one, innermost last."""
    stack: list = []

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            stack.append(self.device)

        def __exit__(self, *_):
            stack.pop()

    monkeypatch.setattr(torch.cuda, "device", Device)
    return stack


class RecordingBackend(gpu.GpuBackend):
    """Kernels that only record the current device."""

    name = "recording"

    def __init__(self, stack: list) -> None:
        self.stack = stack
        self.devices: list[str] = []

    def record(self) -> None:
        self.devices.append(str(self.stack[-1]) if self.stack else "none")

    def row_norm(self, x):
        self.record()
        return x.new_empty(len(x), dtype=torch.float32)

    def one_pass_fits(self, z, text):
        return True

    def one_pass(self, inputs):
        self.record()
        z, statistics = inputs.z, inputs.inv_z.new_empty(1, len(inputs.z))
        return gpu.RowSums(z.new_empty(1, *z.shape), statistics, statistics, inputs.inv_z)

    def exp_rows(self, x, inputs, first, sums):
        raise AssertionError("one_pass takes every loss")

    def finish(self, inputs, sums, out):
        self.record()

    def shift_normalise(self, z, h, gate, up):
        self.record()
        return z.new_empty(z.shape), z.new_empty(len(z), dtype=torch.float32)

    def project(self, de, e, inv):
        self.record()
        return e.new_empty(e.shape)

    def gate_back(self, dh, h, gate):
        self.record()
        return dh.new_empty(dh.shape), gate.new_empty(gate.shape)


def test_the_tensors_gpu_is_the_current_one(current, monkeypatch):
    backend = RecordingBackend(current)
    monkeypatch.setattr(gpu, "unit_stride", lambda x: x)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):

        def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*shape, dtype=dtype, device="cuda:1")

        z, gate, down, up = made(4, 8), made(4, 2), made(2, 8, 3), made(2, 3, 8)
        with gpu.device_of(z):
            assert [str(d) for d in current] == ["cuda:1"]
        a = RealignArguments(z, gate, down, up, None)
        backend.realign(a)
        result = RealignResult(made(4, 8), made(4), made(4, 6))
        # z and gate alone, and a loss in one pass: the rest makes views that this build cannot fake.
        backend.realign_backward(result.e, result, a, 3)
        backend.alignment_rows(
            AlignmentArguments(z, made(5, 8), made(4, dtype=torch.int64), None, 9.0, 0.0, -100, "mean", NEEDS_Z), None
        )
    assert len(backend.devices) == 7 and set(backend.devices) == {"cuda:1"} and current == []


def test_tensors_of_the_cpu_need_no_device(current):
    with gpu.device_of(torch.empty(2)):
        assert current == []


class FakeEvent:
    """A stand-in for torch.cuda.Event; the fake launch advances ``now``."""

    now = 0.0

    def __init__(self, enable_timing: bool):
        self.at = 0.0

    def record(self) -> None:
        self.at = FakeEvent.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


CONFIGS = [({"BM": 64}, 4, 2), ({"BM": 128}, 8, 3), ({"BM": 256}, 8, 2)]


@pytest.fixture
def tuned(monkeypatch):
    """Return (run, capturing): the triton backend's ``_run`` with fake launches, and whether a graph is captured.

    Of the fake configurations BM = 128 is the fastest, and BM = 256 does not fit.
    """
    triton_ = pytest.importorskip("mmcl_fast.ops.backends.triton", reason="needs triton")
    launched: list[int] = []
    capturing = [False]

    def launch(BM: int, num_warps: int, num_stages: int) -> None:
        if BM == 256:
            raise triton_.OutOfResources(300, 200, "shared memory")
        launched.append(BM)
        FakeEvent.now += {64: 2.0, 128: 1.0}[BM]

    monkeypatch.setattr(triton_, "INTERPRETED", False)
    monkeypatch.setattr(triton_, "_CHOSEN", {})
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])

    def run(*key) -> list[int]:
        launched.clear()
        triton_._run(key, CONFIGS, launch)
        return list(launched)

    return run, capturing


def test_configurations_are_timed_once_for_a_key(tuned):
    run, _ = tuned
    assert len(run("one_pass", 64)) > 6
    assert run("one_pass", 64) == [128]
    assert len(run("one_pass", 128)) > 6


def test_nothing_is_timed_while_a_graph_is_captured(tuned):
    run, capturing = tuned
    capturing[0] = True
    assert run("one_pass", 64) == [64]
    capturing[0] = False
    assert len(run("one_pass", 64)) > 6  # the capture's configuration is not remembered
    capturing[0] = True
    assert run("one_pass", 64) == [128]


def test_deterministic_torch_takes_the_first_configuration(tuned):
    run, _ = tuned
    run("one_pass", 64)
    torch.use_deterministic_algorithms(True)
    try:
        assert run("one_pass", 64) == [64]
    finally:
        torch.use_deterministic_algorithms(False)
