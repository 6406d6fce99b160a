"""A DALI pipeline whose every call is made in a thread of its own, so that one that never comes back is left there."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from queue import SimpleQueue
from typing import Any

import numpy as np

PATIENCE = 120.0  # seconds; a group takes some of them on a machine that does much else


class Stuck(Exception):
    """A call into DALI did not come back."""


class Pipe:
    """A pipeline with inputs ``input0``, ``input1``, ...

    A thread builds it, calls it and destroys it, and alone knows it. A call that takes longer than ``PATIENCE`` seconds
    (and ``extra``) raises ``Stuck``; then the pipeline stays where it is, with the arrays that it reads, until the
    process ends: destroying it would wait for its threads.
    """

    def __init__(self, build: Callable[[], Any]):
        self._tasks: SimpleQueue = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._tasks,), name="mmcl-fast-dali", daemon=True)
        self._end = weakref.finalize(self, _end, self._tasks, self._thread)  # when it is forgotten, or at exit
        self._thread.start()
        self._call(0.0, _build, build)

    def feed(self, inputs: Sequence[Sequence[np.ndarray]]) -> None:
        """Starts an iteration over these samples, a list of arrays for each input."""
        self._call(0.0, _feed, inputs)

    def outputs(self, stream: Any, extra: float = 0.0) -> Any:
        """The result of the oldest iteration under way; None where DALI refused it, after which only ``close`` is
        allowed."""
        return self._call(extra, _outputs, stream)

    def close(self) -> None:
        self._end()
        if self._thread.is_alive():
            raise Stuck

    def _call(self, extra: float, work: Callable[..., Any], *values: Any) -> Any:
        done: Future = Future()
        self._tasks.put((done, work, values))
        try:
            return done.result(PATIENCE + extra)
        except Late:
            self._end.detach()
            self._tasks.put(None)  # should it come back after all
            raise Stuck from None


class _State:
    """Of a thread: its pipeline, and the inputs of the iterations under way, which DALI reads where they lie."""

    def __init__(self) -> None:
        self.pipe: Any = None
        self.inputs: deque = deque()


def _serve(tasks: SimpleQueue) -> None:
    state = _State()
    while (task := tasks.get()) is not None:
        done, work, values = task
        try:
            done.set_result(work(state, *values))
        except Exception as error:
            done.set_exception(error)
        del task, done, work, values
    state.pipe = None  # before its inputs


def _end(tasks: SimpleQueue, thread: threading.Thread) -> None:
    tasks.put(None)
    if thread is not threading.current_thread():  # which may be the one that collects garbage
        thread.join(PATIENCE)


def _build(state: _State, build: Callable[[], Any]) -> None:
    state.pipe = build()


def _feed(state: _State, inputs: Sequence[Sequence[np.ndarray]]) -> None:
    state.inputs.append(inputs)
    for i, arrays in enumerate(inputs):
        state.pipe.feed_input(f"input{i}", list(arrays))
    state.pipe.schedule_run()


def _outputs(state: _State, stream: Any) -> Any:
    try:
        (output,) = state.pipe.outputs(cuda_stream=stream)
    except Exception:  # an operator's error comes as one of many types
        return None
    state.inputs.popleft()
    return output
