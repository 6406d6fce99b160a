"""metrics.jsonl: what a run measured, one JSON object a line, on the disk before the run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files, distributed
from mmcl_fast.errors import RunError

ROW_ENDS = ("start", "task")  # events that complete a row


class MetricsLog:
    """The events of a run folder's metrics.jsonl.

    A row is the evaluation after a task, or before the first. Its events are written in one piece that ends with a
    ``task`` (or ``start``) event. Without that last line the row does not count. Of several processes rank 0 writes.

    Attributes:
        events: in the order of the file.
        rows: numbers of tasks whose row is complete; 0 is the row before the first task.
        listeners: called with the events of each piece once it is on the disk.
    """

    def __init__(self, file: Path):
        self.file = file
        self.events: list[dict[str, Any]] = []
        self.rows: set[int] = set()
        self.listeners: list[Callable[[Sequence[dict[str, Any]]], None]] = []

    def load(self, tasks: int, *, mend: bool = True) -> None:
        """Read the file; drop incomplete rows, and rows after ``tasks`` tasks, which a stopped run left.

        Args:
            tasks: number of tasks learned.
            mend: also drop them from the file.

        Raises:
            RunError: a line is damaged. A last line that was cut short is dropped without an error.
        """
        if not self.file.is_file():
            return
        kept, row, dropped = [], [], False
        data = self.file.read_bytes()
        for number, line in enumerate(data.split(b"\n")[:-1], 1):  # without what follows the last newline
            event = self._parse(number, line)
            if event["event"] == "resume" or (event["event"] == "summary" and not dropped):
                kept.append((line, event))
            elif event["event"] != "summary":
                row.append((line, event))
                if event["event"] in ROW_ENDS:
                    if event.get("task", 0) <= tasks:
                        kept += row
                        self.rows.add(event.get("task", 0))
                    else:
                        dropped = True
                    row = []
        self.events = [event for _, event in kept]
        text = b"".join(line + b"\n" for line, _ in kept)
        if mend and text != data and distributed.is_main_process():
            atomic_files.replace_file(self.file, text)

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
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

    def require_rows(self, tasks: int) -> None:
        """Check that the rows before the row of the newest task learned, the ``tasks``-th, are there.

        The newest task's own row may be missing: the run evaluates that task again.

        Raises:
            RunError: a row is missing.
        """
        missing = sorted(set(range(tasks)) - self.rows)
        if missing:
            raise RunError(
                f"{self.file}: the row after task {missing[0]} is missing, but task {tasks} is learned; "
                "restore the file from a copy, or start a new run in another folder"
            )

    def write(self, *events: dict[str, Any]) -> None:
        """Append events in one piece, wait for the disk, and call the listeners.

        Raises:
            RunError: the file cannot be written.
        """
        if distributed.is_main_process():
            self._append("".join(json.dumps(e) + "\n" for e in events).encode())
        self.events += events
        self.rows |= {e.get("task", 0) for e in events if e["event"] in ROW_ENDS}
        for listener in self.listeners:
            listener(events)

    def _append(self, text: bytes) -> None:
        new = not self.file.exists()
        with atomic_files.explain_write_errors(self.file):
            with open(self.file, "ab") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            if new:
                atomic_files.sync_path(self.file.parent)  # the new name, too, must outlive a power cut
