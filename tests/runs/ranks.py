"""``mmcl-fast`` with the small encoder, as torchrun and ``--devices`` start it: ``python -m tests.runs.ranks ...``.

The environment says what goes wrong. RANKS_KILL = "rank,step": that process kills itself with SIGKILL before that step
of its session. RANKS_TERM: it sends itself SIGTERM. RANKS_FULL: the disk is full for rank 0 from that step on.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from mmcl_fast import atomic_files, cli
from mmcl_fast.cli import launch
from mmcl_fast.learning import learner
from mmcl_fast.runs import task_checkpoints
from tests.toy import ToyEncoder

learner.load_encoder = lambda name, **options: ToyEncoder()
launch.COMMAND = (sys.executable, "-m", "tests.runs.ranks")
real_step, real_put = task_checkpoints.TaskCheckpoints.step, atomic_files.write_file
here, count = int(os.environ.get("RANK", "0")), 0


def step(self, loop, state):
    global count
    count += 1
    for name, signum in (("RANKS_KILL", signal.SIGKILL), ("RANKS_TERM", signal.SIGTERM)):
        if os.environ.get(name) == f"{here},{count}":
            os.kill(os.getpid(), signum)
    real_step(self, loop, state)


def put(file, data):
    if count >= int(os.environ.get("RANKS_FULL", "1000000")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real_put(file, data)


task_checkpoints.TaskCheckpoints.step, atomic_files.write_file = step, put

if __name__ == "__main__":
    cli.app(sys.argv[1:])
