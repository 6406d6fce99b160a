"""Look after new versions of a run while its server answers, and take them over between batches."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from mmcl_fast.errors import UserError
from mmcl_fast.learning import Learner
from mmcl_fast.learning.current_version import POINTER, current_version
from mmcl_fast.serve.served import ServedVersion, load_version, require_versions

WATCH_SECONDS = 1.0
Identity = tuple[int, int, int] | None
# Takes a version over, or raises: the server calls it on its event loop.
TakeOver = Callable[[Learner, ServedVersion], Awaitable[None]]


@dataclass(frozen=True)
class FailedVersion:
    """A version that could not be served.

    Attributes:
        version: its number; None: the pointer itself is damaged.
        at: when it was tried, in UTC, as ISO 8601.
        reason: one line.
    """

    version: int | None
    at: str
    reason: str


class Watcher:
    """Watches the pointer of a run. Make it before the first version is loaded, so that no move is missed.

    A version that fails is not tried again before the pointer is written anew, as ``mmcl-fast rollback`` does.

    Args:
        run: the run folder.
        device: of the learners.
        seconds: time between two looks.

    Raises:
        UserError: the folder is no run, so it has no versions.
    """

    def __init__(self, run: Path, device: str = "auto", seconds: float = WATCH_SECONDS) -> None:
        require_versions(run)
        self.run, self.device, self.seconds = run, device, seconds
        self.last_failed: FailedVersion | None = None
        self._seen = self._identify()
        self._thread = ThreadPoolExecutor(1, "mmcl-fast-watch")

    async def work(self, serving: Callable[[], int | None], take_over: TakeOver, failed: Callable[[], None]) -> None:
        """Look at the pointer until cancelled.

        Args:
            serving: returns the number of the version that is served.
            take_over: makes a loaded learner the one that is served.
            failed: called for each version that could not be served.
        """
        while True:
            await asyncio.sleep(self.seconds)
            await self._look(serving, take_over, failed)

    async def _look(self, serving: Callable[[], int | None], take_over: TakeOver, failed: Callable[[], None]) -> None:
        loop, number = asyncio.get_running_loop(), None
        try:
            if not await loop.run_in_executor(self._thread, self._has_moved):
                return
            number = await loop.run_in_executor(self._thread, current_version, self.run)
            if number == serving():
                return
            learner, version = await loop.run_in_executor(self._thread, load_version, self.run, number, self.device)
            await take_over(learner, version)
        except Exception as fault:  # whatever a broken version raises, the one before goes on
            failed()
            await loop.run_in_executor(self._thread, self._report_failure, number, fault, serving())
        else:
            await loop.run_in_executor(self._thread, _print_line, sys.stdout, f"{self.run}: serves version {number}")

    def _identify(self) -> Identity:
        """Return which pointer file there is; None without one. Each move writes a new file."""
        try:
            found = os.stat(self.run / POINTER)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _has_moved(self) -> bool:
        before, self._seen = self._seen, self._identify()
        return before != self._seen

    def _report_failure(self, number: int | None, fault: Exception, serving: int | None) -> None:
        line = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
        line = " ".join(line.split()) or type(fault).__name__
        at = datetime.now(UTC).replace(microsecond=0).isoformat()
        # A client need not know the folders of this machine.
        hidden = line.replace(str(self.run.resolve()), self.run.resolve().name)
        hidden = hidden.replace(str(self.run), self.run.resolve().name)
        self.last_failed = FailedVersion(number, at, hidden)
        what = f"{self.run}: the pointer" if number is None else f"{self.run}: version {number}"
        _print_line(sys.stderr, f"{what} can't be served ({line}); version {serving} goes on")

    def values(self) -> dict[str, Any] | None:
        """Return the last version that failed, for JSON; None without one."""
        return None if self.last_failed is None else asdict(self.last_failed)

    def close(self) -> None:
        """End the thread once it is done with a version that it loads."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _print_line(stream: TextIO, line: str) -> None:
    with suppress(Exception):  # a closed or full stream does not stop the server
        print(line, file=stream, flush=True)
