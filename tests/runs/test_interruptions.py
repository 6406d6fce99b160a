"""Interruptions of a run: signals, a full disk, two processes in one folder, a folder without permission."""

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

from mmcl_fast import cli, runs
from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.runs import metrics_log as log
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.task_checkpoints import TaskCheckpoints
from mmcl_fast.streams import Stream
from tests.runs.conftest import OPTIONS, bits
from tests.toy import ToyEncoder

ROOT = Path(__file__).resolve().parents[2]


# ---- signals ----------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from mmcl_fast import cli
from mmcl_fast.learning import learner
from mmcl_fast.runs import task_checkpoints
from tests.toy import ToyEncoder
learner.load_encoder = lambda name, **options: ToyEncoder()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background begins with it ignored
real, signals, at = task_checkpoints.TaskCheckpoints.step, sys.argv[1].split(","), int(sys.argv[2])
def step(self, loop, state):
    if self.steps + 1 == at:
        for name in signals:
            os.kill(os.getpid(), getattr(signal, name))
    real(self, loop, state)
task_checkpoints.TaskCheckpoints.step = step
cli.app(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("signals", "code", "steps"), [("SIGTERM", 143, 11), ("SIGINT", 130, 11), ("SIGINT,SIGINT", 130, 10)]
)
def test_a_signal_ends_the_step_keeps_it_and_says_how_to_go_on(config, root, tmp_path, signals, code, steps):
    file = tmp_path / "mine.toml"
    options = "\n".join(f"{k} = {json.dumps(v)}" for k, v in OPTIONS.items())
    file.write_text(
        f'[stream]\nsource = "folder"\npath = "{root}"\nclasses_per_task = 2\norder = "random"\n'
        f'[method.options]\n{options}\n[train]\ndevice = "cpu"\ncheckpoint_every = 5\n'
    )
    words = [sys.executable, "-c", PROGRAM, signals, "11", "train", str(file), "--out", str(tmp_path / "run"), "-q"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip() == f"stopped: go on with: mmcl-fast train --resume {tmp_path / 'run'}"
    inside = checkpoint.find_step_checkpoints(tmp_path / "run", 1)
    assert checkpoint.read(inside[-1][1], {})[1]["steps"] == steps
    if signals == "SIGTERM":
        result = CliRunner().invoke(cli.app, ["train", "--resume", str(tmp_path / "run"), "-q"])
        assert result.exit_code == 0, result.output
        runs.learn_stream(config(checkpoint_every=5), tmp_path / "unstopped")
        assert bits(tmp_path / "run") == bits(tmp_path / "unstopped")


def test_outside_a_loop_a_signal_stops_at_once_and_handlers_come_back(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoints, before = TaskCheckpoints(tmp_path, every=1), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stop, checkpoints.stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert stop.value.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    checkpoints, done = TaskCheckpoints(tmp_path, every=1), []
    with pytest.raises(KeyboardInterrupt), checkpoints.stop_on_signals(), checkpoints.finishing():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("written")
    assert done
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with TaskCheckpoints(tmp_path, every=1).stop_on_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ignored)


# ---- the disk ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_wherever_it_comes_and_the_run_goes_on(config, tmp_path, monkeypatch):
    runs.learn_stream(config(checkpoint_every=9), tmp_path / "unstopped")
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
            runs.learn_stream(config(checkpoint_every=9), tmp_path / "run", resume=True)
        except RunError as error:
            assert "(No space left on device); make room and go on with --resume" in str(error)
            refused += 1
            full = {len(calls) + 6 + refused}
    assert refused > 8
    assert bits(tmp_path / "run") == bits(tmp_path / "unstopped")
    names = [p.name for p in (tmp_path / "run").rglob("*") if "." in p.name]
    assert not [n for n in names if n.endswith(".part") or n.startswith((".task", ".inside"))]


def test_a_file_system_that_takes_no_more_is_believed(config, tmp_path):
    runs.learn_stream(config("ridge", {}), tmp_path / "unstopped")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(RunError, match="File too large.*; make room and go on with --resume"):
            runs.learn_stream(config("ridge", {}), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    runs.learn_stream(config("ridge", {}), tmp_path / "run", resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "unstopped")


def test_a_small_disk_that_fills_up(config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        runs.learn_stream(config(), tmp_path / "unstopped")
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(630_000))
        with pytest.raises(RunError, match="No space left"):
            runs.learn_stream(config(), disk / "run")
        good = checkpoint.find_latest(disk / "run")
        assert good is None or checkpoint.read(good)
        ballast.unlink()
        runs.learn_stream(config(keep_checkpoints=2), disk / "run", resume=True)
        assert bits(disk / "run") == bits(tmp_path / "unstopped")
        assert [p.name for _, p in checkpoint.find_task_checkpoints(disk / "run")] == ["task-003", "task-004"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_without_permission_is_named(config, tmp_path):
    place = Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    place.chmod(0o555)
    stream = make_stream(config())
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run", stream=stream)  # imports what is imported lazily
    tensors, values = checkpoint.read(tmp_path / "run" / "checkpoints" / "task-004")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        for work in (
            lambda: runs.learn_stream(config("zero_shot", {}, cache="none"), place / "run", stream=stream),
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
    model = Learner(ToyEncoder(), "ridge", device="cpu")
    model.learn(stream[0])
    model.save(tmp_path / "model")
    model.learn(stream[1])
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
                model.save(tmp_path / "model")
        assert len(Learner.load(tmp_path / "model", encoder=ToyEncoder()).tasks) in (1, 2), calls
    model.save(tmp_path / "model")
    assert len(Learner.load(tmp_path / "model", encoder=ToyEncoder()).tasks) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ---- another process --------------------------------------------------------------------------------------------


def test_a_second_process_on_the_folder_is_refused_until_the_first_is_dead(config, tmp_path):
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run")
    program = (
        "import sys, pathlib; from mmcl_fast import atomic_files\n"
        "with atomic_files.lock_folder(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
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
            runs.learn_stream(config("zero_shot", {}), tmp_path / "run", resume=True)
    finally:
        other.kill()
        other.communicate()
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run", resume=True)


def test_deterministic_mode_is_on_while_learning_only(config, tmp_path, monkeypatch):
    real, seen = Learner.learn, []
    monkeypatch.setattr(
        Learner,
        "learn",
        lambda self, task: (seen.append(torch.are_deterministic_algorithms_enabled()), real(self, task))[1],
    )
    runs.learn_stream(config("ridge", {}, deterministic=True), tmp_path / "run")
    assert seen == [True] * 4 and not torch.are_deterministic_algorithms_enabled()
