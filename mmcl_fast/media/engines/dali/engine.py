"""The DALI backend: pictures, video, sound and depth maps decoded by NVIDIA DALI, on a GPU or on the CPU.

Worker threads read the files and look at their headers (``dali_routes``). What DALI decodes goes, in groups of
bounded size, through a pipeline that runs ahead of the consumer (``dali_graphs``); the rest goes to the cpu backend
in the same threads. A group that makes the pipeline fail is run again item by item in a new pipeline, as DALI asks
for one after an error; the item that fails alone goes to the cpu backend, which decodes it or says what is wrong.
A pipeline that does not come back (``dali_calls``) is left, and the cpu backend does the rest.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.media.decode import decode
from mmcl_fast.media.dsp.views import draw_view, normalise
from mmcl_fast.media.engines.dali.graphs import GRAPHS, Depths, Pictures, Sounds
from mmcl_fast.media.engines.dali.pipeline_thread import Pipe, Stuck
from mmcl_fast.media.engines.dali.routes import ROUTES, Feed
from mmcl_fast.media.engines.engine import Chunk, pool_of
from mmcl_fast.media.spec import Spec, VisualSpec

AHEAD = 4  # batches whose files are read
FLIGHT = 2  # groups in the pipeline
# Items of a group. Of 32 or more, DALI 2.4's image decoder reads headers in several threads, and where its own meets
# one that it cannot read it leaves without waiting for the others: they go on with what is gone, and the process
# crashes (dali/operators/imgcodec/image_decoder.h, RunImplImpl: WaitForWork is skipped by an exception).
MOST = 31
BUDGET = 1 << 28  # bytes that a group decodes to
GPU_BUDGET = 1 << 31
TRIES = 3  # failures after which a kind of file that never worked goes to the cpu backend
INSTALL = "pip install 'mmcl-fast[dali]' (CUDA 13) or 'mmcl-fast[dali-cu12]' (CUDA 12)"


def available(device: torch.device | str = "cpu") -> str | None:
    """None where DALI can be used for batches on ``device``; otherwise why not, and what to do."""
    device = _numbered(device)
    return _available(device.type, device.index or 0)


def _numbered(device: torch.device | str) -> torch.device:
    """``cuda`` is the current GPU."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


@lru_cache(maxsize=8)
def _available(kind: str, index: int) -> str | None:
    if kind not in ("cpu", "cuda"):
        return f"DALI has no device {kind!r}: use cpu or cuda"
    try:
        from nvidia.dali import Pipeline, fn
    except (ImportError, OSError) as error:
        return f"nvidia.dali does not import ({error}): {INSTALL}"
    if kind == "cpu":
        return None
    if not torch.cuda.is_available():
        return "torch finds no GPU: use the device cpu or the CUDA build of torch"
    try:
        pipe = Pipeline(batch_size=1, num_threads=1, device_id=index, prefetch_queue_depth=1)
        with pipe:
            pipe.set_outputs(fn.zeros(shape=[1], device="gpu"))
        pipe.run()
    except RuntimeError as error:
        return f"DALI cannot use cuda:{index} ({' '.join(str(error).split())[:200]}): update the driver, or {INSTALL}"
    return None


@dataclass
class Job:
    """A batch on its way."""

    chunk: Chunk
    data: Tensor  # the chunk's
    looks: list[Future]  # readers of headers
    feeds: dict[int, Feed] = field(default_factory=dict)  # slot -> what DALI gets
    grouped: bool = False  # the looks are done
    groups: int = 0  # not finished yet
    work: list[Future] = field(default_factory=list)  # in threads, after the looks
    rows: dict[int, Tensor] = field(default_factory=dict)  # decoded on the CPU for a batch on a GPU


@dataclass
class Group:
    """Items of one batch that the pipeline takes together."""

    job: Job
    slots: list[int]


