"""Learn the cells that are not there yet, several at once, each in a process of its own share of the cores."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType
from typing import IO, Any, cast

from mmcl_fast import atomic_files as files
from mmcl_fast import distributed
from mmcl_fast.compare.cell import Cell
from mmcl_fast.runs.task_checkpoints import Stop
from mmcl_fast.streams.broken_samples import Broken

COMMAND = (sys.executable, "-m", "mmcl_fast.compare.worker")
TOGETHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # of processes that learn one stream together


class _Worker:
    """A process, and the cell that it learns."""

    def __init__(self, number: int, jobs: int, inherited: Sequence[int]):
        environment = {
            "OMP_NUM_THREADS": str(max(1, distributed.available_cores() // jobs)),
            **os.environ,
            distributed.BESIDE: str(jobs),
            distributed.PARENT: str(inherited[0]),
        }
        for name in TOGETHER:
            environment.pop(name, None)
        self.number = number
        # A session of its own: Ctrl-C comes from the sweep alone.
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            pass_fds=inherited,
        )
        self.orders, self.answers = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        self.cell: Cell | None = None
        self.rest = b""

    def give(self, cell: Cell, skipped: Sequence[Broken]) -> None:
        files.make_folder(cell.folder.parent)
        config = cell.config.model_dump(mode="json")
        config["train"]["device"] = _device(config["train"]["device"], self.number)
        job = {"config": config, "out": str(cell.folder), "log": str(cell.log), "skipped": [asdict(s) for s in skipped]}
        self.cell = cell
        try:
            self.orders.write(json.dumps(job).encode() + b"\n")
            self.orders.flush()
        except BrokenPipeError:
            pass  # it died; its output ends, which is seen next

    def events(self) -> list[dict[str, Any]] | None:
        """What it said since last asked; None: it is gone."""
        data = os.read(self.answers.fileno(), 1 << 16)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None


def _device(name: str, number: int) -> str:
    """Workers take the GPUs in turn, unless the config names one."""
    import torch

    count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{number % count}" if count > 1 else name


def run(cells: Sequence[Cell], jobs: int, display: Any, *, skipped: Sequence[Broken] = (), lock: int) -> dict[str, str]:
    """Learn every cell that is not finished, ``jobs`` at once.

    One that fails does not hold up the others. Whatever ends this, nothing learned is lost: cells are run folders.

    Args:
        display: see ``compare.display``.
        skipped: samples that cells not begun leave out.
        lock: the open file whose lock keeps other sweeps out, until the last worker has ended too.

    Returns:
        The faults, by the names of their cells.

    Raises:
        Stop: SIGINT or SIGTERM came; the cells under way were stopped after their step.
    """
    waiting = deque(cell for cell in cells if not cell.finished)
    jobs = min(jobs, len(waiting))
    alive_while_open, held = os.pipe()
    workers: list[_Worker] = []
    faults: dict[str, str] = {}
    got: list[int] = []

    def on_signal(signum: int, frame: FrameType | None) -> None:
        got.append(signum)
        waiting.clear()
        for worker in workers:
            worker.process.send_signal(signal.SIGTERM if len(got) < 3 else signal.SIGKILL)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with selectors.DefaultSelector() as outputs:

            def start(number: int) -> None:
                worker = _Worker(number, jobs, (alive_while_open, lock))
                workers.append(worker)
                outputs.register(worker.answers, selectors.EVENT_READ, worker)
                begin(worker)

            def begin(worker: _Worker) -> None:
                worker.cell = None
                if waiting:
                    worker.give(waiting.popleft(), skipped)
                    display.begin(worker.cell)
                else:
                    worker.orders.close()

            def end(worker: _Worker, fault: str | None) -> None:
                display.end(worker.cell, fault)
                if fault and worker.cell is not None:
                    faults[worker.cell.name] = fault

            for number in range(jobs):
                start(number)
            while workers:
                for key, _ in outputs.select(1.0):
                    worker = key.data
                    events = worker.events()
                    for event in events or ():
                        if event["event"] == "end":
                            end(worker, event["fault"])
                            begin(worker)
                        else:
                            display.progress(worker.cell, event)
                    if events is None:
                        outputs.unregister(worker.answers)
                        worker.process.wait()
                        workers.remove(worker)
                        if got:
                            continue
                        if worker.cell is not None:
                            end(worker, f"its process {_how(worker.process.returncode)}; {worker.cell.log} may say why")
                        if waiting:
                            start(worker.number)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
        for s, handler in before.items():
            signal.signal(s, handler)
        os.close(alive_while_open)
        os.close(held)
    if got:
        raise Stop(got[0])
    return faults


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
