"""The backend that `auto` takes on each kind of GPU; the GPUs are faked by their compute capability."""

from __future__ import annotations

import json

import pytest
import torch

from mmcl_fast.ops import choice, cost_model
from mmcl_fast.ops.cost_model import LossShape, RealignShape

GPU = torch.device("cuda", 0)
BF16, HALF, FLOAT = torch.bfloat16, torch.float16, torch.float32
ARCHS = ["80", "90a", "100", "120", "80+PTX", "120+PTX"]


def clear_caches() -> None:
    for function in (choice._extension, choice._no_gpu, choice.capability, choice._available, choice._refusal):
        function.cache_clear()
    choice._table.cache_clear(), choice._best.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Return ``make((9, 0), ...)``, which fakes GPUs of these capabilities.

    The extension has code for ``archs``, and Triton is installed or not.
    """

    def make(*capabilities: tuple[int, int], archs: list[str] = ARCHS, triton: bool = True) -> None:
        info = {"cuda": {"nvcc": "13.0", "archs": archs}, "compiler": "c++", "isas": ["generic"], "isa": "generic"}
        state = choice.Availability(triton, "" if triton else "triton is not installed", "")
        monkeypatch.setattr(choice, "_extension", lambda: (info, ""))
        monkeypatch.setattr(choice, "_no_gpu", lambda: "")
        monkeypatch.setattr(choice, "capability", lambda index: capabilities[index or 0])
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        if not triton:
            monkeypatch.setattr(choice, "_triton", lambda: state)
        choice._available.cache_clear(), choice._refusal.cache_clear(), choice._best.cache_clear()

    monkeypatch.delenv("MMCL_FAST_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    pytest.importorskip("triton")
    yield make
    monkeypatch.undo()
    clear_caches()


@pytest.mark.parametrize(
    ("number", "problem", "backend", "name"),
    [
        ((9, 0), LossShape(4096, 131072, 512, BF16), "cuda", "cuda, one pass"),
        ((9, 0), LossShape(4096, 131072, 512, HALF), "cuda", "cuda, one pass"),
        ((9, 0), LossShape(256, 100, 512, BF16), "cuda", "cuda, one pass"),
        ((9, 0), LossShape(4096, 131072, 1024, BF16), "cuda", "cuda, one pass"),
        ((9, 0), LossShape(4096, 131072, 1152, BF16), "cuda", "cuda, chunks"),  # too wide for the registers
        ((9, 0), LossShape(4096, 131072, 510, BF16), "cuda", "cuda, chunks"),  # no multiple of 16 bytes
        ((9, 0), LossShape(4096, 131072, 256, BF16, aligned=False), "triton", "triton, one pass"),
        ((9, 0), LossShape(4096, 131072, 512, BF16, text_gradient=True), "cuda", "cuda, chunks"),
        ((9, 0), LossShape(4096, 131072, 512, FLOAT), "cuda", "cuda, chunks"),
        ((8, 0), LossShape(4096, 131072, 512, BF16), "cuda", "cuda, chunks"),  # Hopper's kernel is not for Ampere
        ((8, 9), LossShape(4096, 131072, 128, BF16), "triton", "triton, one pass"),
        ((10, 0), LossShape(4096, 131072, 256, BF16), "triton", "triton, one pass"),
        ((10, 0), LossShape(4096, 131072, 512, BF16), "cuda", "cuda, chunks"),
        ((9, 0), RealignShape(65536, 512, 512, 5, 16, BF16), "triton", "triton"),
        # The launches on the host cost more than the work on the GPU.
        ((9, 0), RealignShape(256, 512, 512, 5, 16, BF16), "cuda", "cuda"),
    ],
)
def test_the_model_chooses(machine, number, problem, backend, name):
    machine(number)
    assert choice.explain(problem, GPU) == choice.Choice(backend, "model")
    assert cost_model.plan(backend, problem, number).name == name


def test_without_code_for_the_gpu_triton_computes_and_the_refusal_says_why(machine):
    machine((9, 0), archs=["80"])
    assert choice.explain(LossShape(4096, 131072, 512, BF16), GPU) == choice.Choice("triton", "no other backend")
    assert not choice.backends()["cuda"].available
    with pytest.raises(choice.BackendError, match=r"this GPU is sm_90 .* holds code for 80: .*MMCL_FAST_CUDA_ARCHS"):
        choice.choose(LossShape(4, 4, 4, BF16), GPU, "cuda")


def test_turing_is_refused_in_words(machine):
    machine((7, 5))
    assert choice.explain(LossShape(64, 64, 64, HALF), GPU) == choice.Choice("reference", "no other backend")
    for name in ("triton", "cuda"):
        with pytest.raises(choice.BackendError, match=f"sm_75: the {name} kernels need sm_80 or newer"):
            choice.choose(LossShape(64, 64, 64, HALF), GPU, name)


def test_each_gpu_of_a_machine_is_judged_by_itself(machine):
    machine((7, 5), (9, 0))
    problem = LossShape(4096, 131072, 512, BF16)
    assert choice.choose(problem, torch.device("cuda", 1)) == "cuda"
    assert choice.choose(problem, torch.device("cuda", 0)) == "reference"
    assert choice.backends()["cuda"].available


@pytest.mark.parametrize(
    ("archs", "number", "served"),
    [
        (ARCHS, (8, 0), True),
        (ARCHS, (8, 6), True),
        (ARCHS, (8, 9), True),
        (ARCHS, (9, 0), True),
        (ARCHS, (10, 3), True),
        (ARCHS, (11, 0), True),  # PTX of sm_80
        (ARCHS, (12, 1), True),
        (ARCHS, (13, 0), True),
        (["80", "90a", "100", "120", "120+PTX"], (11, 0), False),
        (["90a"], (10, 0), False),
        (["90a"], (9, 0), True),
        (["89"], (8, 6), False),
        (["100f"], (10, 0), True),
    ],
)
def test_which_gpus_the_code_runs_on(archs, number, served):
    assert (choice.unserved("cuda", archs, number) == "") == served


def test_a_measurement_overrides_the_model_near_its_own_sizes_alone(machine, tmp_path, monkeypatch):
    problem = LossShape(4096, 131072, 512, BF16)
    row = choice.key(problem, "sm_90") | {"ms": {"cuda": 3.0, "triton": 2.0}}
    far = choice.key(LossShape(4096, 4000, 512, BF16), "sm_90") | {"ms": {"cuda": 1.0, "triton": 2.0}}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"alignment_loss": [far, row], "realign": []}))
    monkeypatch.setenv("MMCL_FAST_TABLE", str(table))
    choice._table.cache_clear()
    machine((9, 0))
    assert choice.explain(problem, GPU) == choice.Choice("triton", "measured")
    assert choice.explain(LossShape(3000, 100000, 512, BF16), GPU) == choice.Choice("triton", "measured")
    assert choice.explain(LossShape(4096, 5000, 512, BF16), GPU) == choice.Choice("cuda", "measured")
    for other in (
        LossShape(4096, 131072, 128, BF16),  # four times narrower
        LossShape(4096, 131072, 512, HALF),
        LossShape(4096, 131072, 512, BF16, text_gradient=True),
        LossShape(512, 131072, 512, BF16),
    ):
        assert choice.explain(other, GPU) == choice.Choice("cuda", "model")
    machine((8, 0))
    assert choice.explain(problem, GPU).by == "model"
    machine((9, 0), archs=["80"])
    assert choice.explain(problem, GPU).by == "no other backend"


def test_the_shipped_table_holds_rows_that_can_be_found():
    shipped = json.loads(choice.TABLE.read_text())
    assert set(shipped) == {"alignment_loss", "realign"}
    for rows in shipped.values():
        assert all(set(row) == {"device", "dtype", "grads", "sizes", "ms"} for row in rows)


def test_strides_and_offsets_decide_what_is_aligned():
    z = torch.empty(4, 520, dtype=BF16)
    assert choice._aligned(z[:, :512]) and choice._aligned(z[:, 8:])
    assert not choice._aligned(z[:, 1:513])
    assert not choice._aligned(torch.empty(4, 515, dtype=BF16)[:, :512])
    assert not choice._aligned(z.T)
    with torch._subclasses.fake_tensor.FakeTensorMode():  # has no address
        z, text = (torch.empty(n, 512, dtype=BF16, device="cuda") for n in (4, 9))
        assert choice.loss_problem(z, text, True) == LossShape(4, 9, 512, BF16, True, True)


def test_a_compiled_graph_leaves_the_choice_to_each_call(machine, monkeypatch):
    machine((9, 0))
    assert choice.traced("alignment_loss", "cuda", 0, BF16, None) == "auto"
    assert choice.traced("alignment_loss", "cuda", 0, torch.float64, None) == "reference"
    assert choice.traced("alignment_loss", "cuda", 0, BF16, "triton") == "triton"
    machine((7, 5))
    assert choice.traced("alignment_loss", "cuda", 0, BF16, None) == "reference"


def test_more_arithmetic_or_bytes_never_cost_less():
    for number in cost_model.RATES:
        for backend in ("cuda", "triton"):
            shapes = [LossShape(4096, classes, 256, BF16) for classes in (1000, 10000, 100000, 1000000)]
            times = [cost_model.seconds(backend, shape, number) for shape in shapes]
            assert times == sorted(times)
            floor = 4 * 4096 * 1000000 * 256 / cost_model.rates(number).half
            assert times[-1] > floor


def test_the_doctor_says_what_auto_takes_on_each_gpu(machine, monkeypatch):
    from mmcl_fast.doctor.package import check_backend_choices

    assert list(check_backend_choices()) == [] or torch.cuda.is_available()
    machine((8, 0), (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    first, second = check_backend_choices()
    assert first.name == "auto on cuda:0" and "4096 x 131072 x 512: cuda (model)" in first.about
    assert second.name == "auto on cuda:1" and "256 x 100 x 512: cuda (model)" in second.about
    machine((7, 5))
    (old,) = check_backend_choices()
    assert "4096 x 131072 x 512: reference (no other backend)" in old.about
