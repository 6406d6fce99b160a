"""Damaged run folders: checkpoints of another run, broken checkpoints, a damaged log; and losses that are NaN."""

from __future__ import annotations

import json

import pytest
import torch

from mmcl_fast import atomic_files, runs
from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.methods.comm.realignment import Realigner
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.streams import Stream
from tests.runs.conftest import OPTIONS, KeptLines, bits
from tests.toy import ToyEncoder

# ---- other files than the run's own -----------------------------------------------------------------------------


def test_a_checkpoint_of_another_run_is_refused(config, tmp_path):
    runs.learn_stream(config("ridge", {}), tmp_path / "run")
    runs.learn_stream(config("ridge", {"penalty": 0.5}), tmp_path / "other")
    for name in ("task-003", "task-004"):
        checkpoint.remove(tmp_path / "run" / "checkpoints" / name)
    (tmp_path / "other" / "checkpoints" / "task-004").rename(tmp_path / "run" / "checkpoints" / "task-004")
    with pytest.raises(RunError, match='task-004: learned otherwise: options.penalty was 0.5, is "auto"'):
        runs.learn_stream(config("ridge", {}), tmp_path / "run", resume=True)


def test_broken_checkpoints_are_named_and_the_one_before_is_taken(config, tmp_path):
    display = KeptLines()
    runs.learn_stream(config(), tmp_path / "run")
    wanted = bits(tmp_path / "run")
    for name, change in (("task-004", lambda b: b[:-1]), ("task-003", lambda b: b[:99] + bytes([b[99] ^ 1]) + b[100:])):
        file = tmp_path / "run" / "checkpoints" / name / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))
    runs.learn_stream(config(), tmp_path / "run", resume=True, progress=display)
    passed = [line for line in display.lines if line.startswith("passed over: ")]
    assert len(passed) == 2 and "task-004" in passed[0] and "checksum" in passed[1]
    assert bits(tmp_path / "run") == wanted


def test_what_is_fixed_from_the_start_is_never_written_again(config, tmp_path):
    runs.learn_stream(config("ridge", {}), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json*")}
    environment = json.loads(before["environment.json"]) | {"threads": 999}
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment))
    display = KeptLines()
    runs.learn_stream(config("ridge", {}, workers=1), tmp_path / "run", resume=True, progress=display)
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json*")}
    assert after["config.json"] == before["config.json"] and json.loads(after["environment.json"])["threads"] == 999
    assert after["metrics.jsonl"].startswith(before["metrics.jsonl"])
    assert any("another threads than when the run began" in line for line in display.lines)
    added = after["metrics.jsonl"][len(before["metrics.jsonl"]) :].decode().splitlines()
    assert [json.loads(line)["event"] for line in added] == ["resume"]


# ---- numbers that are none --------------------------------------------------------------------------------------


def test_a_loss_of_nan_stops_before_it_is_kept(config, tmp_path, monkeypatch):
    real, calls = Realigner.train, []

    def train(self, memory, texts, modalities, gate_of, options, generator, **others):
        calls.append(1)
        if len(calls) == 3:
            options = options.model_copy(update={"realignment_scale": float("inf")})
        return real(self, memory, texts, modalities, gate_of, options, generator, **others)

    monkeypatch.setattr(Realigner, "train", train)
    with pytest.raises(
        RunError,
        match=r"task .*: re-alignment, step 1 of 20: the loss is nan; lower "
        r"method.options.realignment_lr \(now 0.001\) and start a new run",
    ):
        runs.learn_stream(config(checkpoint_every=1), tmp_path / "run")
    assert checkpoint.find_latest(tmp_path / "run").name == "task-002"
    assert len(Learner.load(tmp_path / "run", encoder=ToyEncoder()).tasks) == 2
    monkeypatch.setattr(Realigner, "train", real)
    runs.learn_stream(config(checkpoint_every=1), tmp_path / "run", resume=True)
    runs.learn_stream(config(), tmp_path / "unstopped")
    assert bits(tmp_path / "run") == bits(tmp_path / "unstopped")


def test_statistics_of_nan_are_not_kept_either(root):
    class Broken(ToyEncoder):
        def trunk(self, batch, modality):
            out = super().trunk(batch, modality)
            out.query[0, 0] = float("nan")
            return out

    stream = Stream.from_folder(root, classes_per_task=2)
    learner = Learner(Broken(), "ridge", device="cpu")
    with pytest.raises(RunError, match=f"task {stream[0].name}: gram is not finite after learning"):
        learner.learn(stream[0])
    assert learner.tasks == [] and learner.method.ridge.gram.isfinite().all()


