"""What a run shows while it works. Anything with ``phase`` and ``log`` as in `Progress` will do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Shown(Protocol):
    """A phase on display."""

    def advance(self, n: int = 1) -> None: ...

    def note(self, **numbers: float) -> None: ...


class Progress(Protocol):
    """A display of phases (with ``total`` steps, or None where the end is unknown) and of finished lines."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Shown]: ...

    def log(self, line: str) -> None: ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Silent]:
        yield self

    def advance(self, n: int = 1) -> None:
        """A step that nobody sees."""

    def note(self, **numbers: float) -> None:
        """Numbers that nobody sees."""

    def log(self, line: str) -> None:
        """A line that nobody sees."""


class Lines:
    """For logs and pipes: one line when a phase of at least ``least`` seconds ends, one line a task; while a phase
    goes on, a line every ``every`` seconds with its rate and the time left."""

    def __init__(self, stream: Any = None, least: float = 0.0, every: float = 30.0):
        self.stream, self.least, self.every = stream or sys.stderr, least, every

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[_Count]:
        count = _Count(self, name, total)
        yield count
        seconds = time.perf_counter() - count.start
        if seconds < self.least:
            return
        done = f"{count.done} in {seconds:.1f} s, {count.done / seconds:.1f}/s" if count.done else f"{seconds:.1f} s"
        self.log(f"  {name}: {done}{_numbers(count.numbers)}")

    def log(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class _Count:
    def __init__(self, display: Lines, name: str, total: int | None) -> None:
        self.display, self.name, self.total = display, name, total
        self.start = self.said = time.perf_counter()
        self.done = 0
        self.numbers: dict[str, float] = {}

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.perf_counter()
        if self.done and now - self.said >= self.display.every:
            self.said = now
            self.display.log(f"  {self.name}: {self._so_far(now - self.start)}{_numbers(self.numbers)}")

    def _so_far(self, seconds: float) -> str:
        if self.total is None:
            return f"{self.done} so far, {self.done / seconds:.1f}/s"
        left = seconds * max(0, self.total - self.done) / self.done
        return (
            f"{self.done} of {self.total}, {self.done / seconds:.1f}/s, "
            f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left"
        )

    def note(self, **numbers: float) -> None:
        self.numbers |= numbers


class Bars:
    """For terminals: a bar a phase, with rate, time taken and time left; it goes when the phase ends."""

    def __init__(self, console: Any):
        self.console = console
        self._display: Any = None
        self._open = 0

    def _make(self) -> Any:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            transient=True,
        )

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[_Bar]:
        if self._open == 0:
            self._display = self._make()
            self._display.start()
        self._open += 1
        key = self._display.add_task(name, total=total, rate="", numbers="")
        try:
            yield _Bar(self._display, key)
        finally:
            self._display.remove_task(key)
            self._open -= 1
            if self._open == 0:
                self._display.stop()

    def log(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False)


class _Bar:
    def __init__(self, display: Any, key: Any):
        self.display, self.key, self.done, self.start = display, key, 0, time.perf_counter()

    def advance(self, n: int = 1) -> None:
        self.done += n
        seconds = time.perf_counter() - self.start
        self.display.update(self.key, advance=n, rate=f"{self.done / seconds:.1f}/s" if seconds > 0 else "")

    def note(self, **numbers: float) -> None:
        self.display.update(self.key, numbers=_numbers(numbers).removeprefix(", "))


def _numbers(numbers: dict[str, float]) -> str:
    return "".join(f", {name} {value:.4g}" for name, value in numbers.items())


def make(quiet: bool = False) -> Progress:
    """The display that suits standard error: bars on a terminal, lines elsewhere, nothing when ``quiet``."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        return Silent()
    return Bars(console) if console.is_terminal else Lines(least=1.0)
