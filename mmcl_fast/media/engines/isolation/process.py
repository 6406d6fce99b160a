"""The parent's handles of the processes: one fork server, and its workers."""

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
from mmcl_fast.media.engines.isolation.limits import DecodeLimits
from mmcl_fast.media.engines.isolation.passed_files import SHARED_HEADER, make_shared_memory

START_SECONDS = 120.0  # enough to import torch and the decoders on a busy machine
# Environment variables that a worker sees: those for Python, shared libraries and decoders, and no secrets.
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
KEPT_PREFIXES = ("PYTHON", "LC_", "LD_", "DYLD_", "OMP_", "MKL_", "KMP_", "MMCL_FAST_")


class IsolationError(UserError):
    """Workers cannot be started on this system."""


def unavailable() -> str | None:
    """Return why no worker can be started on this system; None: workers can be started."""
    if os.name != "posix" or not hasattr(os, "fork"):
        return f"{sys.platform} can't fork a process"
    if not sys.executable:
        return "the program of this Python interpreter is not known"
    return None


class ForkServer:
    """Starts workers, and reports how they ended. Any thread may call its methods."""

    def __init__(self) -> None:
        self.owner, self.lock = os.getpid(), threading.Lock()
        self.first_answer: dict[str, Any] | None = None
        ours, theirs = socket.socketpair()
        paths = [os.path.abspath(path) for path in sys.path]
        code = (
            f"import sys; sys.path[:] = {paths!r}; "
            f"from mmcl_fast.media.engines.isolation.fork_server import main; main({theirs.fileno()})"
        )
        environment = {k: v for k, v in os.environ.items() if k in KEPT_VARIABLES or k.startswith(KEPT_PREFIXES)}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that Ctrl-C at a terminal reaches only the parent
                env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        except OSError as fault:
            ours.close()
            raise IsolationError(f"decoding in workers: no process can be started ({fault}): {ADVICE}") from None
        finally:
            theirs.close()
        self.control = ours

    def is_alive(self) -> bool:
        """Return whether it runs and belongs to this process, not to the parent of a fork."""
        return self.owner == os.getpid() and self.process.poll() is None

    def readers(self) -> dict[str, str]:
        """Return the source hash of each registered reader that workers know, by modality. Waits for the start."""
        with self.lock:
            return self._readers()

    def _readers(self) -> dict[str, str]:
        if self.first_answer is None:
            self.first_answer = self._receive(START_SECONDS)
        if "error" in self.first_answer:
            raise IsolationError(f"decoding in workers: {self.first_answer['error']}: {ADVICE}")
        return self.first_answer.get("readers", {})

    def start(self, limits: DecodeLimits) -> tuple[int, socket.socket]:
        """Start a worker. Return its process number and the socket on which it answers."""
        ours, theirs = socket.socketpair()
        try:
            with self.lock:
                self._readers()
                messages.send_request(self.control, {"do": "fork", "limits": asdict(limits)}, [theirs.fileno()])
                answer = self._receive(START_SECONDS)
            if "process" not in answer:
                raise IsolationError(f"decoding in workers: {answer.get('error', 'no answer')}: {ADVICE}")
            return answer["process"], ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def wait(self, process: int) -> int:
        """Wait for a worker that was killed or ends by itself. Return its status as ``os.waitpid`` does."""
        with self.lock:
            messages.send_request(self.control, {"do": "wait", "process": process})
            return self._receive(START_SECONDS)["status"]

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            return messages.receive_answer(self.control, seconds)
        except TimeoutError:
            self.close()
            raise messages.ConnectionEnded("it did not answer in time") from None

    def close(self) -> None:
        """End it, which also ends every worker."""
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
    """Return the fork server of this process. It is started if necessary, and may still be importing."""
    global _server
    with _lock:
        if _server is None or not _server.is_alive():
            if _server is not None and _server.owner == os.getpid():
                _server.close()
            _server = ForkServer()
        return _server


@atexit.register
def _end() -> None:
    if _server is not None and _server.owner == os.getpid():
        _server.close()


