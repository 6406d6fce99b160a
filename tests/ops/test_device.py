"""Kernels run with their tensors' GPU as the current one, and no configuration is timed where that is forbidden."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

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


def backend(stack: list, seen: list) -> SimpleNamespace:
    """Kernels that only note the current device."""

    def note(*args):
        seen.append(str(stack[-1]) if stack else "none")

    def norm(x):
        note()
        return x.new_empty(len(x), dtype=torch.float32)

    def pair(*args):
        note()
        return args[0].new_empty(args[0].shape), args[0].new_empty(len(args[0]), dtype=torch.float32)

    return SimpleNamespace(
        row_norm=norm,
        one_pass_fits=lambda z, text: False,
        exp_rows=note,
        finish=note,
        shift_normalise=pair,
        project=lambda de, e, inv: pair(e)[0],
        gate_back=lambda d, h, gate, rank: (pair(d)[0], pair(gate)[0]),
    )


def test_the_tensors_gpu_is_the_current_one(current, monkeypatch):
    seen: list[str] = []
    k = backend(current, seen)
    monkeypatch.setattr(gpu, "unit_stride", lambda x: x)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):

        def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*shape, dtype=dtype, device="cuda:1")

        z, gate, down, up = made(4, 8), made(4, 2), made(2, 8, 3), made(2, 3, 8)
        with gpu.device_of(z):
            assert [str(d) for d in current] == ["cuda:1"]
        gpu.realign_forward(k, z, gate, down, up, None)
        e, inv, h = made(4, 8), made(4), made(4, 6)
        gpu.realign_backward(
            k, e, e, inv, h, z, gate, down, up, None, 3
        )  # others make views that this build cannot fake
    assert len(seen) >= 4 and set(seen) == {"cuda:1"} and current == []


def test_tensors_of_the_cpu_need_no_device(current):
    with gpu.device_of(torch.empty(2)):
        assert current == []


class Clock:
    """Stands for torch.cuda.Event; the launch says how long it takes."""

    now = 0.0

    def __init__(self, enable_timing: bool):
        self.at = 0.0

    def record(self) -> None:
        self.at = Clock.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Clock) -> float:
        return end.at - self.at


CONFIGS = [({"BM": 64}, 4, 2), ({"BM": 128}, 8, 3), ({"BM": 256}, 8, 2)]


@pytest.fixture
def tuned(monkeypatch):
    """Triton's driver with fake launches: BM = 128 is the fastest, BM = 256 does not fit; (run, capturing)."""
    triton_ = pytest.importorskip("mmcl_fast.ops.backends.triton", reason="needs triton")
    launched: list[int] = []
    capturing = [False]

    def launch(BM: int, num_warps: int, num_stages: int) -> None:
        if BM == 256:
            raise triton_.OutOfResources(300, 200, "shared memory")
        launched.append(BM)
        Clock.now += {64: 2.0, 128: 1.0}[BM]

    monkeypatch.setattr(triton_, "INTERPRETED", False)
    monkeypatch.setattr(triton_, "_CHOSEN", {})
    monkeypatch.setattr(torch.cuda, "Event", Clock)
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
    assert len(run("one_pass", 64)) > 6  # what the capture took is not remembered
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
