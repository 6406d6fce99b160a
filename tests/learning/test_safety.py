"""What can go wrong around a run: signals, a full disk, two processes, a folder without permission, a loss of NaN."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmcl_fast import cli
from mmcl_fast.config import build
from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner, checkpoint, files, learner, log, run
from mmcl_fast.learning.journal import Journal
from mmcl_fast.methods.realignment import Realigner
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"epochs": 2, "steps": 20, "draws": 64, "batch_size": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("safety") / "data", modalities=("image", "text"))


@pytest.fixture
def config(root, monkeypatch):
    monkeypatch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())

    def make(method="comm", options=OPTIONS, **train):
        return build(
            {
                "stream": {"source": "folder", "path": str(root), "classes_per_task": 2, "order": "random"},
                "method": {"name": method, "options": options},
                "train": {"device": "cpu", **train},
            }
        )

    return make


def bits(out: Path) -> dict[str, bytes]:
    tensors, _ = checkpoint.read(checkpoint.latest(out))
    return {k: v.contiguous().view(torch.uint8).numpy().tobytes() for k, v in tensors.items()}


# ---- signals ----------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from mmcl_fast import cli
from mmcl_fast.learning import journal, learner
from tests.toy import ToyEncoder
learner.load_encoder = lambda name, **options: ToyEncoder()
real, signals, at = journal.Journal.step, sys.argv[1].split(","), int(sys.argv[2])
def step(self, loop, state):
    if self.steps + 1 == at:
        for name in signals:
            os.kill(os.getpid(), getattr(signal, name))
    real(self, loop, state)
journal.Journal.step = step
cli.app(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("signals", "code", "kept"), [("SIGTERM", 143, 11), ("SIGINT", 130, 11), ("SIGINT,SIGINT", 130, 10)]
)
def test_a_signal_ends_the_step_keeps_it_and_says_how_to_go_on(config, root, tmp_path, signals, code, kept):
    file = tmp_path / "mine.toml"
    options = "\n".join(f"{k} = {v}" for k, v in OPTIONS.items())
    file.write_text(
        f'[stream]\nsource = "folder"\npath = "{root}"\nclasses_per_task = 2\norder = "random"\n'
        f'[method.options]\n{options}\n[train]\ndevice = "cpu"\ncheckpoint_every = 5\n'
    )
    words = [sys.executable, "-c", PROGRAM, signals, "11", "train", str(file), "--out", str(tmp_path / "run"), "-q"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip() == f"stopped: go on with: mmcl-fast train --resume {tmp_path / 'run'}"
    inside = checkpoint.inside(tmp_path / "run", 1)
    assert checkpoint.read(inside[-1][1], {})[1]["steps"] == kept
    if signals == "SIGTERM":
        result = CliRunner().invoke(cli.app, ["train", "--resume", str(tmp_path / "run"), "-q"])
        assert result.exit_code == 0, result.output
        run.train(config(checkpoint_every=5), tmp_path / "whole")
        assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_outside_a_loop_a_signal_stops_at_once_and_handlers_come_back(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    journal, before = Journal(tmp_path, every=1), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, journal.signals():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert stop.value.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    journal, done = Journal(tmp_path, every=1), []
    with pytest.raises(KeyboardInterrupt), journal.signals(), journal.finishing():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("written whole")
    assert done
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with Journal(tmp_path, every=1).signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ignored)


# ---- the disk ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_wherever_it_comes_and_the_run_goes_on(config, tmp_path, monkeypatch):
    run.train(config(checkpoint_every=9), tmp_path / "whole")
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    full = {3}
    refused = 0
    while not (tmp_path / "run" / "summary.json").exists():
        try:
            run.train(config(checkpoint_every=9), tmp_path / "run", resume=True)
        except RunError as error:
            assert "(No space left on device); make room and go on with --resume" in str(error)
            refused += 1
            full = {len(calls) + 6 + refused}
    assert refused > 8
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    names = [p.name for p in (tmp_path / "run").rglob("*") if "." in p.name]
    assert not [n for n in names if n.endswith(".part") or n.startswith((".task", ".inside"))]


def test_a_file_system_that_takes_no_more_is_believed(config, tmp_path):
    run.train(config("ridge", {}), tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(RunError, match="File too large.*; make room and go on with --resume"):
            run.train(config("ridge", {}), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run.train(config("ridge", {}), tmp_path / "run", resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_small_disk_that_fills_up(config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        run.train(config(), tmp_path / "whole")
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(330_000))
        with pytest.raises(RunError, match="No space left"):
            run.train(config(), disk / "run")
        good = checkpoint.latest(disk / "run")
        assert good is None or checkpoint.read(good)
        ballast.unlink()
        run.train(config(keep_checkpoints=2), disk / "run", resume=True)
        assert bits(disk / "run") == bits(tmp_path / "whole")
        assert [p.name for _, p in checkpoint.tasks(disk / "run")] == ["task-003", "task-004"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_without_permission_is_named(config, tmp_path):
    place = Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    place.chmod(0o555)
    stream = run.make_stream(config())
    run.train(config("zero_shot", {}), tmp_path / "run", stream=stream)  # imports what is imported lazily
    tensors, values = checkpoint.read(tmp_path / "run" / "checkpoints" / "task-004")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        for work in (
            lambda: run.train(config("zero_shot", {}, cache="none"), place / "run", stream=stream),
            lambda: checkpoint.write(place / "model", tensors, values),
            lambda: log.MetricsLog(place / "metrics.jsonl").write({"event": "start"}),
        ):
            with pytest.raises(RunError, match=f"{place}.*Permission denied.*; make it writable or give another f"):
                work()
    finally:
        if root:
            os.seteuid(0)
        place.chmod(0o755)
    assert list(place.iterdir()) == []
    place.rmdir()


def test_replacing_a_saved_learner_can_be_cut_anywhere(root, tmp_path, monkeypatch):
    stream = Stream.from_folder(root, classes_per_task=2)
    mine = Learner(ToyEncoder(), "ridge", device="cpu")
    mine.learn(stream[0])
    mine.save(tmp_path / "model")
    mine.learn(stream[1])
    real = {name: getattr(os, name) for name in ("rename", "fsync")}
    for cut in range(9):
        calls = []

        def counted(name):
            def call(*args):
                if len(calls) == cut:
                    raise KeyboardInterrupt
                calls.append(name)
                return real[name](*args)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            with contextlib.suppress(KeyboardInterrupt):
                mine.save(tmp_path / "model")
        assert len(Learner.load(tmp_path / "model", encoder=ToyEncoder()).tasks) in (1, 2), calls
    mine.save(tmp_path / "model")
    assert len(Learner.load(tmp_path / "model", encoder=ToyEncoder()).tasks) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ---- another process, another config ----------------------------------------------------------------------------


def test_a_second_process_on_the_folder_is_refused_until_the_first_is_dead(config, tmp_path):
    run.train(config("zero_shot", {}), tmp_path / "run")
    program = (
        "import sys, pathlib; from mmcl_fast.learning import files\n"
        "with files.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"run: in use by process {other.pid} on .*; wait for it or stop it"):
            run.train(config("zero_shot", {}), tmp_path / "run", resume=True)
    finally:
        other.kill()
        other.communicate()
    run.train(config("zero_shot", {}), tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_run_is_refused(config, tmp_path):
    run.train(config("ridge", {}), tmp_path / "mine")
    run.train(config("ridge", {"penalty": 0.5}), tmp_path / "other")
    for name in ("task-003", "task-004"):
        checkpoint.remove(tmp_path / "mine" / "checkpoints" / name)
    (tmp_path / "other" / "checkpoints" / "task-004").rename(tmp_path / "mine" / "checkpoints" / "task-004")
    with pytest.raises(RunError, match="task-004: learned otherwise: options.penalty was 0.5, is 0.005"):
        run.train(config("ridge", {}), tmp_path / "mine", resume=True)


def test_broken_checkpoints_are_named_and_the_one_before_is_taken(config, tmp_path):
    class Lines:
        def __init__(self):
            self.lines = []

        def log(self, line):
            self.lines.append(line)

    shown = Lines()
    from mmcl_fast.progress import Silent

    progress = type("Both", (Silent,), {"log": shown.log})()
    run.train(config(), tmp_path / "run")
    wanted = bits(tmp_path / "run")
    for name, change in (("task-004", lambda b: b[:-1]), ("task-003", lambda b: b[:99] + bytes([b[99] ^ 1]) + b[100:])):
        file = tmp_path / "run" / "checkpoints" / name / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))
    run.train(config(), tmp_path / "run", resume=True, progress=progress)
    passed = [line for line in shown.lines if line.startswith("passed over: ")]
    assert len(passed) == 2 and "task-004" in passed[0] and "checksum" in passed[1]
    assert bits(tmp_path / "run") == wanted


def test_what_is_fixed_from_the_start_is_never_written_again(config, tmp_path):
    run.train(config("ridge", {}), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json*")}
    environment = json.loads(before["environment.json"]) | {"threads": 999}
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment))
    lines = []
    from mmcl_fast.progress import Silent

    run.train(
        config("ridge", {}, workers=1),
        tmp_path / "run",
        resume=True,
        progress=type("Both", (Silent,), {"log": lambda self, line: lines.append(line)})(),
    )
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.json*")}
    assert after["config.json"] == before["config.json"] and json.loads(after["environment.json"])["threads"] == 999
    assert after["metrics.jsonl"].startswith(before["metrics.jsonl"])
    assert any("another threads than when the run began" in line for line in lines)
    added = after["metrics.jsonl"][len(before["metrics.jsonl"]) :].decode().splitlines()
    assert [json.loads(line)["event"] for line in added] == ["resume"]


# ---- numbers that are none --------------------------------------------------------------------------------------


def test_a_loss_of_nan_stops_before_it_is_kept(config, tmp_path, monkeypatch):
    real, calls = Realigner.train, []

    def train(self, memory, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            options["logit_scale"] = float("inf")
        return real(self, memory, *args, **options)

    monkeypatch.setattr(Realigner, "train", train)
    with pytest.raises(
        RunError,
        match=r"task .*: re-alignment, step 1 of 20: the loss is nan; lower "
        r"method.options.realignment_lr \(now 0.001\) and start a new run",
    ):
        run.train(config(checkpoint_every=1), tmp_path / "run")
    assert checkpoint.latest(tmp_path / "run").name == "task-002"
    assert len(Learner.load(tmp_path / "run", encoder=ToyEncoder()).tasks) == 2
    monkeypatch.setattr(Realigner, "train", real)
    run.train(config(checkpoint_every=1), tmp_path / "run", resume=True)
    run.train(config(), tmp_path / "whole")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_statistics_of_nan_are_not_kept_either(root):
    class Broken(ToyEncoder):
        def trunk(self, batch, modality):
            out = super().trunk(batch, modality)
            out.query[0, 0] = float("nan")
            return out

    stream = Stream.from_folder(root, classes_per_task=2)
    mine = Learner(Broken(), "ridge", device="cpu")
    with pytest.raises(RunError, match=f"task {stream[0].name}: gram is not finite after learning"):
        mine.learn(stream[0])
    assert mine.tasks == [] and mine.method.ridge.gram.isfinite().all()


# ---- the log and the files --------------------------------------------------------------------------------------


def test_a_damaged_line_of_metrics_is_refused_a_torn_last_one_is_not(config, tmp_path):
    run.train(config("zero_shot", {}), tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"event"', b'"evnt"', 1))
    with pytest.raises(RunError, match=r"metrics.jsonl:1: no event of a run"):
        run.train(config("zero_shot", {}), tmp_path / "run", resume=True)
    lines = whole.splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines) if b'"event": "task"' in line]
    file.write_bytes(b"".join(lines[: ends[0]] + lines[ends[1] + 1 :]))
    with pytest.raises(RunError, match="the row after task 1 is missing, but task 4 is learned"):
        run.train(config("zero_shot", {}), tmp_path / "run", resume=True)
    file.write_bytes(b"".join(lines[: ends[2] + 1]) + lines[ends[2] + 1][:30])
    run.train(config("zero_shot", {}), tmp_path / "run", resume=True)
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
        "gram": x.T @ x,
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


def test_more_than_999_tasks_are_found_in_order(tmp_path):
    for number in (2, 999, 1000, 10000):
        (tmp_path / "checkpoints" / f"task-{number:03d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".task-1001-x").mkdir()
    assert [number for number, _ in checkpoint.tasks(tmp_path)] == [2, 999, 1000, 10000]
    checkpoint.clean(tmp_path)
    assert not (tmp_path / "checkpoints" / ".task-1001-x").exists()


def test_a_run_stopped_before_it_began_begins(config, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("process 1 on nowhere\n")
    (out / "config.json.part").write_text("{")
    run.train(config("zero_shot", {}), out, resume=True)
    assert (out / "summary.json").is_file() and files.LOCK in {p.name for p in out.iterdir()}


def test_deterministic_mode_is_on_while_learning_only(config, tmp_path, monkeypatch):
    real, seen = Learner.learn, []
    monkeypatch.setattr(
        Learner,
        "learn",
        lambda self, task: (seen.append(torch.are_deterministic_algorithms_enabled()), real(self, task))[1],
    )
    run.train(config("ridge", {}, deterministic=True), tmp_path / "run")
    assert seen == [True] * 4 and not torch.are_deterministic_algorithms_enabled()
