"""Checkpoints inside a task, and stopping by a first signal without losing a step."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.errors import RunError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.random_state import PREFIX, get_random_states, set_random_states
from mmcl_fast.methods.shared.training_steps import State

MAX_KEPT = 2  # checkpoints inside a task that stay on the disk
KEYS = {"loops": dict, "under_way": str, "steps": int}  # keys of a checkpoint's JSON values, and their types
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(KeyboardInterrupt):
    """SIGINT or SIGTERM ended a run.

    After a first signal everything learned is on the disk. A second signal loses the steps since the last checkpoint.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class TaskCheckpoints:
    """``methods.shared.training_steps.StepCheckpoints`` in a run folder.

    A checkpoint holds the result of each training loop of the task that has ended. For the loop under way it holds the
    parameters, the optimiser, the schedule, the step and the generator, and the states of torch's global generators.
    Everything else that a task computes follows from the state before the task and is computed again.

    Of several processes rank 0 reads and writes. A first signal to any of them stops all of them after the same step.

    Args:
        run: the run folder, with its lock held.
        every: number of steps between checkpoints.
        say: takes a line for the user.

    Attributes:
        task: number of the task under way, from 1.
        steps: steps of all loops of the task so far, earlier sessions' included.
        counts: loop -> steps of the task that this session took in it.
        stop_signal: the signal that this process got; 0 where none came.
    """

    def __init__(self, run: Path, *, every: int, say: Callable[[str], None] = lambda line: None):
        self.run, self.every, self.say = run, every, say
        self.task = 0
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self.stop_signal = 0
        self._agreed_signal = 0  # the signal that all processes know of, and stop for
        self._number = 0  # running number of the newest checkpoint inside the task
        self._loops: dict[str, State] = {}
        self._random_states: dict[str, Tensor] = {}
        self._under_way: str | None = None  # the loop whose steps the newest checkpoint is inside
        self._defer_signal = False  # True: a first signal waits for the end of a step

    def start(self, task: int) -> None:
        """Begin the ``task``-th task, from its newest readable checkpoint where there is one.

        Do nothing more if it is the task under way already. Else remove the checkpoints inside other tasks, and newer
        ones of this task that cannot be read.
        """
        self._defer_signal = False
        if task == self.task:
            return
        self.task, self.steps, self._number = task, 0, 0
        self.counts.clear()
        self._loops, self._random_states, self._under_way = {}, {}, None
        with distributed.propagate_errors():
            if distributed.is_main_process():
                self._read_newest(task)
        self.steps, self._loops, self._random_states, self._under_way = distributed.broadcast_object(
            (self.steps, self._loops, self._random_states, self._under_way)
        )

    def _read_newest(self, task: int) -> None:
        found = checkpoint.find_step_checkpoints(self.run, task)
        for number, folder in reversed(found):
            try:
                tensors, values = checkpoint.read(folder, KEYS)
            except RunError as fault:
                self.say(f"passed over: {fault}")
                continue
            self._number, self.steps, self._under_way = number, values["steps"], values["under_way"]
            for name, loop in values["loops"].items():
                start = f"loop/{name}/"
                loop_tensors = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                self._loops[name] = loop_tensors, loop
            self._random_states = {k: v for k, v in tensors.items() if k.startswith(PREFIX)}
            self.say(f"task {task} goes on after step {self.steps}, in {self._under_way}")
            break
        for number, folder in checkpoint.find_step_checkpoints(self.run):
            if (number, folder) not in found or number > self._number:
                checkpoint.remove(folder)

    def clear(self, learned: int) -> None:
        """Remove the checkpoints inside tasks up to the ``learned``-th, whose final checkpoint is written."""
        if not distributed.is_main_process():
            return
        for _, folder in checkpoint.find_step_checkpoints(self.run):
            if int(folder.name.split("-")[1]) <= learned:
                checkpoint.remove(folder)

    # ---- called by the training loops, see StepCheckpoints ------------------------------------------------------

    def begin(self, loop: str) -> State | None:
        """Return the state of a loop's last step or its result, and from now on let a first signal wait; None: new.

        The loop under way at the newest checkpoint gets torch's global random states back.
        """
        self._defer_signal = True
        if loop == self._under_way:
            set_random_states(self._random_states)
        return self._loops.get(loop)

    def step(self, loop: str, state: Callable[[], State]) -> None:
        """Count a step. Write a checkpoint at every ``every``-th, and for a stop that all agreed on: then raise it."""
        self.steps += 1
        self.counts[loop] += 1
        if not self._agreed_signal and self.steps % self.every:
            return
        self._loops[loop], self._under_way = state(), loop
        with distributed.propagate_errors():
            if distributed.is_main_process():
                self._write()
        self._stop_if_agreed()

    def end(self, loop: str, result: State) -> None:
        """Keep a loop's result for the next checkpoint. Raise RunStopped in all processes if one got a signal."""
        self._loops[loop] = {k: v.clone() for k, v in result[0].items()}, result[1]
        self._defer_signal = False
        self.agree_to_stop()
        self._stop_if_agreed()

    def agree_to_stop(self) -> None:
        """Tell each other of signals, in all processes together; the next ``step`` or ``end`` raises RunStopped."""
        self._agreed_signal = max(distributed.all_gather_object(self.stop_signal))

    def _write(self) -> None:
        self._number += 1
        tensors = {f"loop/{name}/{k}": v for name, (kept, _) in self._loops.items() for k, v in kept.items()}
        folder = self.run / "checkpoints" / f"inside-{self.task:03d}-{self._number:06d}"
        checkpoint.write(
            folder,
            tensors | get_random_states(),
            {
                "loops": {name: values for name, (_, values) in self._loops.items()},
                "under_way": self._under_way,
                "steps": self.steps,
            },
        )
        for _, folder in checkpoint.find_step_checkpoints(self.run, self.task)[:-MAX_KEPT]:
            checkpoint.remove(folder)

    # ---- signals ----------------------------------------------------------------------------------------------

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM raise :class:`RunStopped`, unless the process ignored them before.

        Within a training loop it is raised after a checkpoint: after the step under way, or up to 64 steps later with
        several processes on GPUs. Within :meth:`finishing` it is raised at the end, and elsewhere at once. A second
        signal stops at once anywhere. Outside the main thread nothing changes.

        Where one process stops at once, the others raise ``PeerLost``, or RunStopped if they got a signal too.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in SIGNALS}
        handled = {s: h for s, h in before.items() if h not in (signal.SIG_IGN, None)}  # ignored ones stay ignored
        for s in handled:
            signal.signal(s, self._on_signal)
        try:
            yield
        except distributed.PeerLost:
            if self.stop_signal:  # the others got it too, and one of them stopped before this process
                raise RunStopped(self.stop_signal) from None
            raise
        finally:
            for s, handler in handled.items():
                signal.signal(s, handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Inside, a first signal waits until the end of the block. Then all processes raise RunStopped."""
        self._defer_signal = True
        try:
            yield
        finally:
            self._defer_signal = False
        self.agree_to_stop()
        self._stop_if_agreed()

    def _on_signal(self, signum: int, frame: Any) -> None:
        first, self.stop_signal = not self.stop_signal, signum
        if distributed.world_size() == 1:
            self._agreed_signal = signum
        if not (first and self._defer_signal):
            raise RunStopped(signum)

    def _stop_if_agreed(self) -> None:
        if self._agreed_signal:
            raise RunStopped(self._agreed_signal)
