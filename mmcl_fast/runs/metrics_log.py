"""metrics.jsonl: what a run measured, one JSON object a line, appended and on the disk before the run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files as files
from mmcl_fast import distributed
from mmcl_fast.errors import RunError

ROW_ENDS = ("start", "task")


class MetricsLog:
    """The events of a run folder's metrics.jsonl.

    A row (the evaluation after a task, and before the first) is written in one piece that ends with a ``task`` (or
    ``start``) event; without that last line the row does not count. Of several processes only the first writes.

    Attributes:
        events: in the order of the file.
        rows: numbers of tasks whose row is whole; 0 is the row before the first task.
        listeners: are called with the events of each piece once it is on the disk.
    """

    def __init__(self, file: Path):
        self.file = file
        self.events: list[dict[str, Any]] = []
        self.rows: set[int] = set()
        self.listeners: list[Callable[[Sequence[dict[str, Any]]], None]] = []

    def keep(self, tasks: int) -> None:
        """Read the file and drop what a stopped run left after its last whole row, and rows after ``tasks`` tasks.

        Raises:
            RunError: a line is damaged (but for a last one cut short).
        """
        if not self.file.is_file():
            return
        kept, row, cut = [], [], False
        data = self.file.read_bytes()
        for number, line in enumerate(data.split(b"\n")[:-1], 1):  # what follows the last newline was cut short
            event = self._event(number, line)
            if event["event"] == "resume" or (event["event"] == "summary" and not cut):
                kept.append((line, event))
            elif event["event"] != "summary":
                row.append((line, event))
                if event["event"] in ROW_ENDS:
                    if event.get("task", 0) <= tasks:
                        kept += row
                        self.rows.add(event.get("task", 0))
                    else:
                        cut = True
                    row = []
        self.events = [event for _, event in kept]
        text = b"".join(line + b"\n" for line, _ in kept)
        if text != data and distributed.is_main_process():
            files.replace(self.file, text)

    def _event(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if (
            not isinstance(event, dict)
            or not isinstance(event.get("event"), str)
            or not isinstance(event.get("task", 0), int)
        ):
            raise RunError(
                f"{self.file}:{number}: no event of a run; restore the file from a copy, or start a new run "
                "in another folder"
            )
        return event

    def require(self, tasks: int) -> None:
        """Raises RunError unless the rows before that of the ``tasks``-th task, the last one learned, are there."""
        missing = sorted(set(range(tasks)) - self.rows)
        if missing:
            raise RunError(
                f"{self.file}: the row after task {missing[0]} is missing, but task {tasks} is learned; "
                "restore the file from a copy, or start a new run in another folder"
            )

    def write(self, *events: dict[str, Any]) -> None:
        """Append events in one piece and wait for the disk."""
        if distributed.is_main_process():
            self._append("".join(json.dumps(e) + "\n" for e in events).encode())
        self.events += events
        self.rows |= {e.get("task", 0) for e in events if e["event"] in ROW_ENDS}
        for listener in self.listeners:
            listener(events)

    def _append(self, text: bytes) -> None:
        new = not self.file.exists()
        with files.writing(self.file):
            with open(self.file, "ab") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            if new:
                files.sync(self.file.parent)
