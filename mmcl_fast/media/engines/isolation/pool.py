"""Workers that decode for many threads: a file that kills its worker costs one answer."""

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
from mmcl_fast.media.engines.isolation.jobs import Job, Outcome, read_here
from mmcl_fast.media.engines.isolation.limits import Limits
from mmcl_fast.media.engines.isolation.passed_files import describe
from mmcl_fast.media.engines.isolation.process import Died, IsolationError, Worker
from mmcl_fast.media.registry import BUILT_IN, REGISTRY, Reader, source_hash
from mmcl_fast.media.source import Source, name_of
from mmcl_fast.media.spec import Spec, VisualSpec, default_spec

REASONS = ("signal", "exit", "memory", "cpu", "wall")  # why a worker ended
UNSURE = ("signal", "exit", "memory")  # an earlier file may have done it: a new worker tries again
OPTION = {"cpu": "max_decode_seconds", "wall": "max_decode_wait", "memory": "max_decode_mb"}
FILES_EACH = 5000  # after so many answers a worker is replaced, so that no leak adds up
TOGETHER, BYTES_TOGETHER = 16, 1 << 26  # files, and bytes of planes, of one request
RESTARTS = 3  # of the process that starts workers, while one request is under way
ALIGNED = 64  # bytes, of the planes of each file


class DecoderDied(MediaError):
    """A file that ended its worker. ``reason``: one of ``REASONS``."""

    def __init__(self, message: object = "", reason: str = "signal") -> None:
        super().__init__(message)
        self.reason = reason


