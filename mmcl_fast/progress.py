"""Displays of progress on standard error: bars, lines, or nothing.

A function that takes ``progress`` needs an object with ``phase`` and ``log`` as in :class:`Progress`, or None. Where
the default is ``"auto"``, it shows bars in a terminal and in a notebook, and nothing elsewhere.

Example::

    display = progress.make()
    with display.phase("decode", total=len(files)) as phase:
        for file in files:
            decode(file)
            phase.advance()
    display.log("decoded")
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from mmcl_fast.errors import ConfigError


class Phase(Protocol):
    """A phase of work on display."""

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more steps as done."""

    def note(self, **numbers: float) -> None:
        """Show numbers by name, such as ``loss=0.2``; a later value replaces an earlier one."""


class Progress(Protocol):
    """A display of phases and of finished lines."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Phase]:
        """Show a phase while the block runs; ``total`` is its number of steps, None where it is unknown."""

    def log(self, line: str) -> None:
        """Show a line that stays."""


class TrackedPhase(Phase, Protocol):
    """A phase that another process works on, so its counts are set and not advanced."""

    def update(self, done: int, total: int, doing: str) -> None:
        """Set the number of steps done, the number of all steps, and a text that says what is under way."""


class Display(Protocol):
    """``Progress`` with more ways to show: :class:`Silent`, :class:`Lines` and :class:`Bars`."""

    def phase(
        self, name: str, total: int | None = None, *, unit: str = "", lines: bool = True
    ) -> AbstractContextManager[TrackedPhase]:
        """Show a phase while the block runs.

        Args:
            name: what the phase does, such as "decode".
            total: its number of steps; None where it is unknown.
            unit: what a step is, such as "tasks".
            lines: False: only a bar shows the phase, because ``log_detail`` writes its lines.
        """

    def log(self, line: str) -> None:
        """Show a line that stays."""

    def log_detail(self, line: str) -> None:
        """Show a line where no bar shows the same."""


ProgressChoice: TypeAlias = Progress | Literal["auto"] | None
DisplayChoice: TypeAlias = Display | Literal["auto"] | None
AnyProgress = TypeVar("AnyProgress", bound=Progress)


class Silent:
    """A display that shows nothing; also its own phases."""

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, *, unit: str = "", lines: bool = True
    ) -> Iterator[TrackedPhase]:
        yield self

    def advance(self, n: int = 1) -> None: ...

    def note(self, **numbers: float) -> None: ...

    def update(self, done: int, total: int, doing: str) -> None: ...

    def log(self, line: str) -> None: ...

    def log_detail(self, line: str) -> None: ...


class Lines:
    """A display for logs and pipes: a line when a phase ends, and lines with rate and time left while it goes on.

    Args:
        stream: where lines are written; None: standard error.
        min_seconds: a phase that took less time gets no line.
        interval: seconds between two lines of a phase.
    """

    def __init__(self, stream: Any = None, min_seconds: float = 0.0, interval: float = 30.0):
        self.stream, self.min_seconds, self.interval = stream or sys.stderr, min_seconds, interval

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, *, unit: str = "", lines: bool = True
    ) -> Iterator[TrackedPhase]:
        if not lines:
            yield Silent()
            return
        count = _LinePhase(self, name, total)
        yield count
        seconds = time.perf_counter() - count.start
        if seconds < self.min_seconds:
            return
        done = f"{count.done} in {seconds:.1f} s, {count.done / seconds:.1f}/s" if count.done else f"{seconds:.1f} s"
        self.log(f"  {name}: {done}{_format_numbers(count.numbers)}")

    def log(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def log_detail(self, line: str) -> None:
        self.log(line)


class _LinePhase:
    def __init__(self, display: Lines, name: str, total: int | None) -> None:
        self.display, self.name, self.total = display, name, total
        self.start = self.last_line = time.perf_counter()
        self.done = 0
        self.numbers: dict[str, float] = {}

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.perf_counter()
        if self.done and now - self.last_line >= self.display.interval:
            self.last_line = now
            self.display.log(f"  {self.name}: {self._state(now - self.start)}{_format_numbers(self.numbers)}")

    def _state(self, seconds: float) -> str:
        if self.total is None:
            return f"{self.done} so far, {self.done / seconds:.1f}/s"
        left = seconds * max(0, self.total - self.done) / self.done
        return f"{self.done} of {self.total}, {self.done / seconds:.1f}/s, {format_time(left)} left"

    def note(self, **numbers: float) -> None:
        self.numbers |= numbers

    def update(self, done: int, total: int, doing: str) -> None:
        self.total = total
        self.advance(done - self.done)


class Bars:
    """A display for terminals: a bar per phase, with rate, time taken and time left; it goes when the phase ends.

    Args:
        console: a ``rich.console.Console``.
    """

    def __init__(self, console: Any):
        self.console = console
        self._bars: Any = None
        self._open = 0  # phases under way

    def _make_bars(self) -> Any:
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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", style="dim", markup=False),
            console=self.console,
            transient=True,
        )

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, *, unit: str = "", lines: bool = True
    ) -> Iterator[TrackedPhase]:
        # rich draws one live display at a time, so nested phases share it.
        if self._open == 0:
            self._bars = self._make_bars()
            self._bars.start()
        self._open += 1
        key = self._bars.add_task(name, total=total, unit=unit, rate="", text="")
        try:
            yield _BarPhase(self._bars, key)
        finally:
            self._bars.remove_task(key)
            self._open -= 1
            if self._open == 0:
                self._bars.stop()

    def log(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False)

    def log_detail(self, line: str) -> None:
        """Show nothing: a bar shows it."""


class _BarPhase:
    def __init__(self, bars: Any, key: Any):
        self.bars, self.key, self.done, self.start = bars, key, 0, time.perf_counter()

    def advance(self, n: int = 1) -> None:
        self.done += n
        seconds = time.perf_counter() - self.start
        self.bars.update(self.key, advance=n, rate=f"{self.done / seconds:.1f}/s" if seconds > 0 else "")

    def note(self, **numbers: float) -> None:
        self.bars.update(self.key, text=_format_numbers(numbers).removeprefix(", "))

    def update(self, done: int, total: int, doing: str) -> None:
        self.done = done
        self.bars.update(self.key, completed=done, total=total, text=doing)


def format_time(seconds: float) -> str:
    """Return hours, minutes and seconds as ``1:02:03``."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def _format_numbers(numbers: dict[str, float]) -> str:
    return "".join(f", {name} {value:.4g}" for name, value in numbers.items())


def make(quiet: bool = False) -> Display:
    """Return the display that suits standard error: bars on a terminal, lines elsewhere, nothing when ``quiet``."""
    if quiet:
        return Silent()
    from rich.console import Console

    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines(min_seconds=1.0)


def choose_display(progress: AnyProgress | Literal["auto"] | None) -> AnyProgress | Display | None:
    """Return the display for ``progress``: itself, or for ``"auto"`` the one that suits where Python runs.

    That is bars in a terminal, and bars or lines in a notebook. Elsewhere it is None, and in all processes but one.

    Raises:
        ConfigError: another text than ``"auto"``.
    """
    if not isinstance(progress, str):
        return progress
    if progress != "auto":
        raise ConfigError(f'progress = {progress!r}: give "auto", None, or a display of mmcl_fast.progress')
    from rich.console import Console

    from mmcl_fast import distributed

    console = Console(stderr=True)
    if not distributed.is_main_process():
        return None
    if console.is_jupyter:
        # rich draws bars in a notebook with ipywidgets alone.
        return Bars(console) if importlib.util.find_spec("ipywidgets") else Lines(min_seconds=1.0)
    return Bars(console) if console.is_terminal else None
