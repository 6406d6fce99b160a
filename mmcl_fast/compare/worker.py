"""A worker process of a sweep: it learns cells and reports its progress.

Standard input has a JSON object on each line, a cell to learn: ``{"config", "out", "log", "skipped"}``. Standard output
gets JSON objects, too: ``{"event": "progress", "learned", "tasks", "doing"}`` and ``{"event": "end", "fault"}``. All
other output goes to the cell's log.
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

from mmcl_fast import distributed, plugins
from mmcl_fast.compare.cell import count_learned_tasks
from mmcl_fast.config import build_config
from mmcl_fast.errors import UserError
from mmcl_fast.runs.folder import holds_run
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.task_checkpoints import RunStopped
from mmcl_fast.runs.task_loop import learn_stream
from mmcl_fast.streams.broken_samples import BrokenSample

REPORT_INTERVAL = 0.2  # seconds between two events of the same phase


class EventProgress:
    """A progress display (``mmcl_fast.progress``) that sends events to the sweep."""

    def __init__(self, events: TextIO, folder: Path, tasks: int):
        self.events, self.folder, self.tasks = events, folder, tasks
        self.learned = count_learned_tasks(folder)
        self.report("")

    def report(self, doing: str) -> None:
        with contextlib.suppress(OSError):  # the sweep has ended; the signal that follows stops this process
            send_event(self.events, event="progress", learned=self.learned, tasks=self.tasks, doing=doing)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[_Phase]:
        self.report(name)
        yield _Phase(self, name, total)

    def log(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        learned, self.learned = self.learned, count_learned_tasks(self.folder)
        if learned != self.learned:
            self.report("")


class _Phase:
    def __init__(self, progress: EventProgress, name: str, total: int | None):
        self.progress, self.name, self.total = progress, name, total
        self.done, self.last = 0, time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.last >= REPORT_INTERVAL:
            self.last = time.monotonic()
            self.progress.report(f"{self.name} {self.done}" + (f"/{self.total}" if self.total else ""))

    def note(self, **numbers: float) -> None:
        """Ignore numbers such as the loss: the sweep shows none."""


def send_event(events: TextIO, **values: Any) -> None:
    """Write one event as a line of JSON."""
    events.write(json.dumps(values) + "\n")
    events.flush()


def learn_cell(job: dict[str, Any], events: TextIO) -> str | None:
    """Learn or resume a cell. Return why it failed, or None."""
    folder = Path(job["out"])
    try:
        config = build_config(job["config"], str(folder))
        stream = make_stream(config, folder)
        if job["skipped"] and not holds_run(folder, resume=True):
            stream = stream.without_broken([BrokenSample(**sample) for sample in job["skipped"]])
        learn_stream(config, folder, resume=True, progress=EventProgress(events, folder, len(stream)), stream=stream)
    except UserError as fault:
        return str(fault)
    except Exception as fault:
        traceback.print_exc()
        first = (str(fault).splitlines() or [""])[0]
        return f"{type(fault).__name__}: {first}; {job['log']} has the rest"
    return None


def main() -> None:
    """Learn the cells of standard input until it ends."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not write between the events
    plugins.load()
    distributed.exit_with_parent()
    for line in sys.stdin:
        job = json.loads(line)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        faulthandler.enable()
        try:
            fault = learn_cell(job, events)
        except RunStopped as stop:
            sys.exit(128 + stop.signum)
        gc.collect()  # the next cell needs the memory of this one
        send_event(events, event="end", fault=fault)


if __name__ == "__main__":
    main()
