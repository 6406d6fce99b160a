"""Checkpoints inside a task, and stopping by a signal without losing a step."""

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
from mmcl_fast.learning.random_state import get_random_states, set_random_states
from mmcl_fast.methods.shared.training_steps import State

KEPT = 2  # of checkpoints inside a task
KEYS = {"loops": dict, "under_way": str, "steps": int}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(KeyboardInterrupt):
    """SIGINT or SIGTERM ended a run; what was learned up to then is on the disk."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class TaskCheckpoints:
    """What ``methods.shared.training_steps.StepCheckpoints`` asks for, in a run folder.

    A checkpoint holds the result of each loop of the task that has ended, and of the one under way its parameters,
    optimiser, schedule, step and generator; beside them torch's own generators. What a task's other phases compute
    follows from the state before the task, so it is computed again.

    Args:
        run: the run folder, its lock held.
        every: steps between checkpoints.
        say: takes a line for the user.

    Of several processes the first one reads and writes; a signal to any of them stops all after the same step.
    """

    def __init__(self, run: Path, *, every: int, say: Callable[[str], None] = lambda line: None):
        self.run, self.every, self.say = run, every, say
        self.task = 0
        self.steps = 0
        self.counts: Counter[str] = Counter()  # steps of each loop of the task that this process took
        self._place = 0
        self._loops: dict[str, State] = {}
        self._generators: dict[str, Tensor] = {}
        self._under_way: str | None = None
        self._waiting = False
        self.stop_signal = 0  # the signal that this process got,
        self._agreed = 0  # and the one that all of them stop for

    def start(self, task: int) -> None:
        """Begin the ``task``-th task, from its newest readable checkpoint where there is one."""
        self._waiting = False
        if task == self.task:
            return
        self.task, self.steps, self._place = task, 0, 0
        self.counts.clear()
        self._loops, self._generators, self._under_way = {}, {}, None
        with distributed.propagate_errors():
            if distributed.is_main_process():
                self._find(task)
        self.steps, self._loops, self._generators, self._under_way = distributed.broadcast_object(
            (self.steps, self._loops, self._generators, self._under_way)
        )

    def _find(self, task: int) -> None:
        own = checkpoint.find_step_checkpoints(self.run, task)
        for place, folder in reversed(own):
            try:
                tensors, values = checkpoint.read(folder, KEYS)
            except RunError as fault:
                self.say(f"passed over: {fault}")
                continue
            self._place, self.steps, self._under_way = place, values["steps"], values["under_way"]
            for name, loop in values["loops"].items():
                start = f"loop/{name}/"
                own_tensors = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                self._loops[name] = own_tensors, loop
            self._generators = {k: v for k, v in tensors.items() if k.startswith("generator/")}
            self.say(f"task {task} goes on after step {self.steps}, in {self._under_way}")
            break
        for place, folder in checkpoint.find_step_checkpoints(self.run):
            if (place, folder) not in own or place > self._place:
                checkpoint.remove(folder)

    def clear(self, learned: int) -> None:
        """Remove what lies inside tasks up to the ``learned``-th, whose own checkpoint is there."""
        if not distributed.is_main_process():
            return
        for _, folder in checkpoint.find_step_checkpoints(self.run):
            if int(folder.name.split("-")[1]) <= learned:
                checkpoint.remove(folder)

    # ---- the loops' side --------------------------------------------------------------------------------------

    def begin(self, loop: str) -> State | None:
        self._waiting = True
        if loop == self._under_way:
            set_random_states(self._generators)
        return self._loops.get(loop)

    def step(self, loop: str, state: Callable[[], State]) -> None:
        self.steps += 1
        self.counts[loop] += 1
        if not self._agreed and self.steps % self.every:
            return
        self._loops[loop], self._under_way = state(), loop
        with distributed.propagate_errors():
            if distributed.is_main_process():
                self._write()
        self._stop_if_asked()

    def end(self, loop: str, result: State) -> None:
        self._loops[loop] = {k: v.clone() for k, v in result[0].items()}, result[1]
        self._waiting = False
        self.agree_to_stop()
        self._stop_if_asked()

    def agree_to_stop(self) -> None:
        self._agreed = max(distributed.all_gather_object(self.stop_signal))

    def _write(self) -> None:
        self._place += 1
        tensors = {f"loop/{name}/{k}": v for name, (kept, _) in self._loops.items() for k, v in kept.items()}
        folder = self.run / "checkpoints" / f"inside-{self.task:03d}-{self._place:06d}"
        checkpoint.write(
            folder,
            tensors | get_random_states(),
            {
                "loops": {name: values for name, (_, values) in self._loops.items()},
                "under_way": self._under_way,
                "steps": self.steps,
            },
        )
        for _, folder in checkpoint.find_step_checkpoints(self.run, self.task)[:-KEPT]:
            checkpoint.remove(folder)

    # ---- signals ----------------------------------------------------------------------------------------------

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM raise :class:`Stop`: within a loop after the step under way and a checkpoint,
        within :meth:`finishing` at its end, elsewhere at once; the second one at once wherever it comes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in SIGNALS}
        taken = {s: h for s, h in before.items() if h not in (signal.SIG_IGN, None)}
        for s in taken:
            signal.signal(s, self._on_signal)
        try:
            yield
        except distributed.PeerLost:
            if self.stop_signal:  # so were the others, and one of them was faster
                raise Stop(self.stop_signal) from None
            raise
        finally:
            for s, handler in taken.items():
                signal.signal(s, handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """A first signal waits until the end of what is inside."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
        self.agree_to_stop()
        self._stop_if_asked()

    def _on_signal(self, signum: int, frame: Any) -> None:
        first, self.stop_signal = not self.stop_signal, signum
        if distributed.world_size() == 1:
            self._agreed = signum
        if not (first and self._waiting):
            raise Stop(signum)

    def _stop_if_asked(self) -> None:
        if self._agreed:
            raise Stop(self._agreed)
