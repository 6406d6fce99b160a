"""The benchmarks compare like with like, and choose the table's backends from what they measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import cases, harness, rivals


@pytest.mark.parametrize("name", [n for n in rivals.LOSS if n not in (rivals.FLOOR, "torch.compile")])
def test_rivals_of_the_loss_compute_the_same(name):
    z, text, y, s = cases.Loss(12, 30, 16, text=True).inputs("cpu", torch.float32)
    try:
        run = rivals.LOSS[name](z, text, y, s)
    except rivals.CannotRun as why:
        assert str(why)
        pytest.skip(f"{name}: {why}")
    run()
    got = [z.grad.clone(), text.grad.clone()]
    rivals.eager(z, text, y, s)()
    torch.testing.assert_close(got, [z.grad, text.grad], rtol=1e-3, atol=1e-5)


def test_forms_of_realign_compute_the_same():
    leaves, de = cases.Realign(9, 8, 12, 3, 2).inputs("cpu", torch.float32)
    grads = {}
    for name in ("loop", "concatenated", "cpp"):
        rivals.realign_runs(leaves, de)[name]()()
        grads[name] = [x.grad.clone() for x in leaves.values()]
    torch.testing.assert_close(grads["loop"], grads["concatenated"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads["loop"], grads["cpp"], rtol=1e-4, atol=1e-5)


def test_rounds_are_interleaved():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = harness.interleaved(runs, "cpu", seconds=0.0, least=4)
    assert order[4:] == ["a", "b"] * 4
    assert times["a"]["rounds"] == 4 and times["a"]["q10"] <= times["a"]["median"] <= times["a"]["q90"]


def test_peak_memory_sees_what_was_freed_again():
    def run() -> None:
        torch.ones(8 << 20).sum()

    assert 30 << 20 < harness.peak_memory(run, "cpu") < 200 << 20


def test_table_takes_the_fastest_of_ours_by_size():
    def result(size: int, **ms: float) -> dict:
        rows = {who: {"median": t} for who, t in ms.items()} | {"eager": {"median": 0.1}, "QuACK": {"why": "no"}}
        return {"op": "alignment_loss", "device": "cuda", "dtype": "bfloat16", "size": size, "rows": rows}

    made = bench.choices(
        [
            result(100, triton=1.0, cuda=2.0),
            result(1000, triton=1.0, cuda=2.0),
            result(1000, triton=4.0, cuda=1.0),
            result(50000, triton=9.0, cuda=3.0),
        ]
    )
    assert made == {
        "alignment_loss": {"cuda/bfloat16": [{"up_to": 100, "backend": "triton"}, {"up_to": None, "backend": "cuda"}]}
    }
