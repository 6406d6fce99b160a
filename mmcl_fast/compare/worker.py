"""A process of a sweep: learns the cells that it is told on standard input, and says on standard output how far it is.

One JSON object a line both ways. In: ``{"config", "out", "log", "skipped"}``. Out: ``{"event": "progress", "learned",
"tasks", "doing"}`` and ``{"event": "end", "fault"}``. Whatever else is printed goes to the cell's log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mmcl_fast import distributed
from mmcl_fast import plugins as use
from mmcl_fast.compare.cell import tasks_learned
from mmcl_fast.config import build_config
from mmcl_fast.errors import UserError
from mmcl_fast.runs import train as runs
from mmcl_fast.runs.task_checkpoints import Stop
from mmcl_fast.streams.broken_samples import BrokenSample

EVERY = 0.2  # seconds between two lines about the same phase


class Told:
    """A progress (``mmcl_fast.progress``) that is told to the sweep."""

    def __init__(self, events: TextIO, folder: Path, tasks: int):
        self.events, self.folder, self.tasks = events, folder, tasks
        self.learned = tasks_learned(folder)
        self.say("")

    def say(self, doing: str) -> None:
        with contextlib.suppress(OSError):  # a sweep that is gone: the signal that follows stops this
            tell(self.events, event="progress", learned=self.learned, tasks=self.tasks, doing=doing)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[_Phase]:
        self.say(name)
        yield _Phase(self, name, total)

    def log(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        learned, self.learned = self.learned, tasks_learned(self.folder)
        if learned != self.learned:
            self.say("")


class _Phase:
    def __init__(self, told: Told, name: str, total: int | None):
        self.told, self.name, self.total, self.done, self.last = told, name, total, 0, time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            self.told.say(f"{self.name} {self.done}" + (f"/{self.total}" if self.total else ""))

    def note(self, **numbers: float) -> None:
        """Numbers that are not told."""


def tell(events: TextIO, **values: Any) -> None:
    events.write(json.dumps(values) + "\n")
    events.flush()


def learn(job: dict[str, Any], events: TextIO) -> str | None:
    """Learn a cell, or go on with it. Returns what was wrong, or None."""
    folder = Path(job["out"])
    try:
        config = build_config(job["config"], str(folder))
        stream = runs.make_stream(config, folder)
        if job["skipped"] and not runs.holds_run(folder, resume=True):
            stream = stream.without_broken([BrokenSample(**sample) for sample in job["skipped"]])
        runs.train(config, folder, resume=True, progress=Told(events, folder, len(stream)), stream=stream)
    except UserError as fault:
        return str(fault)
    except Exception as fault:
        traceback.print_exc()
        first = (str(fault).splitlines() or [""])[0]
        return f"{type(fault).__name__}: {first}; {job['log']} has the rest"
    return None


def main() -> None:
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    use.load()
    distributed.exit_with_parent()
    for line in sys.stdin:
        job = json.loads(line)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        faulthandler.enable()
        try:
            fault = learn(job, events)
        except Stop as stop:
            sys.exit(128 + stop.signum)
        gc.collect()
        tell(events, event="end", fault=fault)


if __name__ == "__main__":
    main()