class Pool:
    """``decode``, ``check`` and ``sniff`` as ``mmcl_fast.media`` has them, in worker processes. For any thread.

    Texts are read in this process, by code of our own. So are registered modalities that the workers do not know:
    those that no ``--use`` file registers.

    Args:
        workers: processes at most; each is started with the first file that it gets.
        limits: of one file.
        died: called with the reason of each worker that ended, one of ``REASONS``.

    Raises:
        IsolationError: this system has no such processes.
    """

    def __init__(self, workers: int, limits: Limits | None = None, died: Callable[[str], None] | None = None) -> None:
        reason = process.unavailable()
        if reason is not None:
            raise IsolationError(f"decoding in workers: {reason}: {process.ADVICE}")
        self.limits, self.deaths = limits or Limits(), Counter[str]()
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
        """How many processes there are now."""
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
        """See ``media.decode``. Raises DecoderDied, a MediaError, for a file that ends its worker."""
        specs = {modality: spec or default_spec(modality)}
        data = _sound(*self.run([Job(source, modality, specs, False, out, view, seed, key)])).data
        assert data is not None
        return data

    def check(self, source: Source, modality: str, spec: Spec | None = None) -> None:
        """See ``media.check``."""
        _sound(*self.run([Job(source, modality, {modality: spec or default_spec(modality)}, whole=True)]))

    def sniff(self, source: Source) -> str:
        """See ``media.sniff``."""
        modality = _sound(*self.run([Job(source, None, {})])).modality
        assert modality is not None
        return modality

    def knows(self, modality: str) -> bool:
        """Whether workers read this modality as this process would."""
        read = REGISTRY.reader(modality)
        if read is None:
            return True
        if read not in self._readers:
            self._readers[read] = process.fork_server().readers().get(modality) == source_hash(read)
        return self._readers[read]

    def visual(self, job: Job) -> dict[str, VisualSpec]:
        """The specs that workers have to do with."""
        return {name: spec for name, spec in job.specs.items() if isinstance(spec, VisualSpec) and self.knows(name)}

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Read files one after another in one worker. One that ends it is read again alone, then the others go on."""
        found: dict[int, Outcome] = {}
        abroad = []
        for i, job in enumerate(jobs):
            if job.modality is None or job.modality in self.visual(job):
                abroad.append(i)
            else:
                found[i] = read_here(job)
        found |= zip(abroad, self._abroad([jobs[i] for i in abroad]))
        for i in abroad:
            outcome, job = found[i], jobs[i]
            if outcome.error is None and outcome.modality == "text" and "text" in job.specs:
                found[i] = read_here(replace(job, modality="text"))
        return [found[i] for i in range(len(jobs))]

    def _abroad(self, jobs: Sequence[Job]) -> list[Outcome]:
        """What workers say of jobs that are for them."""
        found: dict[int, Outcome] = {}
        sizes = [0 if job.whole else _size(self.visual(job)) for job in jobs]
        left, suspect, restarts = deque(range(len(jobs))), -1, 0
        while left:
            some = [left.popleft()] if suspect >= 0 else _together(sizes, left)
            chosen = [jobs[i] for i in some]
            try:
                with _opened(chosen) as opened:
                    found |= dict(zip(some, self._ask(chosen, opened)))
                suspect = -1
            except _Lost as lost:
                found |= dict(zip(some, lost.known))
                i, death = some[lost.job], lost.death
                if death.reason == "server":
                    restarts += 1
                    if restarts > RESTARTS:
                        line = f"decoding in workers: {death.how}, again and again: {process.ADVICE}"
                        raise IsolationError(line) from None
                elif i == suspect or lost.alone or death.reason not in UNSURE:
                    found[i], suspect = Outcome(jobs[i].modality, _error(jobs[i].source, death, self.limits)), -1
                else:
                    suspect = i
            again = [i for i in some if i not in found]
            # A suspect is asked for next, alone.
            left.extendleft(sorted(again, key=lambda i: (i != suspect, i), reverse=True))
        return [found[i] for i in range(len(jobs))]

    def start(self) -> None:
        """Start all workers now, and not with the first file that each gets. Raises IsolationError."""
        slots = []
        with suppress(queue.Empty):
            while True:
                slots.append(self._slots.get_nowait())
        try:
            slots = [worker or self._start() for worker in slots]
        finally:
            for slot in slots:
                self._slots.put(slot)

    def close(self) -> None:
        """End all workers, whatever they do."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
        slots = []
        with suppress(queue.Empty):
            while True:
                slots.append(self._slots.get_nowait())
        for worker_or_none in slots:
            self._end(worker_or_none)
            self._slots.put(None)  # for a thread that waits, and then finds it closed

    def _ask(self, jobs: Sequence[Job], opened: Sequence[tuple[dict[str, Any], int]]) -> list[Outcome]:
        """What some worker says of the jobs; their planes are in ``out``. Raises _Lost where it ends."""
        worker = self._slots.get()
        try:
            if worker is not None and worker.answered >= FILES_EACH:
                self._end(worker)
                worker = None
            if self._closed:
                raise MediaError("stopped before it was decoded")
            worker = worker or self._start()
            alone = worker.answered == 0 and len(jobs) == 1
            visual = [self.visual(job) for job in jobs]
            *places, size = accumulate((0 if job.whole else _size(v) for job, v in zip(jobs, visual)), initial=0)
            numbered = [{name: _spec(spec) for name, spec in specs.items()} for specs in visual]
            sent = [descriptor for _, descriptor in opened if descriptor >= 0]
            wanted = [
                {
                    "source": source,
                    "descriptor": sent.index(descriptor) if descriptor >= 0 else None,
                    "modality": job.modality,
                    "specs": {name: number for name, (number, _) in specs.items()},
                    "place": None if job.whole else place,
                    "view": job.view,
                    "seed": job.seed,
                    "key": job.key,
                }
                for job, specs, (source, descriptor), place in zip(jobs, numbered, opened, places)
            ]
            try:
                answers = worker.ask(wanted, sent, dict(pair for specs in numbered for pair in specs.values()), size)
            except Died as death:
                self._count(worker, death.reason)
                if self._closed:
                    raise MediaError("stopped before it was decoded") from None
                known = [self._outcome(*each, worker) for each in zip(jobs, death.answers, places)]
                raise _Lost(death, known, alone) from None
            return [self._outcome(*each, worker) for each in zip(jobs, answers, places)]
        finally:
            if worker is not None and worker.ended:
                self._end(worker)
                worker = None
            self._slots.put(worker)

    def _outcome(self, job: Job, answer: dict[str, Any], place: int, worker: Worker) -> Outcome:
        name, modality = name_of(job.source), answer.get("modality", job.modality)
        if "fault" in answer:
            raise RuntimeError(f"{name}: a fault of mmcl-fast in a worker:\n{answer['fault']}")
        if modality is not None and modality not in BUILT_IN and modality != job.modality:
            return Outcome(None, MediaError(f"{name}: the decoder gave no answer on this file: leave it out"))
        if "error" in answer:
            return Outcome(modality, MediaError(answer["error"]))
        spec = self.visual(job).get(modality or "")
        if job.whole or spec is None:
            return Outcome(modality)
        shape = spec.shape
        out = torch.empty(shape) if job.out is None else job.out
        return Outcome(modality, None, out.copy_(worker.planes(place, shape)))

    def _start(self) -> Worker:
        try:
            worker = Worker(self.limits)
        except Died as death:
            raise IsolationError(f"decoding in workers: each ends at once ({death.how}): {process.ADVICE}") from None
        with self._lock:
            self._alive.add(worker)
            if self._closed:
                worker.kill()
        return worker

    def _end(self, worker: Worker | None) -> None:
        if worker is not None:
            worker.close()
            worker.memory = None  # with its descriptor, which an exception's frames would keep for a while
            with self._lock:
                self._alive.discard(worker)

    def _count(self, worker: Worker, reason: str) -> None:
        with self._lock:
            self._alive.discard(worker)
            if worker.killed or reason == "server":
                return
            self.deaths[reason] += 1
        self._died(reason)