class DaliEngine:
    """See ``mmcl_fast.media.engines.engine.Engine``.

    Args:
        device: cpu, or the GPU that decodes and holds the batches.
        workers: threads of DALI, and as many that read files and run the cpu backend; at least 1 is used.
        batch_size: the most indices of a batch.

    Results are the cpu backend's but for rounding: the resize is antialiased like Pillow's, and a large JPEG is
    decoded in full. Video frames are the same ones, scaled after the conversion to RGB instead of before it. A damaged
    file may be decoded here, with other pixels, where the cpu backend refuses it; what is cut short is refused by both.
    DALI 2.4 prints what it cannot read, and its video decoder can crash the process over a damaged file (see
    ``dali_routes.video`` for what keeps such files from it): check files of unknown origin first. Where a call into
    DALI does not come back in two minutes, there is a RuntimeWarning, and the cpu backend decodes the rest.

    Raises:
        ConfigError: DALI cannot be used, or ``spec`` is for text.
    """

    name = "dali"

    def __init__(self, spec: Spec, *, device: torch.device | str = "cpu", workers: int = 2, batch_size: int = 32):
        if not isinstance(spec, VisualSpec):
            raise ConfigError("media backend 'dali': text is not decoded by DALI, use the backend cpu")
        self.device = _numbered(device)
        if why_not := available(self.device):
            raise ConfigError(f"media backend 'dali': {why_not}")
        self.spec, self.workers, self.batch_size = spec, max(workers, 1), batch_size
        self.gpu = self.device.type == "cuda"
        self.graph = GRAPHS[spec.modality](spec, self.device)
        self.stuck = False  # a call into DALI did not come back: the cpu backend does the rest
        self._failed: Counter = Counter()
        self._worked: set[tuple[str, ...]] = set()
        self._pipe: Pipe | None = None  # built by the first run, kept for the next

    def run(
        self, items: Sequence[Any], batches: Iterable[Sequence[int]], *, view: int = 0, seed: int = 0
    ) -> Generator[Chunk, None, None]:
        run = _Run(self, items, view, seed)
        try:
            yield from run.chunks(iter(batches))
        finally:
            run.close()

    def refuses(self, kind: tuple[str, ...]) -> bool:
        return kind not in self._worked and self._failed[kind] >= TRIES

    def note(self, kind: tuple[str, ...], worked: bool) -> None:
        if worked:
            self._worked.add(kind)
        else:
            self._failed[kind] += 1

    def pipeline(self) -> Pipe:
        """The idle pipeline of an earlier run, or a new one."""
        pipe, self._pipe = self._pipe, None
        return pipe or Pipe(self._build)

    def keep(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def _build(self) -> Any:
        from nvidia.dali import Pipeline, fn, types

        kinds = {"uint8": types.UINT8, "int32": types.INT32, "float": types.FLOAT}
        # A queue of one lets schedule_run start exactly one iteration; several may be under way all the same.
        pipe = Pipeline(
            batch_size=self.batch_size,
            num_threads=self.workers,
            prefetch_queue_depth=1,
            device_id=self.device.index if self.graph.gpu else None,
        )
        with pipe:
            nodes = [
                fn.external_source(name=f"input{i}", dtype=kinds[kind], ndim=1, no_copy=True)
                for i, kind in enumerate(self.graph.inputs)
            ]
            pipe.set_outputs(self.graph.graph(*nodes))
        pipe.build()
        return pipe


class _Run:
    """One pass over batches."""

    def __init__(self, engine: DaliEngine, items: Sequence[Any], view: int, seed: int):
        self.engine, self.items, self.view, self.seed = engine, items, view, seed
        self.stop = threading.Event()
        self.pool: ThreadPoolExecutor = pool_of(engine.workers)
        self.pipe: Pipe | None = None
        self.jobs: deque[Job] = deque()  # asked for, in order
        self.waiting: deque[Group] = deque()  # to be fed
        self.flying: deque[Group] = deque()  # in the pipeline

    def chunks(self, batches: Iterator[Sequence[int]]) -> Generator[Chunk, None, None]:
        while True:
            while len(self.jobs) < AHEAD and (indices := next(batches, None)) is not None:
                self.jobs.append(self._begin(indices))
            if not self.jobs:
                return
            job = self.jobs[0]
            self._feed()
            while job.groups:
                self._collect()
                self._feed()
            self.jobs.popleft()
            yield self._finished(job)

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)
        if self.pipe is not None and not self.flying:
            self.engine.keep(self.pipe)
            self.pipe = None
        self.flying.clear()
        self.waiting.clear()
        self._drop()

    def _begin(self, indices: Sequence[int]) -> Job:
        engine = self.engine
        data = torch.empty(len(indices), *engine.spec.shape, device=engine.device)
        job = Job(Chunk(list(indices), data), data, [])
        job.looks = [self.pool.submit(self._look, job, slot) for slot in range(len(indices))]
        return job

    def _look(self, job: Job, slot: int) -> None:
        engine, item = self.engine, self.items[job.chunk.indices[slot]]
        if self.stop.is_set() or engine.stuck or item.modality != engine.spec.modality:
            return
        try:
            feed = ROUTES[item.modality](item.path, engine.spec, draw_view(self.view, self.seed, item.key), engine.gpu)
        except Exception:  # broken bytes make a header parser raise anything: the cpu backend says what is wrong
            return
        if feed is not None and feed.cost <= self._budget() and not engine.refuses(feed.kind):
            job.feeds[slot] = feed

    def _budget(self) -> int:
        return GPU_BUDGET if self.engine.gpu else BUDGET

    def _feed(self) -> None:
        """Groups the batches whose headers are read, and fills the pipeline."""
        for job in self.jobs:
            if not job.grouped:
                if job is not self.jobs[0] and not all(look.done() for look in job.looks):
                    break
                self._group(job)
        while self.waiting and len(self.flying) < FLIGHT:
            self._schedule(self.waiting.popleft())

    def _group(self, job: Job) -> None:
        for look in job.looks:
            look.result()
        slots: list[int] = []
        groups: list[Group] = []
        room = 0
        for slot in range(len(job.chunk.indices)):
            if slot in job.feeds and not self.engine.stuck:
                slots.append(slot)
            else:
                self._fall_back(job, slot)
        most = math.ceil(len(slots) / max(math.ceil(len(slots) / MOST), 1))  # groups of one size
        for slot in slots:
            cost = job.feeds[slot].cost
            if cost > room or len(groups[-1].slots) == most:
                groups.append(Group(job, []))
                room = self._budget()
            groups[-1].slots.append(slot)
            room -= cost
        job.grouped, job.groups = True, len(groups)
        self.waiting.extend(groups)

    def _schedule(self, group: Group) -> None:
        self.flying.append(group)
        try:
            self._pipeline().feed(list(zip(*(group.job.feeds[slot].arrays for slot in group.slots))))
        except Stuck:
            self._give_up()

    def _pipeline(self) -> Pipe:
        """The one in use, opened if there is none."""
        if self.pipe is None:
            self.pipe = self.engine.pipeline()
        return self.pipe

    def _collect(self) -> None:
        """Takes one group's result out of the pipeline."""
        engine, group = self.engine, self.flying[0]
        stream = torch.cuda.current_stream(engine.device) if engine.graph.gpu else None
        try:
            output = self._pipeline().outputs(stream, sum(group.job.feeds[slot].seconds for slot in group.slots))
        except Stuck:
            self._give_up()
            return
        if output is None:
            self._failure()
            return
        self.flying.popleft()
        self._place(group, output)
        group.job.groups -= 1
        for slot in group.slots:
            engine.note(group.job.feeds[slot].kind, worked=True)

    def _failure(self) -> None:
        """The first group under way failed: it is tried item by item, or given up; the others begin anew."""
        group, *others = self.flying
        job = group.job
        self.flying.clear()
        if len(group.slots) == 1:
            self.engine.note(job.feeds[group.slots[0]].kind, worked=False)
            self._fall_back(job, group.slots[0])
            job.groups -= 1
            again = others
        else:
            again = [Group(job, [slot]) for slot in group.slots] + others
            job.groups += len(group.slots) - 1
        self.waiting.extendleft(reversed(again))
        self._drop()

    def _drop(self) -> None:
        """Closes the pipeline, if there is one."""
        pipe, self.pipe = self.pipe, None
        try:
            if pipe is not None:
                pipe.close()
        except Stuck:
            self._give_up()

    def _give_up(self) -> None:
        """DALI did not come back: what it has goes to the cpu backend, and so does all that follows."""
        self.engine.stuck, self.pipe = True, None
        warnings.warn(
            "media backend 'dali': a call into DALI did not come back, the cpu backend decodes the rest: "
            "start again with the backend cpu",
            RuntimeWarning,
            stacklevel=2,
        )
        for group in (*self.flying, *self.waiting):
            group.job.groups -= 1
            for slot in group.slots:
                self._fall_back(group.job, slot)
        self.flying.clear()
        self.waiting.clear()

    def _place(self, group: Group, output: Any) -> None:
        graph, job = self.engine.graph, group.job
        if isinstance(graph, Pictures):
            graph.place(output, job.data, group.slots)
            return
        values = {slot: np.asarray(output[i]) for i, slot in enumerate(group.slots)}
        if self.engine.gpu:  # one stream: together is faster
            self._finish(graph, job, values)
            return
        job.work += [self.pool.submit(self._finish, graph, job, {slot: value}) for slot, value in values.items()]

    def _finish(self, graph: Sounds | Depths, job: Job, values: dict[int, np.ndarray]) -> None:
        """What torch does with decoded values: to their rows of the batch."""
        if self.stop.is_set():
            return
        ready: dict[int, Tensor] = {}
        for slot, value in values.items():
            try:
                ready[slot] = graph.prepare(value, job.feeds[slot])
            except MediaError:  # the cpu backend finds out what it is
                self._decode(job, slot)
        if ready:
            pictures = graph.pictures(list(ready.values()), [job.feeds[slot] for slot in ready])
            rows = torch.empty(len(ready), *self.engine.spec.shape[1:], device=pictures.device)
            job.data[list(ready)] = normalise(pictures, self.engine.spec, rows)[:, None]

    def _fall_back(self, job: Job, slot: int) -> None:
        job.work.append(self.pool.submit(self._decode, job, slot))

    def _decode(self, job: Job, slot: int) -> None:
        """The cpu backend's turn."""
        if self.stop.is_set():
            return
        engine, item = self.engine, self.items[job.chunk.indices[slot]]
        out = torch.empty(engine.spec.shape, pin_memory=True) if engine.gpu else job.data[slot]
        try:
            decode(item.path, item.modality, engine.spec, view=self.view, seed=self.seed, key=item.key, out=out)
        except MediaError as error:
            job.chunk.faults[slot] = MediaError(error)  # a copy: the frames that the error came through hold the job
        job.rows[slot] = out

    def _finished(self, job: Job) -> Chunk:
        for work in job.work:
            work.result()
        job.chunk.fallback = len(job.rows)
        if self.engine.gpu:
            for slot, row in job.rows.items():
                job.data[slot].copy_(row, non_blocking=True)
        return job.chunk
