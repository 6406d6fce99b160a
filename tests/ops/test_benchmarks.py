"""The benchmarks compare equal work, survive every error of a rival, and keep every measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import cases, harness, ops, rivals
from mmcl_fast.ops import choice

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [n for n in rivals.LOSS if n not in (rivals.GEMMS, "torch.compile")])
def test_rivals_of_the_loss_compute_the_same(name):
    z, text, y, s = cases.LossCase(12, 30, 16, text=True).inputs("cpu", torch.float32)
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
    leaves, de = cases.RealignCase(9, 8, 12, 3, 2).inputs("cpu", torch.float32)
    grads = {}
    for name in ("loop", "concatenated", "cpp"):
        rivals.realign_makers(leaves, de)[name]()()
        grads[name] = [x.grad.clone() for x in leaves.values()]
    torch.testing.assert_close(grads["loop"], grads["concatenated"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads["loop"], grads["cpp"], rtol=1e-4, atol=1e-5)


def test_rounds_are_interleaved():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = harness.time_interleaved(runs, "cpu", seconds=0.0, least=4)
    assert order[4:] == ["a", "b"] * 4
    assert times["a"]["rounds"] == 4 and times["a"]["q10"] <= times["a"]["median"] <= times["a"]["q90"]


def test_peak_memory_sees_what_was_freed_again():
    def run() -> None:
        torch.ones(8 << 20).sum()

    assert 30 << 20 < harness.peak_memory(run, "cpu") < 200 << 20


def result(label: str, dtype: str = "bfloat16", **ms: float) -> dict:
    rows = {who: {"median": t} for who, t in ms.items()} | {"eager": {"median": 0.1}, "QuACK": {"why": "no"}}
    sizes = [4096, len(label) * 1000, 512]
    about = {"op": "alignment_loss", "device": "cuda", "dtype": dtype, "grads": "z", "sizes": sizes}
    return {"label": label, "capability": [9, 0], "rows": rows, **about}


def test_the_table_holds_every_measured_backend_and_a_new_measurement_replaces_the_old(tmp_path):
    table = tmp_path / "table.json"
    bench.merge_table(
        table, bench.backend_times([result("a", triton=1.0, cuda=2.0), result("bb", cuda=5.0), {"rows": {}}])
    )
    bench.merge_table(
        table, bench.backend_times([result("bb", cuda=4.0, triton=9.0), result("bb", "float16", cuda=3.0)])
    )
    rows = json.loads(table.read_text())["alignment_loss"]
    assert [(row["sizes"][1], row["dtype"], row["ms"]) for row in rows] == [
        (1000, "bfloat16", {"triton": 1.0, "cuda": 2.0}),
        (2000, "bfloat16", {"cuda": 4.0, "triton": 9.0}),
        (2000, "float16", {"cuda": 3.0}),
    ]
    assert all(row["device"] == "sm_90" and row["grads"] == "z" for row in rows)


def test_a_competitor_that_cannot_run_has_the_reason_in_its_cell():
    def raises(error: BaseException):
        def make():
            raise error

        return make

    calls = []

    def late():
        calls.append(1)
        if len(calls) > 3:
            raise ValueError("only while it is timed")

    makers = {
        "cpp": lambda: lambda: None,
        "absent": raises(rivals.CannotRun("not installed")),
        "ours": raises(choice.BackendError("backend 'cpp' cannot compute this")),
        "odd": raises(KeyError("anything")),
        "late": lambda: late,
        "lost": raises(AssertionError("must not be tried")),
    }
    rows = ops.measure(makers, "cpu", "cpp", 1e6, 0.5, 0.0, {"lost": "ended the process"})
    assert {who: row.get("why") for who, row in rows.items()} == {
        "cpp": None,
        "absent": "not installed",
        "ours": "BackendError: backend 'cpp' cannot compute this",
        "odd": "KeyError: 'anything'",
        "late": "ValueError: only while it is timed",
        "lost": "ended the process",
    }
    assert rows["cpp"]["ratio"] == 1 and rows["cpp"]["floor_share"] == pytest.approx(0.5 / rows["cpp"]["median"])


@pytest.mark.parametrize("op", ["alignment_loss", "realign"])
def test_the_cpu_backend_is_refused_for_tensors_of_a_gpu(op):
    """With fake CUDA tensors, as far as a machine without a GPU can go."""
    with torch._subclasses.fake_tensor.FakeTensorMode():
        z, text = (torch.empty(n, 16, dtype=torch.bfloat16, device="cuda") for n in (4, 9))
        with pytest.raises(rivals.CannotRun, match="computes on the CPU, and z is on cuda"):
            if op == "realign":
                rivals._our_realign("cpp", {"z": z}, z)
            else:
                rivals.LOSS["cpp"](z, text, torch.empty(4, dtype=torch.int64, device="cuda"), 10.0)


def test_a_gpu_that_a_rival_made_unusable_raises_device_lost(monkeypatch):
    def gone() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    with pytest.raises(ops.DeviceLost) as lost:
        ops.check_device("QuACK", "cuda", ValueError("bad launch"))
    assert lost.value.args == ("QuACK", "ValueError: bad launch")
    ops.check_device("QuACK", "cpu", ValueError("bad launch"))


def test_an_ended_process_is_followed_by_one_that_knows_what_ended_it(tmp_path):
    results = bench.Results(tmp_path, "ops", again=False)
    results.measured.append(result("done", cuda=1.0) | {"case": "c", "ours": "cuda"})
    results.measured[0]["rows"] = {}
    results.write(["done", "next"])
    assert "Not measured: next" in (tmp_path / "ops.md").read_text()
    results.mark_running("next", "QuACK")
    again = bench.Results(tmp_path, "ops", again=True)
    assert [info["label"] for info in again.measured] == ["done"]
    assert again.lost == {"next": {"QuACK": bench.ENDED_PROCESS}}


def test_the_supervisor_starts_again_until_the_worker_ends_by_itself(tmp_path):
    log = tmp_path / "log"
    script = f"""
