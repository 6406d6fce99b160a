"""Learn the unfinished cells of a sweep, several at once, in worker processes that share the cores."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType
from typing import IO, Any, cast

from mmcl_fast import atomic_files, distributed
from mmcl_fast.compare.cell import Cell
from mmcl_fast.compare.display import SweepDisplay
from mmcl_fast.runs.task_checkpoints import RunStopped
from mmcl_fast.streams.broken_samples import BrokenSample

COMMAND = (sys.executable, "-m", "mmcl_fast.compare.worker")
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # would make a worker one of several ranks


class _Worker:
    """A worker process, and the cell that it learns.

    Args:
        number: its place among the workers, from 0.
        jobs: number of workers.
        inherited: file descriptors that it keeps open, the pipe that tells it of this process's end first.
    """

    def __init__(self, number: int, jobs: int, inherited: Sequence[int]):
        environment = {
            "OMP_NUM_THREADS": str(max(1, distributed.available_cores() // jobs)),
            **os.environ,
            distributed.CONCURRENT_RUNS: str(jobs),
            distributed.PARENT_PIPE: str(inherited[0]),
        }
        for name in RANK_VARIABLES:
            environment.pop(name, None)
        self.number = number
        # With its own session, the worker gets no Ctrl-C from the terminal: this process passes it on.
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            pass_fds=inherited,
        )
        self.input, self.output = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        self.cell: Cell | None = None
        self.partial_line = b""

    def assign(self, cell: Cell, skipped: Sequence[BrokenSample]) -> None:
        atomic_files.make_folder(cell.folder.parent)
        config = cell.config.model_dump(mode="json")
        config["train"]["device"] = _choose_device(config["train"]["device"], self.number)
        job = {"config": config, "out": str(cell.folder), "log": str(cell.log), "skipped": [asdict(s) for s in skipped]}
        self.cell = cell
        try:
            self.input.write(json.dumps(job).encode() + b"\n")
            self.input.flush()
        except BrokenPipeError:
            pass  # the worker died; the end of its output shows that

    def read_events(self) -> list[dict[str, Any]] | None:
        """Return the events that have arrived, or None if the worker has ended."""
        data = os.read(self.output.fileno(), 1 << 16)
        *lines, self.partial_line = (self.partial_line + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None


def _choose_device(name: str, number: int) -> str:
    """Return the device of a worker: workers take the GPUs in turn, unless the config names one."""
    import torch

    count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{number % count}" if count > 1 else name


def learn_cells(
    cells: Sequence[Cell],
    jobs: int,
    display: SweepDisplay,
    *,
    skipped: Sequence[BrokenSample] = (),
    lock: int,
    on_finished: Callable[[Cell], None] = lambda cell: None,
) -> dict[str, str]:
    """Learn every cell that is not finished, ``jobs`` at once. Call it in the main thread: it handles signals.

    A cell that fails does not stop the others. Cells are run folders: whatever ends this function, a later call
    resumes them.

    Args:
        display: shows the progress.
        skipped: samples that cells leave out if they have not begun.
        lock: the open file whose lock keeps other sweeps out. Workers inherit it, so that it holds until the last one
            has ended.
        on_finished: called with each cell that finished without a fault.

    Returns:
        Name of a failed cell -> why it failed.

    Raises:
        RunStopped: SIGINT or SIGTERM came. The workers stopped after their current step, at once after a second signal.
            A third one kills them.
    """
    waiting = deque(cell for cell in cells if not cell.finished)
    jobs = min(jobs, len(waiting))
    # The workers' end of this pipe reads as closed when this process ends, however it ends.
    pipe_of_workers, pipe_of_sweep = os.pipe()
    workers: list[_Worker] = []
    faults: dict[str, str] = {}
    signals: list[int] = []

    def on_signal(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        waiting.clear()
        for worker in workers:
            # A third Ctrl-C means that the user no longer waits for the step to end.
            worker.process.send_signal(signal.SIGTERM if len(signals) < 3 else signal.SIGKILL)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with selectors.DefaultSelector() as outputs:

            def start_worker(number: int) -> None:
                worker = _Worker(number, jobs, (pipe_of_workers, lock))
                workers.append(worker)
                outputs.register(worker.output, selectors.EVENT_READ, worker)
                begin_next(worker)

            def begin_next(worker: _Worker) -> None:
                worker.cell = None
                if waiting:
                    cell = waiting.popleft()
                    worker.assign(cell, skipped)
                    display.begin(cell)
                else:
                    worker.input.close()  # it ends when it has read all

            def end_cell(cell: Cell, fault: str | None) -> None:
                display.end(cell, fault)
                if fault:
                    faults[cell.name] = fault
                else:
                    on_finished(cell)

            for number in range(jobs):
                start_worker(number)
            while workers:
                for key, _ in outputs.select(1.0):
                    worker = key.data
                    events = worker.read_events()
                    for event in events or ():
                        if event["event"] == "end":
                            end_cell(worker.cell, event["fault"])
                            begin_next(worker)
                        else:
                            display.progress(worker.cell, event)
                    if events is None:
                        outputs.unregister(worker.output)
                        worker.process.wait()
                        workers.remove(worker)
                        if signals:
                            continue
                        if worker.cell is not None:
                            reason = f"its process {describe_exit(worker.process.returncode)}"
                            end_cell(worker.cell, f"{reason}; {worker.cell.log} may say why")
                        if waiting:  # a new process takes the place of one that died
                            start_worker(worker.number)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
        for s, handler in before.items():
            signal.signal(s, handler)
        os.close(pipe_of_workers)
        os.close(pipe_of_sweep)
    if signals:
        raise RunStopped(signals[0])
    return faults


def describe_exit(code: int) -> str:
    """Return how a process ended, from the exit code of ``subprocess``."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
