"""The progress of a sweep: a phase for all cells, and one for each cell that is being learned."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

from mmcl_fast.compare.cell import Cell
from mmcl_fast.progress import Display, TrackedPhase


class SweepDisplay:
    """Shows the cells of a sweep on a display of ``mmcl_fast.progress``.

    Bars show the cells under way. Lines tell when a cell begins and when it has learned a task. Both keep a line for
    each cell that ended.

    Args:
        display: what shows it.
        count: number of cells.
        done: number of cells that are finished already.
    """

    def __init__(self, display: Display, count: int, done: int):
        self.display, self.count, self.done = display, count, done
        self._learned: dict[str, int] = {}  # cell -> tasks learned
        self._phases: dict[str, tuple[AbstractContextManager[TrackedPhase], TrackedPhase]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SweepDisplay:
        self._all = self._stack.enter_context(self.display.phase("all cells", self.count, unit="cells", lines=False))
        self._all.update(self.done, self.count, "")
        return self

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self._phases):
            self._close(name)
        self._stack.close()

    def begin(self, cell: Cell) -> None:
        """Show a cell that is being learned from now on."""
        self.display.log_detail(f"{cell.name}: {'goes on' if cell.begun else 'begins'}")
        # Cells overlap and end in any order, so no with block fits their phases.
        manager = self.display.phase(cell.name, unit="tasks", lines=False)
        self._phases[cell.name] = manager, manager.__enter__()

    def progress(self, cell: Cell, event: dict[str, Any]) -> None:
        """Show an event of a cell: how many of its ``tasks`` are ``learned``, and what it is ``doing``."""
        if event["learned"] != self._learned.get(cell.name, 0):
            self._learned[cell.name] = event["learned"]
            self.display.log_detail(f"{cell.name}: task {event['learned']}/{event['tasks']}")
        self._phases[cell.name][1].update(event["learned"], event["tasks"], event["doing"])

    def end(self, cell: Cell, fault: str | None) -> None:
        """Show that a cell is finished, or why it failed."""
        self.done += 1
        outcome = f"failed: {fault}" if fault else "finished"
        self.display.log(f"{cell.name}: {outcome} ({self.done}/{self.count} cells)")
        self._close(cell.name)
        self._all.update(self.done, self.count, "")

    def _close(self, name: str) -> None:
        manager, _ = self._phases.pop(name)
        manager.__exit__(None, None, None)
