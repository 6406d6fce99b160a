"""The DALI backend: images, video, audio and depth maps decoded by NVIDIA DALI, on a GPU or on the CPU.

Worker threads read the files and choose by their headers (``routes``). Files for DALI go through a pipeline in groups
of bounded size, ahead of the consumer (``graphs``). Other files go to the CPU backend in the same threads.

If a group makes the pipeline fail, its items are tried one by one in a new pipeline, which DALI requires after an
error. An item that fails alone goes to the CPU backend, which decodes it or says what is wrong. If the pipeline does
not return (``pipeline_thread``), it is abandoned, and the CPU backend decodes the rest.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.media.decode import decode
from mmcl_fast.media.dsp.views import draw_view, normalise
from mmcl_fast.media.engines.dali.availability import available, with_index
from mmcl_fast.media.engines.dali.graphs import GRAPHS, AudioGraph, DepthGraph, ImageGraph
from mmcl_fast.media.engines.dali.pipeline_thread import PipelineStuck, PipelineThread
from mmcl_fast.media.engines.dali.routes import ROUTES, Feed
from mmcl_fast.media.engines.engine import Chunk, make_thread_pool
from mmcl_fast.media.spec import Spec, VisualSpec

BATCHES_AHEAD = 4  # batches whose files are read
GROUPS_IN_PIPELINE = 2
# From 32 items on, DALI 2.4's image decoder reads headers in several threads. If one thread meets a header that it
# cannot read, the decoder returns without waiting for the others. Those go on with freed memory, and the process
# crashes (dali/operators/imgcodec/image_decoder.h, RunImplImpl: an exception skips WaitForWork).
MAX_GROUP = 31
BUDGET, GPU_BUDGET = 1 << 28, 1 << 31  # decoded bytes of a group
MAX_FAILURES = 3  # after so many failures and no success a kind of file goes to the CPU backend


@dataclass
class BatchJob:
    """A batch under way.

    Attributes:
        chunk: the batch.
        data: the chunk's data.
        header_reads: tasks that read the headers.
        feeds: place in the batch -> inputs for DALI.
        grouped: whether the headers are read and the groups are made.
        groups: number of groups that are not finished.
        tasks: tasks in threads after the header reads.
        fallback_rows: place in the batch -> item that the CPU backend decoded.
    """

    chunk: Chunk
    data: Tensor
    header_reads: list[Future]
    feeds: dict[int, Feed] = field(default_factory=dict)
    grouped: bool = False
    groups: int = 0
    tasks: list[Future] = field(default_factory=list)
    fallback_rows: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class Group:
    """Items of one batch that go through the pipeline together."""

    job: BatchJob
    slots: list[int]


class DaliEngine:
    """The DALI backend, see ``mmcl_fast.media.engines.engine.Engine``.

    Results equal the CPU backend's, except for rounding: the resize is antialiased like Pillow's, and a large JPEG is
    decoded in full. Videos have the same frames, but are scaled after the conversion to RGB instead of before it. A
    damaged file may be decoded, with other pixels, where the CPU backend refuses it. Both refuse files that are cut
    short.

    DALI 2.4 prints messages about files that it cannot read. Its video decoder can crash the process over a damaged
    file; ``routes.route_video`` keeps most of these from it. So check files of unknown origin first. If a call into
    DALI does not return within two minutes, a RuntimeWarning is issued, and the CPU backend decodes the rest.

    Args:
        spec: the encoder's preparation, not for text.
        device: cpu, or the GPU that decodes and holds the batches.
        workers: number of DALI's threads, and of threads that read files and run the CPU backend; at least 1 is used.
        batch_size: the largest number of items of a batch.

    Raises:
        ConfigError: DALI cannot be used, or ``spec`` is for text.
    """

    name = "dali"

    def __init__(self, spec: Spec, *, device: torch.device | str = "cpu", workers: int = 2, batch_size: int = 32):
        if not isinstance(spec, VisualSpec):
            raise ConfigError("media backend 'dali': text is not decoded by DALI, use the backend cpu")
        self.device = with_index(device)
        if why_not := available(self.device):
            raise ConfigError(f"media backend 'dali': {why_not}")
        self.spec, self.workers, self.batch_size = spec, max(workers, 1), batch_size
        self.gpu = self.device.type == "cuda"
        self.graph = GRAPHS[spec.modality](spec, self.device)
        self.stuck = False  # a call into DALI did not return: the CPU backend decodes the rest
        self._failed: Counter = Counter()
        self._worked: set[tuple[str, ...]] = set()
        self._pipe: PipelineThread | None = None  # an idle pipeline for the next run

    def run(
        self, items: Sequence[Any], batches: Iterable[Sequence[int]], *, view: int = 0, seed: int = 0
    ) -> Generator[Chunk, None, None]:
        run = _Run(self, items, view, seed)
        try:
            yield from run.chunks(iter(batches))
        finally:
            run.close()

    def gives_up_on(self, kind: tuple[str, ...]) -> bool:
        """Return whether files of a kind failed ``MAX_FAILURES`` times and never worked."""
        return kind not in self._worked and self._failed[kind] >= MAX_FAILURES

    def record(self, kind: tuple[str, ...], worked: bool) -> None:
        """Remember whether DALI could decode a file of a kind."""
        if worked:
            self._worked.add(kind)
        else:
            self._failed[kind] += 1

    def take_pipeline(self) -> PipelineThread:
        """Return the idle pipeline of an earlier run, or a new one."""
        pipe, self._pipe = self._pipe, None
        return pipe or PipelineThread(self._build)

    def keep_pipeline(self, pipe: PipelineThread) -> None:
        """Keep an idle pipeline for the next run."""
        self._pipe = pipe

    def _build(self) -> Any:
        from nvidia.dali import Pipeline, fn, types

        kinds = {"uint8": types.UINT8, "int32": types.INT32, "float": types.FLOAT}
        # With a queue of one, each schedule_run starts exactly one iteration. Several may still be under way.
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
        self.pool: ThreadPoolExecutor = make_thread_pool(engine.workers)
        self.pipe: PipelineThread | None = None
        self.jobs: deque[BatchJob] = deque()  # batches under way, in order
        self.waiting: deque[Group] = deque()  # groups to feed
        self.in_pipeline: deque[Group] = deque()

    def chunks(self, batches: Iterator[Sequence[int]]) -> Generator[Chunk, None, None]:
        """Yield the decoded batches in their order."""
        while True:
            while len(self.jobs) < BATCHES_AHEAD and (indices := next(batches, None)) is not None:
                self.jobs.append(self._start_batch(indices))
            if not self.jobs:
                return
            job = self.jobs[0]
            self._feed()
            while job.groups:
                self._collect()
                self._feed()
            self.jobs.popleft()
            yield self._wait_for(job)

    def close(self) -> None:
        """End the threads, and keep an idle pipeline for the next run."""
        self.stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)
        if self.pipe is not None and not self.in_pipeline:
            self.engine.keep_pipeline(self.pipe)
            self.pipe = None
        self.in_pipeline.clear()
        self.waiting.clear()
        self._drop()

    def _start_batch(self, indices: Sequence[int]) -> BatchJob:
        engine = self.engine
        data = torch.empty(len(indices), *engine.spec.shape, device=engine.device)
        job = BatchJob(Chunk(list(indices), data), data, [])
        job.header_reads = [self.pool.submit(self._read_header, job, slot) for slot in range(len(indices))]
        return job

    def _read_header(self, job: BatchJob, slot: int) -> None:
        engine, item = self.engine, self.items[job.chunk.indices[slot]]
        if self.stop.is_set() or engine.stuck or item.modality != engine.spec.modality:
            return
        try:
            feed = ROUTES[item.modality](item.path, engine.spec, draw_view(self.view, self.seed, item.key), engine.gpu)
        except Exception:  # broken bytes make a parser raise anything; the CPU backend says what is wrong
            return
        if feed is not None and feed.cost <= self._budget() and not engine.gives_up_on(feed.kind):
            job.feeds[slot] = feed

    def _budget(self) -> int:
        return GPU_BUDGET if self.engine.gpu else BUDGET

    def _feed(self) -> None:
        """Make groups of the batches whose headers are read, and feed groups to the pipeline."""
        for job in self.jobs:
            if not job.grouped:
                if job is not self.jobs[0] and not all(read.done() for read in job.header_reads):
                    break
                self._make_groups(job)
        while self.waiting and len(self.in_pipeline) < GROUPS_IN_PIPELINE:
            self._schedule(self.waiting.popleft())

    def _make_groups(self, job: BatchJob) -> None:
        for read in job.header_reads:
            read.result()
        slots: list[int] = []
        groups: list[Group] = []
        budget = 0
        for slot in range(len(job.chunk.indices)):
            if slot in job.feeds and not self.engine.stuck:
                slots.append(slot)
            else:
                self._fall_back(job, slot)
        largest = math.ceil(len(slots) / max(math.ceil(len(slots) / MAX_GROUP), 1))  # groups of equal size
        for slot in slots:
            cost = job.feeds[slot].cost
            if cost > budget or len(groups[-1].slots) == largest:
                groups.append(Group(job, []))
                budget = self._budget()
            groups[-1].slots.append(slot)
            budget -= cost
        job.grouped, job.groups = True, len(groups)
        self.waiting.extend(groups)

    def _schedule(self, group: Group) -> None:
        self.in_pipeline.append(group)
        try:
            self._pipeline().feed(list(zip(*(group.job.feeds[slot].arrays for slot in group.slots))))
        except PipelineStuck:
            self._give_up()

    def _pipeline(self) -> PipelineThread:
        """Return the pipeline of this run."""
        if self.pipe is None:
            self.pipe = self.engine.take_pipeline()
        return self.pipe

    def _collect(self) -> None:
        """Take the result of one group out of the pipeline."""
        engine, group = self.engine, self.in_pipeline[0]
        stream = torch.cuda.current_stream(engine.device) if engine.graph.gpu else None
        try:
            output = self._pipeline().outputs(stream, sum(group.job.feeds[slot].seconds for slot in group.slots))
        except PipelineStuck:
            self._give_up()
            return
        if output is None:
            self._failure()
            return
        self.in_pipeline.popleft()
        self._place(group, output)
        group.job.groups -= 1
        for slot in group.slots:
            engine.record(group.job.feeds[slot].kind, worked=True)

    def _failure(self) -> None:
        """Handle the failure of the oldest group: try its items one by one, or leave a single item to the CPU backend.

        The other groups start again in a new pipeline.
        """
        group, *others = self.in_pipeline
        job = group.job
        self.in_pipeline.clear()
        if len(group.slots) == 1:
            self.engine.record(job.feeds[group.slots[0]].kind, worked=False)
            self._fall_back(job, group.slots[0])
            job.groups -= 1
            again = others
        else:
            again = [Group(job, [slot]) for slot in group.slots] + others
            job.groups += len(group.slots) - 1
        self.waiting.extendleft(reversed(again))
        self._drop()

    def _drop(self) -> None:
        """Close the pipeline, if there is one."""
        pipe, self.pipe = self.pipe, None
        try:
            if pipe is not None:
                pipe.close()
        except PipelineStuck:
            self._give_up()

    def _give_up(self) -> None:
        """Leave all items to the CPU backend from now on, because a call into DALI did not return."""
        self.engine.stuck, self.pipe = True, None
        warnings.warn(
            "media backend 'dali': a call into DALI did not come back, the cpu backend decodes the rest: "
            "start again with the backend cpu",
            RuntimeWarning,
            stacklevel=2,
        )
        for group in (*self.in_pipeline, *self.waiting):
            group.job.groups -= 1
            for slot in group.slots:
                self._fall_back(group.job, slot)
        self.in_pipeline.clear()
        self.waiting.clear()

    def _place(self, group: Group, output: Any) -> None:
        graph, job = self.engine.graph, group.job
        if isinstance(graph, ImageGraph):
            graph.place(output, job.data, group.slots)
            return
        values = {slot: np.asarray(output[i]) for i, slot in enumerate(group.slots)}
        if self.engine.gpu:  # on a GPU it is faster to finish all items together
            self._finish(graph, job, values)
            return
        job.tasks += [self.pool.submit(self._finish, graph, job, {slot: value}) for slot, value in values.items()]

    def _finish(self, graph: AudioGraph | DepthGraph, job: BatchJob, values: dict[int, np.ndarray]) -> None:
        """Do torch's steps with decoded values, and write the results to their rows of the batch."""
        if self.stop.is_set():
            return
        ready: dict[int, Tensor] = {}
        for slot, value in values.items():
            try:
                ready[slot] = graph.prepare(value, job.feeds[slot])
            except MediaError:  # the CPU backend says what is wrong
                self._decode(job, slot)
        if ready:
            images = graph.images(list(ready.values()), [job.feeds[slot] for slot in ready])
            rows = torch.empty(len(ready), *self.engine.spec.shape[1:], device=images.device)
            job.data[list(ready)] = normalise(images, self.engine.spec, rows)[:, None]

    def _fall_back(self, job: BatchJob, slot: int) -> None:
        job.tasks.append(self.pool.submit(self._decode, job, slot))

    def _decode(self, job: BatchJob, slot: int) -> None:
        """Decode an item by the CPU backend."""
        if self.stop.is_set():
            return
        engine, item = self.engine, self.items[job.chunk.indices[slot]]
        out = torch.empty(engine.spec.shape, pin_memory=True) if engine.gpu else job.data[slot]
        try:
            decode(item.path, item.modality, engine.spec, view=self.view, seed=self.seed, key=item.key, out=out)
        except MediaError as error:
            job.chunk.faults[slot] = MediaError(
                error
            )  # a copy: the traceback of the error itself would keep the job in memory
        job.fallback_rows[slot] = out

    def _wait_for(self, job: BatchJob) -> Chunk:
        for task in job.tasks:
            task.result()
        job.chunk.fallback = len(job.fallback_rows)
        if self.engine.gpu:
            for slot, row in job.fallback_rows.items():
                job.data[slot].copy_(row, non_blocking=True)
        return job.chunk
