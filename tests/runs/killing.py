"""Kill real training processes at chosen moments, and compare the resumed runs with a run without a stop.

A moment is a call, counted over a run: a step of a loop, half of a file written, an fsync, a rename, an evaluation...
Run it as ``python -m tests.runs.killing FOLDER METHOD OPTIONS POINTS EVERY SEED``. EVERY is the number of steps between
checkpoints. It prints one JSON object.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmcl_fast import atomic_files, runs
from mmcl_fast.config import build_config
from mmcl_fast.learning import checkpoint, learner
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.runs import metrics_log as log
from mmcl_fast.runs import task_checkpoints
from tests.toy import ToyEncoder, write_folder

LOOPS = {"relevance": "R", "prompts": "P", "re-alignment": "A"}
TIMED = 5  # one kill in so many comes from outside, at a moment of the clock


class Moments:
    """Counts moments in memory shared with the parent, and ends the process at one of them."""

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, 1 << 20)  # count, steps, then a letter for each moment
        self.fatal = -1

    def reset(self, fatal: int) -> None:
        self.shared[:] = bytes(len(self.shared))
        self.fatal = fatal

    def read(self) -> tuple[int, int, bytes]:
        count, steps = struct.unpack("qq", self.shared[:16])
        return count, steps, self.shared[16 : 16 + count]

    def pass_by(self, kind: str, before: Callable[[], object] = lambda: None) -> None:
        count, steps, _ = self.read()
        self.shared[16 + count : 17 + count] = kind.encode()
        self.shared[:16] = struct.pack("qq", count + 1, steps + (kind in LOOPS.values()))
        if count == self.fatal:
            before()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: object, name: str, kind: str) -> None:
        real = getattr(owner, name)

        def watched(*args, **options):
            self.pass_by(kind)
            return real(*args, **options)

        setattr(owner, name, watched)


def prepare(moments: Moments) -> None:
    """Count the calls at which a run can be cut."""
    real_put, real_write, real_step = (
        atomic_files.write_file,
        log.MetricsLog.write,
        task_checkpoints.TaskCheckpoints.step,
    )

    def put(file, data):
        moments.pass_by("h", lambda: file.write_bytes(data[: len(data) // 2]))
        return real_put(file, data)

    def write(self, *events):
        def cut():
            with open(self.file, "ab") as stream:
                stream.write(json.dumps(events[0]).encode()[:40])

        moments.pass_by("m", cut)
        return real_write(self, *events)

    def step(self, loop, state):
        moments.pass_by(LOOPS[loop])
        return real_step(self, loop, state)

    atomic_files.write_file, log.MetricsLog.write, task_checkpoints.TaskCheckpoints.step = put, write, step
    for owner, name, kind in (
        (task_checkpoints.TaskCheckpoints, "begin", "b"),
        (task_checkpoints.TaskCheckpoints, "end", "e"),
        (os, "fsync", "f"),
        (os, "rename", "r"),
        (os, "replace", "r"),
        (learner.Learner, "learn", "l"),
        (learner.Learner, "evaluate", "v"),
        (task_checkpoints.TaskCheckpoints, "clear", "c"),
        (FeatureMemory, "add", "a"),
        (checkpoint, "remove", "d"),
    ):
        moments.watch(owner, name, kind)
    learner.load_encoder = lambda name, **options: ToyEncoder()


def in_a_process(work) -> int:
    """Run ``work`` in a forked process; returns its status as of os.waitpid."""
    process = start(work)
    return os.waitpid(process, 0)[1]


def start(work) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def outcome(out: Path) -> tuple[dict[str, bytes], list[dict]]:
    """Every bit of the last checkpoint, and the metrics without times."""
    tensors, values = checkpoint.read(checkpoint.find_latest(out))
    bits = {k: bytes(v.contiguous().view(torch.uint8).numpy()) for k, v in tensors.items()}
    bits["values"] = json.dumps({k: v for k, v in values.items() if k not in ("seconds", "counts")}).encode()
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    events = [{k: v for k, v in e.items() if k not in ("seconds", "counts")} for e in events if e["event"] != "resume"]
    summary = json.loads((out / "summary.json").read_text())
    summary.pop("seconds")
    return bits, [*events, summary]


def main(folder: Path, method: str, options: str, points: int, every: int, seed: int) -> dict:
    torch.set_num_threads(1)
    os.environ["TMPDIR"] = str(folder)
    data = write_folder(folder / "data", modalities=("image", "text"))
    config = build_config(
        {
            "stream": {"source": "folder", "path": str(data), "classes_per_task": 2, "order": "random"},
            "method": {"name": method, "options": json.loads(options)},
            "train": {"device": "cpu", "cache": str(folder / "cache"), "checkpoint_every": every},
        }
    )
    moments = Moments()
    prepare(moments)

    def train(out):
        runs.learn_stream(config, out, resume=True)

    unstopped = folder / "unstopped"
    moments.reset(-1)
    assert in_a_process(lambda: train(folder / "warm")) == 0  # fills the feature cache
    moments.reset(-1)
    began = time.perf_counter()
    assert in_a_process(lambda: train(unstopped)) == 0
    duration = time.perf_counter() - began
    count, total_steps, kinds = moments.read()
    wanted = outcome(unstopped)

    rng = random.Random(seed)
    places = {kind: [i for i in range(count) if kinds[i] == kind] for kind in sorted(set(kinds))}
    chosen: list[int] = []
    while len(chosen) < points - points // TIMED:  # of all kinds as many, whatever their number
        untried = [kind for kind in places if places[kind]]
        kind = min(untried, key=lambda k: (sum(kinds[i] == k for i in chosen), k))
        chosen.append(places[kind].pop(rng.randrange(len(places[kind]))))
    report: dict[str, Any] = {
        "points": 0,
        "identical": 0,
        "most_steps_redone": 0,
        "moments": count,
        "kinds": {},
        "faults": [],
    }
    for number in range(points):
        out = folder / f"run-{number}"
        if number < len(chosen):
            moment = f"{chr(kinds[chosen[number]])} {chosen[number]}"
            moments.reset(chosen[number])
            status = in_a_process(lambda: train(out))
        else:
            delay = duration * rng.random() * 0.6
            moment = f"timer {delay:.3f} s"
            moments.reset(-1)
            process = start(lambda: train(out))
            time.sleep(delay)
            os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        before = moments.read()[1]
        moments.reset(-1)
        resumed = in_a_process(lambda: train(out))
        redone = before + moments.read()[1] - total_steps
        report["points"] += killed
        report["most_steps_redone"] = max(report["most_steps_redone"], redone)
        report["kinds"][moment.split()[0]] = report["kinds"].get(moment.split()[0], 0) + 1
        if resumed == 0 and outcome(out) == wanted and 0 <= redone <= every:
            report["identical"] += 1
        else:
            report["faults"].append(f"{moment}: killed {killed}, resumed with {resumed}, {redone} steps done again")
        behind = [p.name for p in (out / "checkpoints").iterdir() if not p.name.startswith("task-")]
        if behind:
            report["faults"].append(f"{moment}: left behind: {behind}")
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))))