import sys, os
with open({str(log)!r}, "a") as file: file.write(" ".join(sys.argv[1:]) + "\\n")
lines = open({str(log)!r}).readlines()
if len(lines) == 1: os.abort()
sys.exit(75 if len(lines) == 2 else 0)
"""
    assert bench.supervise([sys.executable, "-c", script], 100) == 0
    lines = log.read_text().splitlines()
    assert len(lines) == 3 and "--again" not in lines[0] and lines[1].endswith("--again")
    assert all(line.startswith("--limit ") for line in lines)


def test_the_most_important_cases_come_first_and_none_comes_twice():
    found = cases.gpu_cases()
    labels = [cases.label(case) for case in found]
    assert labels[0] == "alignment_loss 4096x131072x512 cuda bfloat16"
    for width in (512, 768, 1024):
        assert labels.index(f"alignment_loss 4096x131072x{width} cuda bfloat16") < 6
    assert len(set(labels)) == len(labels)


def test_selecting_cases_by_words():
    found = cases.cpu_cases()
    assert {case[0].name for case in cases.select_cases(found, "1024x1000 and float32")} == {"1024x1000x512"}
    names = [cases.label(case) for case in cases.select_cases(found, "not realign and bfloat16 or 256x100")]
    assert names and all("bfloat16" in name or "256x100" in name for name in names)
    assert cases.select_cases(found, "") == found and cases.select_cases(found, "nothing so") == []


def test_the_floor_is_arithmetic_and_bytes():
    case = cases.LossCase(4096, 131072, 512)
    assert case.flops == 4 * 4096 * 131072 * 512
    assert case.bytes(2) == 2 * (2 * 4096 * 512 + 131072 * 512) + 8 * 4096
    assert cases.LossCase(4096, 131072, 512, text=True).flops == 6 * 4096 * 131072 * 512
    rate = harness.product_rate("cpu", torch.float32)
    assert 1e8 < rate < 1e14 and 1e7 < harness.copy_rate("cpu") < 1e13


BARE = """
import runpy, sys
for name in ("pydantic", "rich", "av", "soundfile", "simplejpeg", "typer", "plotly", "tokenizers", "safetensors",
             "transformers", "pyarrow", "PIL", "pytest_benchmark"):
    sys.modules[name] = None
sys.argv = ["benchmarks", "--worker", "--select", "256x100 and float32", "--seconds", "0.01", "--out", "ops",
            "--folder", sys.argv[1], "--quiet"]
from benchmarks import rivals
rivals.LOSS.pop("torch.compile")  # takes most of the time
runpy.run_module("benchmarks", run_name="__main__")
"""


def test_the_benchmark_needs_torch_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "alignment_loss 256x100x512 cpu float32: floor" in done.stdout
    (info,) = json.loads((tmp_path / "ops.json").read_text())["results"]
    assert info["ours"] == "cpp" and info["rows"]["cpp"]["median"] > 0
    assert info["rows"]["QuACK"]["why"] == "needs a GPU"
    assert not (tmp_path / "ops.now").exists()
