"""How far a sweep is: all cells, and a line for each that is being learned."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from mmcl_fast.compare.cell import Cell


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to take away."""

    def begin(self, cell: Cell) -> None:
        """A cell that is being learned from now on."""

    def progress(self, cell: Cell, event: dict[str, Any]) -> None:
        """``event``: its tasks, how many are learned, and what it is doing."""

    def end(self, cell: Cell, fault: str | None) -> None:
        """A cell that is finished, or failed."""


class Lines(Silent):
    """For logs and pipes: a line when a cell begins, ends, and has learned a task."""

    def __init__(self, count: int, done: int):
        self.count, self.done = count, done
        self.learned: dict[str, int] = {}

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def begin(self, cell: Cell) -> None:
        self.say(f"{cell.name}: {'goes on' if cell.begun else 'begins'}")

    def progress(self, cell: Cell, event: dict[str, Any]) -> None:
        if event["learned"] != self.learned.get(cell.name, 0):
            self.learned[cell.name] = event["learned"]
            self.say(f"{cell.name}: task {event['learned']}/{event['tasks']}")

    def end(self, cell: Cell, fault: str | None) -> None:
        self.done += 1
        self.say(f"{cell.name}: {'failed: ' + fault if fault else 'finished'} ({self.done}/{self.count} cells)")


class Bars(Lines):
    """For terminals: a bar over all cells and one for each cell under way; a line stays for each that ended."""

    def __init__(self, count: int, done: int, console: Any):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        super().__init__(count, done)
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self.all = self.bars.add_task("all cells", total=count, completed=done, unit="cells", doing="")
        self.keys: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        self.bars.console.print(line, highlight=False, markup=False)

    def begin(self, cell: Cell) -> None:
        self.keys[cell.name] = self.bars.add_task(cell.name, total=None, unit="tasks", doing="starts")

    def progress(self, cell: Cell, event: dict[str, Any]) -> None:
        self.bars.update(self.keys[cell.name], completed=event["learned"], total=event["tasks"], doing=event["doing"])

    def end(self, cell: Cell, fault: str | None) -> None:
        super().end(cell, fault)
        self.bars.remove_task(self.keys.pop(cell.name))
        self.bars.update(self.all, completed=self.done)


def make(quiet: bool, count: int, done: int) -> Silent:
    """The display that suits standard error. ``done``: cells of ``count`` that are finished already."""
    from rich.console import Console

    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Bars(count, done, console) if console.is_terminal else Lines(count, done)