class WorkerDied(Exception):
    """A worker ended before it answered.

    Attributes:
        reason: signal, exit, memory, cpu or wall; "server" if the fork server ended.
        how: the reason in words, for a message.
        job: number of the job that it was decoding.
        answers: its answers to the jobs before.
    """

    def __init__(self, reason: str, how: str, job: int = 0, answers: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(how)
        self.reason, self.how, self.job, self.answers = reason, how, job, answers


class Worker:
    """One worker. Only one thread at a time may use it. Raises WorkerDied if it ends at once."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits, self.answered, self.killed, self.ended = limits, 0, False, False
        self.ending = threading.Lock()
        self.memory: mmap.mmap | None = None
        self.specs: set[int] = set()
        for attempt in range(2):
            self.server = fork_server()
            try:
                self.process, self.sock = self.server.start(limits)
                break
            except messages.ConnectionEnded as fault:  # the fork server was killed: start a new one
                self.server.close()
                if attempt:
                    line = f"decoding in workers: the process that starts them ended ({fault}): {ADVICE}"
                    raise IsolationError(line) from None
        try:
            answer = messages.receive_answer(self.sock, START_SECONDS)
        except (messages.ConnectionEnded, TimeoutError):
            raise self._find_death() from None
        if "error" in answer:
            self.close()
            raise WorkerDied("exit", str(answer["error"]))
        self.forbidden: list[str] = answer.get("forbidden", [])

    def ask(
        self, jobs: Sequence[dict[str, Any]], descriptors: Sequence[int], specs: dict[int, str], size: int
    ) -> list[dict[str, Any]]:
        """Return the worker's answer to each job.

        Args:
            jobs: as the module ``worker`` reads them; ``descriptor`` in a job is an index into ``descriptors``.
            descriptors: of the jobs' files.
            specs: number -> JSON of the specs that the jobs name.
            size: bytes of all decoded planes.

        Raises:
            WorkerDied: the worker ended, or its answer is invalid.
        """
        new = -1
        request: dict[str, Any] = {"jobs": jobs, "memory": 0}
        request["specs"] = {number: text for number, text in specs.items() if number not in self.specs}
        if self.memory is None or SHARED_HEADER + size > len(self.memory):
            request["memory"] = SHARED_HEADER + size
            new = make_shared_memory(SHARED_HEADER + size)
            self.memory = mmap.mmap(new, SHARED_HEADER + size)
        try:
            messages.send_request(self.sock, request, [*descriptors, new] if new >= 0 else descriptors)
            answer = self._wait_for_answer(len(jobs))
        except messages.ConnectionEnded:
            raise self._find_death() from None
        except WorkerDied:
            raise
        except BaseException:  # an interrupt may leave half an answer in the socket
            self.close()
            raise
        finally:
            if new >= 0:
                os.close(new)
        self.specs |= set(specs)
        answers = answer.get("answers")
        if not (isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers)):
            answers = []
        self.answered += len(answers)
        if answers and answers[-1].get("memory") is True:
            self.close()
            raise WorkerDied("memory", "", len(answers) - 1, answers[:-1])
        if len(answers) != len(jobs):
            self.close()
            raise WorkerDied("exit", "its answer cannot be read", min(len(answers), len(jobs) - 1))
        return answers

    def view_planes(self, place: int, shape: tuple[int, ...]) -> Tensor:
        """Return a float32 view of decoded planes in shared memory, valid until the next call of ``ask``."""
        assert self.memory is not None
        count = torch.Size(shape).numel()
        return torch.frombuffer(self.memory, dtype=torch.float32, count=count, offset=SHARED_HEADER + place).view(shape)

    def _wait_for_answer(self, jobs: int) -> dict[str, Any]:
        """Wait for the answer to ``jobs`` jobs. Raises WorkerDied if one job takes longer than ``max_decode_wait``."""
        seconds, job = self.limits.max_decode_wait, -1
        for _ in range(jobs + 1):
            try:
                return messages.receive_answer(self.sock, seconds)
            except TimeoutError:
                before, job = job, self._current_job()
                if job == before or jobs == 1:
                    break
        self.close()
        raise WorkerDied("wall", f"took more than {seconds:g} s", min(job, jobs - 1))

    def _current_job(self) -> int:
        """Return the number of the job under way, which the worker writes into shared memory."""
        return 0 if self.memory is None else self.memory[0]

    def _find_death(self) -> WorkerDied:
        """End the worker, and return the exception that says how it ended."""
        job, status = self._current_job(), self.close()
        if status is None:
            return WorkerDied("server", "ended with the process that starts workers", job)
        if not os.WIFSIGNALED(status):
            return WorkerDied("exit", f"exit code {os.waitstatus_to_exitcode(status)}", job)
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return WorkerDied("cpu", f"took more than {self.limits.max_decode_seconds:g} s of processor time", job)
        known = number in list(signal.Signals)
        return WorkerDied("signal", signal.Signals(number).name if known else f"signal {number}", job)

    def kill(self) -> None:
        """Kill it from another thread. A thread that waits for its answer gets WorkerDied."""
        self.killed = True
        with self.ending:  # otherwise its number may belong to another process by now
            if not self.ended:
                os.kill(self.process, signal.SIGKILL)

    def close(self) -> int | None:
        """End it. Return its status as ``os.waitpid`` does; None if the status is unknown."""
        with self.ending:
            if self.ended:
                return None
            self.ended = True
            self.sock.close()
            try:
                os.kill(self.process, signal.SIGKILL)  # a zombie keeps its number and its status until ``wait``
                return self.server.wait(self.process)
            except (messages.ConnectionEnded, OSError):
                return None
