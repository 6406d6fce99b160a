"""Runs of 1, 2, 3 and 4 gloo processes, forked after the imports, for the tests of mmcl_fast.distributed.

Run it as ``python -m tests.runs.process_groups FOLDER``. Each run leaves its folder in FOLDER, named by its case and
number of processes. ``outcomes.json`` has the outcome of every process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import torch

from mmcl_fast import atomic_files, distributed, runs
from mmcl_fast.config import build_config
from mmcl_fast.distributed import sharding
from mmcl_fast.errors import UserError
from mmcl_fast.learning import learner
from mmcl_fast.methods.baselines.finetune import Finetune
from mmcl_fast.methods.comm import memory
from mmcl_fast.methods.shared import class_statistics, embedding, ridge_regression
from mmcl_fast.runs import task_checkpoints
from tests.toy import ToyEncoder, write_folder

COMM = {"epochs": 2, "realignment": "trained", "steps": 20, "sampled_features": 64, "batch_size": 7}
LOOPS = {**COMM, "relevance": "mlp", "realignment_decay": 0.1}
CASES: dict[str, Any] = {
    "whole": ("comm", COMM),
    "bare": ("comm", {**COMM, "prompts": False}),
    "loops": ("comm", LOOPS),
    "finetune": ("finetune", {"epochs": 1, "batch_size": 7}),
    "ridge": ("ridge", {"features": "zq"}),
    "joint": ("joint", {"epochs": 1, "batch_size": 7}),
    "fecam": ("fecam", {}),
    "adapted": ("slda", {"adaptation": "scale_shift", "epochs": 1, "batch_size": 7, "text_lr": 0.02}),
}
EVERY = 5
outcomes: dict[str, list[str]] = {}


def small_blocks() -> None:
    """Make batches and blocks small, so that little data fills many of them."""
    embedding.BATCH, ridge_regression.BLOCK_ROWS, memory.BLOCK_CLASSES, sharding.SHARD_BLOCK = 4, 5, 1, 3
    class_statistics.BLOCK_ROWS = 5
    learner.load_encoder = lambda name, **options: ToyEncoder()


def ranks(name: str, world: int, work) -> list[str]:
    """Run ``work()`` in ``world`` processes; return each one's value as text, its error, or its fatal signal."""
    with tempfile.TemporaryDirectory() as folder:
        ids = []
        for number in range(world):
            ids.append(os.fork())
            if not ids[-1]:
                os.environ |= {
                    "RANK": str(number),
                    "WORLD_SIZE": str(world),
                    "GLOO_SOCKET_IFNAME": "lo",
                    distributed.RENDEZVOUS_FILE: f"{folder}/rendezvous",
                }
                try:
                    distributed.init_process_group("cpu")
                    text = str(work())
                except (UserError, KeyboardInterrupt) as fault:
                    text = f"{type(fault).__name__}: {fault}"
                except BaseException:
                    import traceback

                    text = traceback.format_exc()
                Path(folder, str(number)).write_text(text)
                os._exit(0)
        ended = [os.waitpid(process, 0)[1] for process in ids]
        out = [
            signal.Signals(os.WTERMSIG(status)).name
            if os.WIFSIGNALED(status)
            else Path(folder, str(number)).read_text()
            for number, status in enumerate(ended)
        ]
    outcomes[name] = out
    return out


def at_step(rank: int, step: int, act) -> None:
    """Call ``act()`` before that step of the session, in one process."""
    real, count = task_checkpoints.TaskCheckpoints.step, [0]

    def watched(self, loop, state):
        count[0] += 1
        if count[0] == step and distributed.rank() == rank:
            act()
        return real(self, loop, state)

    task_checkpoints.TaskCheckpoints.step = watched


def full_disk() -> None:
    def put(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic_files.write_file = put


def sums() -> str:
    """Return a digest of results that must be the same bits for any number of processes."""
    blocks = [torch.randn(7, 5, generator=torch.Generator().manual_seed(i)) for i in range(11)]
    found = distributed.tree_sum(11, lambda i: blocks[i].clone(), torch.empty(7, 5))
    shares = distributed.shard_ranges(11)
    indices = shares[distributed.rank()]
    joined = distributed.all_gather_rows(
        torch.cat([torch.empty(0, 7, 5), *(b[None] for b in blocks[indices.start : indices.stop])]),
        [len(s) for s in shares],
    )
    assert torch.equal(joined, torch.stack(blocks))
    all_items = sorted(i for part in distributed.all_gather_object(distributed.shard(range(100))) for i in part)
    assert all_items == list(range(100))
    rows, weight = torch.tensor([5, 0, 3]), torch.tensor([1.0, 9, 9, 2, 9, 3])
    for given in (None, weight):
        chosen, share = distributed.shard_batch(rows, given)
        assert len(chosen) and abs(sum(distributed.all_gather_object(float(share))) - 1) < 1e-6
    return hashlib.sha256(found.numpy().tobytes()).hexdigest()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    small_blocks()
    data = write_folder(folder / "data", modalities=("image", "text"), train=6)

    def train(out: str, method: str = "comm", options: dict = COMM, before=lambda: None, cache: str | None = None):
        def work() -> str:
            before()
            config = build_config(
                {
                    "stream": {"source": "folder", "path": str(data), "classes_per_task": 2, "order": "random"},
                    "method": {"name": method, "options": options},
                    "train": {"device": "cpu", "cache": cache or str(folder / "cache"), "checkpoint_every": EVERY},
                }
            )
            result = runs.learn_stream(config, folder / out, resume=True)
            trunk = len(cast(ToyEncoder, result.learner.encoder).trunk_calls)
            state = result.learner.method.state()[0]
            bits = b"".join(v.flatten().view(torch.uint8).numpy().tobytes() for _, v in sorted(state.items()))
            return f"{trunk} {hashlib.sha256(bits).hexdigest()}"

        return work

    for world in (1, 2, 3, 4):
        ranks(f"sums-{world}", world, sums)
    ranks("whole-4", 4, train("whole-4", cache="none"))
    ranks("whole-1", 1, train("whole-1"))
    ranks("whole-2", 2, train("whole-2"))
    for case in list(CASES)[1:]:
        for world in (1, 4 if case == "bare" else 2):
            ranks(f"{case}-{world}", world, train(f"{case}-{world}", *CASES[case]))
    ranks("bare-2", 2, train("bare-2", *CASES["bare"]))

    def ended(name: str, rank: int, step: int, act, on: int, going_on: int) -> None:
        ranks(name, on, train(name, before=lambda: at_step(rank, step, act)))
        outcomes[f"{name} checkpoints"] = sorted(p.name for p in (folder / name / "checkpoints").iterdir())
        ranks(f"{name} resumed", going_on, train(name))

    def signalled(signum: int):
        return lambda: os.kill(os.getpid(), signum)

    ended("killed-1", 1, 23, signalled(signal.SIGKILL), 2, 2)
    ended("killed-0", 0, 37, signalled(signal.SIGKILL), 3, 1)
    ended("stopped", 1, 13, signalled(signal.SIGTERM), 2, 2)
    ended("full", 0, 8, full_disk, 2, 2)
    Finetune.supports_distributed = False
    ranks("one only", 2, train("one only", *CASES["finetune"]))
    Finetune.supports_distributed = True

    for file in sorted((data / "image" / "train").rglob("*.png"))[-5:]:
        file.write_bytes(b"no picture")
    ranks("broken", 4, train("broken", cache=str(folder / "cold")))
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