# ---- the log and the files --------------------------------------------------------------------------------------


def test_a_damaged_line_of_metrics_is_refused_a_torn_last_one_is_not(config, tmp_path):
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    contents = file.read_bytes()
    file.write_bytes(contents.replace(b'"event"', b'"evnt"', 1))
    with pytest.raises(RunError, match=r"metrics.jsonl:1: no event of a run"):
        runs.learn_stream(config("zero_shot", {}), tmp_path / "run", resume=True)
    lines = contents.splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines) if b'"event": "task"' in line]
    file.write_bytes(b"".join(lines[: ends[0]] + lines[ends[1] + 1 :]))
    with pytest.raises(RunError, match="the row after task 1 is missing, but task 4 is learned"):
        runs.learn_stream(config("zero_shot", {}), tmp_path / "run", resume=True)
    file.write_bytes(b"".join(lines[: ends[2] + 1]) + lines[ends[2] + 1][:30])
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run", resume=True)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    wanted = [json.loads(line) for line in lines]
    assert [{k: v for k, v in e.items() if k != "seconds"} for e in events if e["event"] != "resume"] == [
        {k: v for k, v in e.items() if k != "seconds"} for e in wanted
    ]


def test_symmetric_matrices_are_halved_and_come_back_to_the_bit(tmp_path):
    x = torch.randn(40, 30, dtype=torch.float64)
    minus = torch.zeros(2, 2, dtype=torch.float64)
    minus[0, 1] = -0.0  # equal to its transpose as numbers, not as bits
    tensors = {
        "gram": gram_matrix(x),
        "cross": x.T.contiguous(),
        "square": x[:30].clone(),
        "minus": minus,
        "one": torch.ones(1, 1, dtype=torch.float64),
    }
    checkpoint.write(tmp_path / "a", tensors, {})
    read, values = checkpoint.read(tmp_path / "a", {})
    assert values == {} and json.loads((tmp_path / "a" / "state.json").read_text())["packed"] == {"gram": 30}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k].view(torch.int64), tensors[k].view(torch.int64)) for k in tensors)


@pytest.mark.parametrize("method", ["comm", "ridge", "ranpac", "dns"])
def test_gram_matrices_are_packed_where_a_product_is_symmetric_to_rounding_only(config, tmp_path, monkeypatch, method):
    """As on processors whose BLAS computes the two halves of X'X in different orders."""
    product = torch.Tensor.__matmul__

    def uneven(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out = product(a, b)
        if out.dtype == torch.float64 and out.dim() == 2:
            out = torch.where(torch.ones_like(out).tril(-1).bool(), out * (1 + 4e-16), out)
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", uneven)
    x = torch.randn(20, 20, dtype=torch.float64)
    assert not torch.equal(x.T @ x, (x.T @ x).T)
    options = OPTIONS if method == "comm" else {"epochs": 1} if method in ("ranpac", "dns") else {}
    runs.learn_stream(config(method, options), tmp_path / "run")
    folder = checkpoint.find_latest(tmp_path / "run")
    tensors, _ = checkpoint.read(folder)
    packed = json.loads((folder / "state.json").read_text())["packed"]
    square = {k for k, v in tensors.items() if v.dtype == torch.float64 and v.dim() == 2 and len({*v.shape}) == 1}
    assert square and {k for k in square if len(tensors[k]) > 1} == set(packed)


def test_more_than_999_tasks_are_found_in_order(tmp_path):
    for number in (2, 999, 1000, 10000):
        (tmp_path / "checkpoints" / f"task-{number:03d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".task-1001-x").mkdir()
    assert [number for number, _ in checkpoint.find_task_checkpoints(tmp_path)] == [2, 999, 1000, 10000]
    checkpoint.remove_temporary_folders(tmp_path)
    assert not (tmp_path / "checkpoints" / ".task-1001-x").exists()


def test_a_run_stopped_before_it_began_begins(config, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("process 1 on nowhere\n")
    (out / "config.json.part").write_text("{")
    runs.learn_stream(config("zero_shot", {}), out, resume=True)
    assert (out / "summary.json").is_file() and atomic_files.LOCK in {p.name for p in out.iterdir()}
