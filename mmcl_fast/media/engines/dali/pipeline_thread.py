"""A DALI pipeline in a thread of its own, so that a call that never returns blocks only this thread."""

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

CALL_TIMEOUT = 120.0  # seconds; on a busy machine a group takes some of them


class PipelineStuck(Exception):
    """A call into DALI did not return in time."""


class PipelineThread:
    """A pipeline with the inputs ``input0``, ``input1``, and so on.

    One thread builds it, calls it and destroys it. A call that takes longer than ``CALL_TIMEOUT`` seconds, and
    ``extra``, raises ``PipelineStuck``. Then the pipeline and its input arrays stay in memory until the process ends,
    because destroying the pipeline would wait for its threads.
    """

    def __init__(self, build: Callable[[], Any]):
        self._tasks: SimpleQueue = SimpleQueue()
        self._thread = threading.Thread(target=_run_tasks, args=(self._tasks,), name="mmcl-fast-dali", daemon=True)
        self._end = weakref.finalize(self, _end, self._tasks, self._thread)  # at garbage collection or at exit
        self._thread.start()
        self._call(0.0, _build, build)

    def feed(self, inputs: Sequence[Sequence[np.ndarray]]) -> None:
        """Start an iteration over these samples: a list of arrays for each input."""
        self._call(0.0, _feed, inputs)

    def outputs(self, stream: Any, extra: float = 0.0) -> Any:
        """Return the result of the oldest iteration under way.

        None if DALI failed; after that only ``close`` is allowed.

        Args:
            stream: CUDA stream for the result; None on the CPU.
            extra: seconds to wait in addition to ``CALL_TIMEOUT``.
        """
        return self._call(extra, _outputs, stream)

    def close(self) -> None:
        """Destroy the pipeline and end its thread. Raises PipelineStuck if the thread does not end."""
        self._end()
        if self._thread.is_alive():
            raise PipelineStuck

    def _call(self, extra: float, work: Callable[..., Any], *values: Any) -> Any:
        done: Future = Future()
        self._tasks.put((done, work, values))
        try:
            return done.result(CALL_TIMEOUT + extra)
        except Late:
            self._end.detach()
            self._tasks.put(None)  # ends the thread if the call returns after all
            raise PipelineStuck from None


class _State:
    """The state of the thread: the pipeline, and the inputs of the iterations under way, which DALI does not copy."""

    def __init__(self) -> None:
        self.pipe: Any = None
        self.inputs: deque = deque()


def _run_tasks(tasks: SimpleQueue) -> None:
    state = _State()
    while (task := tasks.get()) is not None:
        done, work, values = task
        try:
            done.set_result(work(state, *values))
        except Exception as error:
            done.set_exception(error)
        del task, done, work, values
    state.pipe = None  # destroyed before its inputs


def _end(tasks: SimpleQueue, thread: threading.Thread) -> None:
    tasks.put(None)
    if thread is not threading.current_thread():  # garbage collection may run in the thread itself
        thread.join(CALL_TIMEOUT)


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
    except Exception:  # errors of operators have many types
        return None
    state.inputs.popleft()
    return output
