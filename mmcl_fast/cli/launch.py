"""Several processes of one command on this machine: ``mmcl-fast train --devices N``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from mmcl_fast import distributed
from mmcl_fast.cli.common import CommandStopped
from mmcl_fast.errors import ConfigError, RunError

COMMAND = (sys.executable, "-m", "mmcl_fast")
PATIENCE = 3.0  # seconds that the others get to notice a death, before they are asked to end
GRACE = 20.0  # seconds from there until they are killed
SAID = (0, 2, 130, 143)  # exit codes of processes that have told the user why they ended


def check(count: int, device: str) -> None:
    """Raises ConfigError unless ``count`` processes can run on train.device = ``device``."""
    import torch

    if count < 1:
        raise ConfigError(f"--devices {count}: give a number from 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"--devices {count}: torchrun has started several processes already; leave --devices out")
    if count == 1 or device == "cpu" or not torch.cuda.is_available():
        return
    if ":" in device:
        raise ConfigError(
            f"train.device = {device!r}: --devices {count} takes one GPU for each process; use cuda or auto"
        )
    if count > torch.cuda.device_count():
        raise ConfigError(
            f"--devices {count}: torch finds {torch.cuda.device_count()} CUDA GPUs here; give at most "
            "that many, or --set train.device=cpu"
        )


def run(words: Sequence[str], count: int, go_on: Callable[[], str]) -> int:
    """Run ``mmcl-fast WORDS`` in ``count`` processes that learn together, the cores shared out among them.

    A signal that this process gets goes to all of them.

    Args:
        go_on: gives the command that goes on with what they leave.

    Returns:
        The exit code of all, once the first process has told the user why it is not 0.

    Raises:
        RunError: one of them died; the others are ended.
        CommandStopped: a signal came, and not all of them could say so.
    """
    alive_while_open, held = os.pipe()
    processes: list[subprocess.Popen] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        got.append(signum)
        for process in processes:
            process.send_signal(signum)

    got: list[int] = []
    before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with tempfile.TemporaryDirectory(prefix="mmcl_fast-") as folder:
            for number in range(count):
                environment = {
                    "OMP_NUM_THREADS": str(max(1, distributed.available_cores() // count)),
                    **_loopback(),
                    **os.environ,
                    "RANK": str(number),
                    "LOCAL_RANK": str(number),
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    distributed.RENDEZVOUS_FILE: str(Path(folder) / "rendezvous"),
                    distributed.PARENT_PIPE: str(alive_while_open),
                }
                # A session of its own: Ctrl-C comes once, from here.
                processes.append(
                    subprocess.Popen(
                        [*COMMAND, *words], env=environment, start_new_session=True, pass_fds=[alive_while_open]
                    )
                )
            dead = _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for s, handler in before.items():
            signal.signal(s, handler)
        os.close(alive_while_open)
        os.close(held)
    if dead and got:
        raise CommandStopped(f"go on with: {go_on()}", got[0])
    if dead:
        raise RunError(f"{dead}; the others were ended and what was saved is as it was: go on with: {go_on()}")
    return max(process.returncode for process in processes)


def _loopback() -> dict[str, str]:
    return {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}


def _wait(processes: Sequence[subprocess.Popen]) -> str | None:
    """Until all have ended; returns which of them died unasked and how."""
    dead, asked, since = None, False, None
    while True:
        codes = [process.poll() for process in processes]
        for number, code in enumerate(codes):
            if code not in (None, *SAID) and not asked and dead is None:
                dead = f"process {number} of {len(processes)} {_how(code)}"
        if None not in codes:
            return dead
        if since is None and any(codes):
            since = time.monotonic()
        waited = 0.0 if since is None else time.monotonic() - since
        if waited > PATIENCE and not asked:
            asked = True
            for process in processes:
                process.terminate()
        if waited > PATIENCE + GRACE:
            for process in processes:
                process.kill()
        time.sleep(0.05)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"failed with exit code {code}"
