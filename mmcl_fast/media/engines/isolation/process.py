"""The parent's side of the processes: the fork server, of which there is one, and each worker."""

from __future__ import annotations

import atexit
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import UserError
from mmcl_fast.media.engines.isolation import messages
from mmcl_fast.media.engines.isolation.limits import Limits
from mmcl_fast.media.engines.isolation.passed_files import HEAD, shared

START_SECONDS = 120.0  # for importing torch and the decoders on a machine that is busy
# What of the environment a worker sees: what Python, the loader of libraries and the decoders read, and no secrets.
KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
KEPT_PREFIXES = ("PYTHON", "LC_", "LD_", "DYLD_", "OMP_", "MKL_", "KMP_", "MMCL_FAST_")


class IsolationError(UserError):
    """Workers can't be started here."""


def unavailable() -> str | None:
    """Why no worker can be started on this system, or None."""
    if os.name != "posix" or not hasattr(os, "fork"):
        return f"{sys.platform} can't fork a process"
    if not sys.executable:
        return "the program of this Python interpreter is not known"
    return None


class ForkServer:
    """Starts workers, and says how they ended. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self.owner, self.lock = os.getpid(), threading.Lock()
        self.told: dict[str, Any] | None = None
        ours, theirs = socket.socketpair()
        paths = [os.path.abspath(path) for path in sys.path]
        code = (
            f"import sys; sys.path[:] = {paths!r}; "
            f"from mmcl_fast.media.engines.isolation.fork_server import main; main({theirs.fileno()})"
        )
        kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at a terminal is the parent's to answer
                env={**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        except OSError as fault:
            ours.close()
            raise IsolationError(f"decoding in workers: no process can be started ({fault}): {ADVICE}") from None
        finally:
            theirs.close()
        self.control = ours

    def alive(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def readers(self) -> dict[str, str]:
        """Code of the reader of each registered modality that workers know; waits until they could be started."""
        with self.lock:
            return self._readers()

    def _readers(self) -> dict[str, str]:
        if self.told is None:
            self.told = self._receive(START_SECONDS)
        if "error" in self.told:
            raise IsolationError(f"decoding in workers: {self.told['error']}: {ADVICE}")
        return self.told.get("readers", {})

    def start(self, limits: Limits) -> tuple[int, socket.socket]:
        """A new worker: its process, and the socket that it answers on."""
        ours, theirs = socket.socketpair()
        try:
            with self.lock:
                self._readers()
                messages.request(self.control, {"do": "fork", "limits": asdict(limits)}, [theirs.fileno()])
                told = self._receive(START_SECONDS)
            if "process" not in told:
                raise IsolationError(f"decoding in workers: {told.get('error', 'no answer')}: {ADVICE}")
            return told["process"], ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def wait(self, process: int) -> int:
        """How a worker that was killed, or is about to end, has ended: as of ``os.waitpid``."""
        with self.lock:
            messages.request(self.control, {"do": "wait", "process": process})
            return self._receive(START_SECONDS)["status"]

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            return messages.answered(self.control, seconds)
        except TimeoutError:
            self.close()
            raise messages.Ended("it did not answer in time") from None

    def close(self) -> None:
        """End it, and with it every worker."""
        self.control.close()
        if self.owner == os.getpid():
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


ADVICE = "set media.isolate = false, or the variable MMCL_FAST_ISOLATE to 0, to decode in this process"
_server: ForkServer | None = None
_lock = threading.Lock()


def fork_server() -> ForkServer:
    """The one of this process, started where there is none; it may still be importing."""
    global _server
    with _lock:
        if _server is None or not _server.alive():
            if _server is not None and _server.owner == os.getpid():
                _server.close()
            _server = ForkServer()
        return _server


@atexit.register
def _end() -> None:
    if _server is not None and _server.owner == os.getpid():
        _server.close()


class Died(Exception):
    """A worker ended before it answered.

    Attributes:
        reason: signal, exit, memory, cpu or wall; "server" where the process that starts workers ended.
        how: the same in words.
        job: which of the files asked for was under way.
        answers: what is known of those before.
    """

    def __init__(self, reason: str, how: str, job: int = 0, answers: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(how)
        self.reason, self.how, self.job, self.answers = reason, how, job, answers


class Worker:
    """One worker; only one thread at a time may ask it. Raises Died where it ends at once."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.answered, self.killed, self.ended = limits, 0, False, False
        self.ending = threading.Lock()
        self.memory: mmap.mmap | None = None
        self.specs: set[int] = set()
        for attempt in range(2):
            self.server = fork_server()
            try:
                self.process, self.sock = self.server.start(limits)
                break
            except messages.Ended as fault:  # the server itself was killed: a new one
                self.server.close()
                if attempt:
                    line = f"decoding in workers: the process that starts them ended ({fault}): {ADVICE}"
                    raise IsolationError(line) from None
        try:
            told = messages.answered(self.sock, START_SECONDS)
        except (messages.Ended, TimeoutError):
            raise self._death() from None
        if "error" in told:
            self.close()
            raise Died("exit", str(told["error"]))
        self.forbidden: list[str] = told.get("forbidden", [])

    def ask(
        self, jobs: Sequence[dict[str, Any]], descriptors: Sequence[int], specs: dict[int, str], size: int
    ) -> list[dict[str, Any]]:
        """The answer to each job.

        Args:
            jobs: see ``worker``; ``descriptor`` in them counts in ``descriptors``.
            specs: number -> JSON of the specs that the jobs name.
            size: bytes of all planes that come back.

        Raises:
            Died: see there.
        """
        new = -1
        request: dict[str, Any] = {"jobs": jobs, "memory": 0}
        request["specs"] = {number: text for number, text in specs.items() if number not in self.specs}
        if self.memory is None or HEAD + size > len(self.memory):
            request["memory"] = HEAD + size
            new = shared(HEAD + size)
            self.memory = mmap.mmap(new, HEAD + size)
        try:
            messages.request(self.sock, request, [*descriptors, new] if new >= 0 else descriptors)
            told = self._answer(len(jobs))
        except messages.Ended:
            raise self._death() from None
        except Died:
            raise
        except BaseException:  # an interrupt in the middle of an answer
            self.close()
            raise
        finally:
            if new >= 0:
                os.close(new)
        self.specs |= set(specs)
        answers = told.get("answers")
        if not (isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers)):
            answers = []
        self.answered += len(answers)
        if answers and answers[-1].get("memory") is True:
            self.close()
            raise Died("memory", "", len(answers) - 1, answers[:-1])
        if len(answers) != len(jobs):
            self.close()
            raise Died("exit", "its answer is not to be read", min(len(answers), len(jobs) - 1))
        return answers

    def planes(self, place: int, shape: tuple[int, ...]) -> Tensor:
        """What was decoded last: a float32 view of the shared memory, until the next is asked for."""
        assert self.memory is not None
        count = torch.Size(shape).numel()
        return torch.frombuffer(self.memory, dtype=torch.float32, count=count, offset=HEAD + place).view(shape)

    def _answer(self, jobs: int) -> dict[str, Any]:
        """Waits as long as each job begins in time."""
        seconds, job = self.limits.max_decode_wait, -1
        for _ in range(jobs + 1):
            try:
                return messages.answered(self.sock, seconds)
            except TimeoutError:
                before, job = job, self._job()
                if job == before or jobs == 1:
                    break
        self.close()
        raise Died("wall", f"took more than {seconds:g} s", min(job, jobs - 1))

    def _job(self) -> int:
        return 0 if self.memory is None else self.memory[0]

    def _death(self) -> Died:
        job, status = self._job(), self.close()
        if status is None:
            return Died("server", "ended with the process that starts workers", job)
        if not os.WIFSIGNALED(status):
            return Died("exit", f"exit code {os.waitstatus_to_exitcode(status)}", job)
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return Died("cpu", f"took more than {self.limits.max_decode_seconds:g} s of processor time", job)
        known = number in list(signal.Signals)
        return Died("signal", signal.Signals(number).name if known else f"signal {number}", job)

    def kill(self) -> None:
        """End it from another thread: who waits for its answer gets Died."""
        self.killed = True
        with self.ending:  # else its number might be another process's by now
            if not self.ended:
                os.kill(self.process, signal.SIGKILL)

    def close(self) -> int | None:
        """End it; returns how it ended, None where nobody knows."""
        with self.ending:
            if self.ended:
                return None
            self.ended = True
            self.sock.close()
            try:
                os.kill(self.process, signal.SIGKILL)  # a zombie keeps its number, and how it ended, until it is asked
                return self.server.wait(self.process)
            except (messages.Ended, OSError):
                return None
