"""A pool of workers that decode for many threads. A file that kills its worker loses only its own result."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.engines.isolation import process
from mmcl_fast.media.engines.isolation.jobs import Job, Outcome, decode_in_process
from mmcl_fast.media.engines.isolation.limits import DecodeLimits
from mmcl_fast.media.engines.isolation.passed_files import pack_source
from mmcl_fast.media.engines.isolation.process import IsolationError, Worker, WorkerDied
from mmcl_fast.media.registry import BUILT_IN, REGISTRY, Reader, source_hash
from mmcl_fast.media.source import Source, name_of
from mmcl_fast.media.spec import Spec, VisualSpec, default_spec

REASONS = ("signal", "exit", "memory", "cpu", "wall")  # why a worker ended
MAY_BE_EARLIER_FILE = ("signal", "exit", "memory")  # an earlier file may be the cause: a new worker tries again
OPTION = {"cpu": "max_decode_seconds", "wall": "max_decode_wait", "memory": "max_decode_mb"}
FILES_PER_WORKER = 5000  # then the worker is replaced, so that leaks do not add up
FILES_PER_REQUEST, BYTES_PER_REQUEST = 16, 1 << 26  # at most; bytes of decoded planes
MAX_RESTARTS = 3  # of the fork server during one request
ALIGNMENT = 64  # bytes, of the planes of each file in shared memory


class DecoderDied(MediaError):
    """A file killed its worker. ``reason``: one of ``REASONS``."""

    def __init__(self, message: object = "", reason: str = "signal") -> None:
        super().__init__(message)
        self.reason = reason


class Pool:
    """``decode``, ``check`` and ``sniff`` of ``mmcl_fast.media``, in worker processes. Any thread may call them.

    Text is read in this process, by code that uses no decoder. So are registered modalities that the workers do not
    know, because no ``--use`` file registers them.

    Args:
        workers: number of processes at most; each is started with its first file.
        limits: of one file.
        died: called with the reason of each worker's death, one of ``REASONS``.

    Raises:
        IsolationError: this system cannot fork processes.
    """

    def __init__(
        self, workers: int, limits: DecodeLimits | None = None, died: Callable[[str], None] | None = None
    ) -> None:
        reason = process.unavailable()
        if reason is not None:
            raise IsolationError(f"decoding in workers: {reason}: {process.ADVICE}")
        self.limits, self.deaths = limits or DecodeLimits(), Counter[str]()
        self._died = died or (lambda reason: None)
        self._slots: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        self._alive: set[Worker] = set()
        self._lock, self._closed = threading.Lock(), False
        self._readers: dict[Reader, bool] = {}
        self.workers = max(1, workers)
        for _ in range(self.workers):
            self._slots.put(None)
        process.fork_server()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> int:
        """The number of worker processes that are running."""
        return len(self._alive)

    def decode(
        self,
        source: Source,
        modality: str,
        spec: Spec | None = None,
        *,
        view: int = 0,
        seed: int = 0,
        key: str | None = None,
        out: Tensor | None = None,
    ) -> Tensor | str:
        """See ``media.decode``. Raises DecoderDied, a MediaError, for a file that kills its worker."""
        specs = {modality: spec or default_spec(modality)}
        data = _require_success(*self.run([Job(source, modality, specs, False, out, view, seed, key)])).data
        assert data is not None
        return data

    def check(self, source: Source, modality: str, spec: Spec | None = None) -> None:
        """See ``media.check``."""
        specs = {modality: spec or default_spec(modality)}
        _require_success(*self.run([Job(source, modality, specs, check_only=True)]))

    def sniff(self, source: Source) -> str:
        """See ``media.sniff``."""
        modality = _require_success(*self.run([Job(source, None, {})])).modality
        assert modality is not None
        return modality

    def workers_know(self, modality: str) -> bool:
        """Return whether workers read this modality by the same code as this process."""
        read = REGISTRY.reader(modality)
        if read is None:
            return True
        if read not in self._readers:
            self._readers[read] = process.fork_server().readers().get(modality) == source_hash(read)
        return self._readers[read]

    def visual_specs(self, job: Job) -> dict[str, VisualSpec]:
        """Return the specs of a job for the modalities that workers decode."""
        return {
            name: spec for name, spec in job.specs.items() if isinstance(spec, VisualSpec) and self.workers_know(name)
        }

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Decode files in one worker, one after another.

        A file that kills its worker is tried again alone in a new one. It is not if it took too long, or if its worker
        had decoded no other file.
        """
        found: dict[int, Outcome] = {}
        for_workers = []
        for i, job in enumerate(jobs):
            if job.modality is None or job.modality in self.visual_specs(job):
                for_workers.append(i)
            else:
                found[i] = decode_in_process(job)
        found |= zip(for_workers, self._run_in_workers([jobs[i] for i in for_workers]))
        for i in for_workers:
            outcome, job = found[i], jobs[i]
            if outcome.error is None and outcome.modality == "text" and "text" in job.specs:
                found[i] = decode_in_process(replace(job, modality="text"))
        return [found[i] for i in range(len(jobs))]

    def _run_in_workers(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Return the outcomes of jobs that workers decode."""
        found: dict[int, Outcome] = {}
        sizes = [0 if job.check_only else _plane_bytes(self.visual_specs(job)) for job in jobs]
        waiting, suspect, restarts = deque(range(len(jobs))), -1, 0
        while waiting:
            numbers = [waiting.popleft()] if suspect >= 0 else _take_request(sizes, waiting)
            chosen = [jobs[i] for i in numbers]
            try:
                with _open_files(chosen) as opened:
                    found |= dict(zip(numbers, self._ask_worker(chosen, opened)))
                suspect = -1
            except _WorkerLost as lost:
                found |= dict(zip(numbers, lost.known))
                i, death = numbers[lost.job], lost.death
                if death.reason == "server":
                    restarts += 1
                    if restarts > MAX_RESTARTS:
                        line = f"decoding in workers: {death.how}, again and again: {process.ADVICE}"
                        raise IsolationError(line) from None
                elif i == suspect or lost.alone or death.reason not in MAY_BE_EARLIER_FILE:
                    found[i], suspect = Outcome(jobs[i].modality, _death_error(jobs[i].source, death, self.limits)), -1
                else:
                    suspect = i
            again = [i for i in numbers if i not in found]
            # The suspect comes next, alone.
            waiting.extendleft(sorted(again, key=lambda i: (i != suspect, i), reverse=True))
        return [found[i] for i in range(len(jobs))]

    def start(self) -> None:
        """Start all workers now, before their first files. Raises IsolationError."""
        slots = []
        with suppress(queue.Empty):
            while True:
                slots.append(self._slots.get_nowait())
        try:
            slots = [worker or self._start_worker() for worker in slots]
        finally:
            for slot in slots:
                self._slots.put(slot)

    def close(self) -> None:
        """Kill all workers, even if they are decoding."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
        slots = []
        with suppress(queue.Empty):
            while True:
                slots.append(self._slots.get_nowait())
        for worker_or_none in slots:
            self._end_worker(worker_or_none)
            self._slots.put(None)  # wakes a thread that waits for a worker; it then finds the pool closed

    def _ask_worker(self, jobs: Sequence[Job], opened: Sequence[tuple[dict[str, Any], int]]) -> list[Outcome]:
        """Return the outcomes of jobs by the next free worker. Raises _WorkerLost if the worker dies."""
        worker = self._slots.get()
        try:
            if worker is not None and worker.answered >= FILES_PER_WORKER:
                self._end_worker(worker)
                worker = None
            if self._closed:
                raise MediaError("stopped before it was decoded")
            worker = worker or self._start_worker()
            alone = worker.answered == 0 and len(jobs) == 1
            visual = [self.visual_specs(job) for job in jobs]
            sizes = (0 if job.check_only else _plane_bytes(specs) for job, specs in zip(jobs, visual))
            *places, size = accumulate(sizes, initial=0)
            numbered = [{name: _numbered_spec(spec) for name, spec in specs.items()} for specs in visual]
            sent = [descriptor for _, descriptor in opened if descriptor >= 0]
            wanted = [
                {
                    "source": source,
                    "descriptor": sent.index(descriptor) if descriptor >= 0 else None,
                    "modality": job.modality,
                    "specs": {name: number for name, (number, _) in specs.items()},
                    "place": None if job.check_only else place,
                    "view": job.view,
                    "seed": job.seed,
                    "key": job.key,
                }
                for job, specs, (source, descriptor), place in zip(jobs, numbered, opened, places)
            ]
            try:
                answers = worker.ask(wanted, sent, dict(pair for specs in numbered for pair in specs.values()), size)
            except WorkerDied as death:
                self._count_death(worker, death.reason)
                if self._closed:
                    raise MediaError("stopped before it was decoded") from None
                known = [self._outcome(*each, worker) for each in zip(jobs, death.answers, places)]
                raise _WorkerLost(death, known, alone) from None
            return [self._outcome(*each, worker) for each in zip(jobs, answers, places)]
        finally:
            if worker is not None and worker.ended:
                self._end_worker(worker)
                worker = None
            self._slots.put(worker)

    def _outcome(self, job: Job, answer: dict[str, Any], place: int, worker: Worker) -> Outcome:
        """Return the outcome of a job from a worker's answer, which a hostile file may have written."""
        name, modality = name_of(job.source), answer.get("modality", job.modality)
        if "fault" in answer:
            raise RuntimeError(f"{name}: a fault of mmcl-fast in a worker:\n{answer['fault']}")
        if modality is not None and modality not in BUILT_IN and modality != job.modality:
            return Outcome(None, MediaError(f"{name}: the decoder gave no answer on this file: leave it out"))
        if "error" in answer:
            return Outcome(modality, MediaError(answer["error"]))
        spec = self.visual_specs(job).get(modality or "")
        if job.check_only or spec is None:
            return Outcome(modality)
        shape = spec.shape
        out = torch.empty(shape) if job.out is None else job.out
        return Outcome(modality, None, out.copy_(worker.view_planes(place, shape)))

    def _start_worker(self) -> Worker:
        try:
            worker = Worker(self.limits)
        except WorkerDied as death:
            raise IsolationError(f"decoding in workers: each ends at once ({death.how}): {process.ADVICE}") from None
        with self._lock:
            self._alive.add(worker)
            if self._closed:
                worker.kill()
        return worker

    def _end_worker(self, worker: Worker | None) -> None:
        if worker is not None:
            worker.close()
            worker.memory = None  # frees its descriptor now, although the traceback of an error may refer to the worker
            with self._lock:
                self._alive.discard(worker)

    def _count_death(self, worker: Worker, reason: str) -> None:
        with self._lock:
            self._alive.discard(worker)
            if worker.killed or reason == "server":
                return
            self.deaths[reason] += 1
        self._died(reason)


class _WorkerLost(Exception):
    """A worker died.

    Attributes:
        death: its cause.
        known: outcomes of the jobs that it finished.
        alone: whether it had decoded no other file before.
        job: number of the job that it was decoding.
    """

    def __init__(self, death: WorkerDied, known: Sequence[Outcome], alone: bool) -> None:
        super().__init__(death.how)
        self.death, self.known, self.alone, self.job = death, known, alone, death.job


def _death_error(source: Source, death: WorkerDied, limits: DecodeLimits) -> DecoderDied:
    name, how = name_of(source), death.how
    if death.reason in ("signal", "exit"):
        return DecoderDied(f"{name}: the decoder died ({how}) on this file: convert it or leave it out", death.reason)
    if death.reason == "memory":
        how = f"needed more than {limits.max_decode_mb:g} MB of memory"
    line = f"{name}: the decoder {how} on this file: convert it, leave it out or raise {OPTION[death.reason]}"
    return DecoderDied(line, death.reason)


def _require_success(outcome: Outcome) -> Outcome:
    if outcome.error is not None:
        raise outcome.error
    return outcome


@contextmanager
def _open_files(jobs: Sequence[Job]) -> Iterator[list[tuple[dict[str, Any], int]]]:
    """Open the files of jobs for a worker; see ``pack_source``."""
    pairs: list[tuple[dict[str, Any], int]] = []
    try:
        for job in jobs:
            pairs.append(pack_source(job.source))
        yield pairs
    finally:
        for _, descriptor in pairs:
            if descriptor >= 0:
                os.close(descriptor)


def _take_request(sizes: Sequence[int], waiting: deque[int]) -> list[int]:
    """Remove and return the numbers of the first waiting jobs that fit into one request."""
    numbers, size = [waiting.popleft()], 0
    while (
        waiting
        and len(numbers) < FILES_PER_REQUEST
        and (size := size + sizes[waiting[0]]) <= BYTES_PER_REQUEST - sizes[numbers[0]]
    ):
        numbers.append(waiting.popleft())
    return numbers


def _plane_bytes(specs: Mapping[str, VisualSpec]) -> int:
    """Return the bytes of a file's planes, enough for any of these modalities."""
    size = max((4 * torch.Size(spec.shape).numel() for spec in specs.values()), default=0)
    return -(-size // ALIGNMENT) * ALIGNMENT


@lru_cache(maxsize=256)
def _numbered_spec(spec: VisualSpec) -> tuple[int, str]:
    """Return a number that is unique in this process, and the spec as JSON. Workers are sent each JSON once."""
    with _numbering:
        return next(_numbers), json.dumps(spec.to_dict())


_numbers = iter(range(1 << 62))
_numbering = threading.Lock()