class _Lost(Exception):
    """A worker ended: outcomes of the first jobs, which job was under way, and whether the worker saw no other."""

    def __init__(self, death: Died, known: Sequence[Outcome], alone: bool) -> None:
        super().__init__(death.how)
        self.death, self.known, self.alone, self.job = death, known, alone, death.job


def _error(source: Source, death: Died, limits: Limits) -> DecoderDied:
    name, how = name_of(source), death.how
    if death.reason in ("signal", "exit"):
        return DecoderDied(f"{name}: the decoder died ({how}) on this file: convert it or leave it out", death.reason)
    if death.reason == "memory":
        how = f"needed more than {limits.max_decode_mb:g} MB of memory"
    line = f"{name}: the decoder {how} on this file: convert it, leave it out or raise {OPTION[death.reason]}"
    return DecoderDied(line, death.reason)


def _sound(outcome: Outcome) -> Outcome:
    if outcome.error is not None:
        raise outcome.error
    return outcome


@contextmanager
def _opened(jobs: Sequence[Job]) -> Iterator[list[tuple[dict[str, Any], int]]]:
    """Their files, opened for a worker; see ``describe``."""
    pairs: list[tuple[dict[str, Any], int]] = []
    try:
        for job in jobs:
            pairs.append(describe(job.source))
        yield pairs
    finally:
        for _, descriptor in pairs:
            if descriptor >= 0:
                os.close(descriptor)


def _together(sizes: Sequence[int], left: deque[int]) -> list[int]:
    """Takes the first of those left that go into one request."""
    some, size = [left.popleft()], 0
    while left and len(some) < TOGETHER and (size := size + sizes[left[0]]) <= BYTES_TOGETHER - sizes[some[0]]:
        some.append(left.popleft())
    return some


def _size(specs: Mapping[str, VisualSpec]) -> int:
    """Bytes of the planes of a file, whichever of these modalities it has."""
    size = max((4 * torch.Size(spec.shape).numel() for spec in specs.values()), default=0)
    return -(-size // ALIGNED) * ALIGNED


@lru_cache(maxsize=256)
def _spec(spec: VisualSpec) -> tuple[int, str]:
    """A number of its own in this process, and JSON."""
    with _numbering:
        return next(_numbers), json.dumps(spec.to_dict())


_numbers = iter(range(1 << 62))
_numbering = threading.Lock()
