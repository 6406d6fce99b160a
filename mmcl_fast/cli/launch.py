"""Several processes of one command on this machine, for ``--devices N`` of train and learn."""

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
from mmcl_fast.cli.common import REFUSED, CommandStopped
from mmcl_fast.errors import ConfigError, RunError

COMMAND = (sys.executable, "-m", "mmcl_fast")
NOTICE_SECONDS = 3.0  # in which the other processes may notice a death and end by themselves
TERMINATE_SECONDS = 20.0  # after SIGTERM, until they are killed
EXPECTED_CODES = (0, 2, REFUSED, 130, 143)  # exit codes of processes that have told the user why they ended


def check_device_count(count: int, device: str) -> None:
    """Check that ``count`` processes can run on ``train.device`` = ``device``.

    Raises:
        ConfigError: too few GPUs, a single GPU named, or torchrun has started several processes already.
    """
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


def run_processes(words: Sequence[str], count: int, resume_command: Callable[[], str]) -> int:
    """Run ``mmcl-fast WORDS`` in ``count`` processes that learn together and share the CPU cores.

    A signal that this process gets goes to all of them.

    Args:
        words: the command's words.
        count: number of processes.
        resume_command: returns the command that goes on with the run.

    Returns:
        The largest exit code. Rank 0 has told the user why it is not 0.

    Raises:
        RunError: a process died; the others are ended.
        CommandStopped: a signal came, and not all processes could say so.
    """
    # The processes inherit the reading end. The writing end closes with this process, and then they end too.
    parent_pipe, writing_end = os.pipe()
    processes: list[subprocess.Popen] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        for process in processes:
            process.send_signal(signum)

    signals: list[int] = []
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
                    distributed.PARENT_PIPE: str(parent_pipe),
                }
                # In a session of its own the process gets Ctrl-C once, from here, and not from the terminal too.
                processes.append(
                    subprocess.Popen(
                        [*COMMAND, *words], env=environment, start_new_session=True, pass_fds=[parent_pipe]
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
        os.close(parent_pipe)
        os.close(writing_end)
    # Rank 0 may have noticed the end of another process before its own signal, and then it has said nothing.
    told = processes[0].returncode in (0, REFUSED, *(128 + signum for signum in signals))
    if signals and (dead or not told):
        raise CommandStopped(f"go on with: {resume_command()}", signals[0])
    if dead:
        raise RunError(f"{dead}; the others were ended and what was saved is as it was: go on with: {resume_command()}")
    return max(process.returncode for process in processes)


def _loopback() -> dict[str, str]:
    """Return the environment that makes gloo use the loopback interface; a host name may not resolve."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}


def _wait(processes: Sequence[subprocess.Popen]) -> str | None:
    """Wait until all processes have ended; return which one died by itself and how, None where none did."""
    dead, terminated, since = None, False, None
    while True:
        codes = [process.poll() for process in processes]
        for number, code in enumerate(codes):
            if code not in (None, *EXPECTED_CODES) and not terminated and dead is None:
                dead = f"process {number} of {len(processes)} {_describe_end(code)}"
        if None not in codes:
            return dead
        if since is None and any(codes):
            since = time.monotonic()
        waited = 0.0 if since is None else time.monotonic() - since
        if waited > NOTICE_SECONDS and not terminated:
            terminated = True
            for process in processes:
                process.terminate()
        if waited > NOTICE_SECONDS + TERMINATE_SECONDS:
            for process in processes:
                process.kill()
        time.sleep(0.05)


def _describe_end(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"failed with exit code {code}"
