"""Engines, which decode batches for the loader: their protocol, and the CPU backend in threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mmcl_fast.errors import MediaError
from mmcl_fast.media.decode import decode
from mmcl_fast.media.spec import Spec, TextSpec


@dataclass
class Chunk:
    """One decoded batch.

    Attributes:
        indices: positions in the items, in the requested order.
        data: float32 ``[B, F, 3, size, size]`` on the engine's device; for text B strings. Rows of failed items are
            undefined.
        faults: place in the batch -> error with the file's name.
        fallback: number of items that the backend left to the CPU backend.
    """

    indices: list[int]
    data: Tensor | list[str]
    faults: dict[int, MediaError] = field(default_factory=dict)
    fallback: int = 0


class Engine(Protocol):
    """A backend, constructed with ``(spec, *, device, workers, batch_size)``. All items are of the spec's modality."""

    name: str
    device: torch.device

    def run(
        self, items: Sequence[Any], batches: Iterable[Sequence[int]], *, view: int, seed: int
    ) -> Generator[Chunk, None, None]:
        """Yield the decoded batches in their order.

        Closing the iterator drops the batches that are under way. A file that cannot be decoded is one of its chunk's
        ``faults``, never an exception.

        Args:
            items: objects with ``modality``, ``key`` and either ``path`` or ``text``.
            batches: the positions in ``items`` of each batch. They are drawn only as far as the engine works ahead.
            view: see ``decode``.
            seed: of the random views.
        """


class ThreadEngine:
    """The CPU backend in worker threads. Each item is decoded directly into its place in the batch.

    Args:
        spec: the encoder's preparation.
        device: of the batches; they go to a GPU through pinned memory.
        workers: number of threads; the decoders release the interpreter's lock. 0: decode in the caller's thread.
        batch_size: ignored, because no buffer of this size is kept.
        prefetch: number of batches that are decoded while the caller works on one.
    """

    name = "cpu"

    def __init__(
        self,
        spec: Spec,
        *,
        device: torch.device | str = "cpu",
        workers: int = 2,
        batch_size: int = 32,
        prefetch: int = 2,
    ):
        self.spec, self.device, self.workers, self.prefetch = spec, torch.device(device), workers, prefetch

    def run(
        self, items: Sequence[Any], batches: Iterable[Sequence[int]], *, view: int = 0, seed: int = 0
    ) -> Generator[Chunk, None, None]:
        if self.workers == 0 or isinstance(self.spec, TextSpec):  # for text a thread costs more than reading it
            for indices in batches:
                chunk = self._new_chunk(indices)
                for slot in range(len(indices)):
                    self._fill_slot(chunk, slot, items, view, seed)
                yield self._to_device(chunk)
            return
        stop = threading.Event()
        pool = make_thread_pool(self.workers)
        under_way: deque[tuple[Chunk, list[Future]]] = deque()
        try:
            for indices in batches:
                chunk = self._new_chunk(indices)
                # Several items for each task: a handover stops a thread.
                step = max(1, len(indices) // (2 * self.workers))
                parts = [range(slot, min(slot + step, len(indices))) for slot in range(0, len(indices), step)]
                futures = [pool.submit(self._fill_slots, chunk, part, items, view, seed, stop) for part in parts]
                under_way.append((chunk, futures))
                if len(under_way) > self.prefetch:
                    yield self._wait_for(*under_way.popleft())
            while under_way:
                yield self._wait_for(*under_way.popleft())
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _new_chunk(self, indices: Sequence[int]) -> Chunk:
        if isinstance(self.spec, TextSpec):
            return Chunk(list(indices), [""] * len(indices))
        return Chunk(list(indices), torch.empty(len(indices), *self.spec.shape, pin_memory=self.device.type == "cuda"))

    def _fill_slots(
        self, chunk: Chunk, slots: range, items: Sequence[Any], view: int, seed: int, stop: threading.Event
    ) -> None:
        for slot in slots:
            if stop.is_set():
                return
            self._fill_slot(chunk, slot, items, view, seed)

    def _fill_slot(self, chunk: Chunk, slot: int, items: Sequence[Any], view: int, seed: int) -> None:
        item, spec, data = items[chunk.indices[slot]], self.spec, chunk.data
        try:
            if isinstance(data, Tensor):
                decode(item.path, item.modality, spec, view=view, seed=seed, key=item.key, out=data[slot])
            elif isinstance(spec, TextSpec):
                data[slot] = (
                    item.text[: spec.max_chars] if item.text is not None else decode(item.path, item.modality, spec)
                )
        except MediaError as error:
            chunk.faults[slot] = error

    def _wait_for(self, chunk: Chunk, futures: list[Future]) -> Chunk:
        for future in futures:
            future.result()
        return self._to_device(chunk)

    def _to_device(self, chunk: Chunk) -> Chunk:
        if isinstance(chunk.data, Tensor):
            # Without waiting: torch reuses the pinned memory only after the copy.
            chunk.data = chunk.data.to(self.device, non_blocking=True)
        return chunk


def make_thread_pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool of threads in which torch starts no threads of its own, because items run in parallel already.

    ``set_num_threads`` is per thread, but also sets the default of threads that have not read it yet. So each worker
    reads it once, and then the caller's number is restored.
    """
    threads, barrier = torch.get_num_threads(), threading.Barrier(workers)
    pool = ThreadPoolExecutor(workers, "mmcl-fast-media", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: (torch.get_num_threads(), barrier.wait()), range(workers)))
    torch.set_num_threads(threads)
    return pool
