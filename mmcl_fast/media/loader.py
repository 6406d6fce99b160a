"""Batches of decoded items: worker threads, prefetch, items in the order given."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError
from mmcl_fast.media.decode import decode
from mmcl_fast.media.spec import Spec, TextSpec

Batch = tuple[list[int], "Tensor | list[str]"]
PREFETCH = 2  # batches under way beside the one handed out


class Loader:
    """Iterates ``(indices, batch)``; ``len`` is the number of batches. Each iteration starts anew.

    Args:
        items: objects with ``modality``, ``key`` and either ``path`` or ``text``, all of the spec's modality.
        spec: the encoder's preparation.
        workers: threads; the decoders release the interpreter lock. 0 decodes in the caller's thread.
        batch_size: B; the last batch may be smaller.
        view, seed: see ``decode``.

    A batch is float32 ``[B, F, 3, size, size]`` or, for text, B strings. The first item that fails raises its
    MediaError here, in order, and the work under way is dropped.
    """

    def __init__(self, items: Sequence[Any], spec: Spec, *, workers: int = 2, batch_size: int = 32,
                 view: int = 0, seed: int = 0):
        if workers < 0 or batch_size < 1:
            raise ConfigError(f"workers = {workers}, batch_size = {batch_size}: at least 0 and at least 1")
        self.items, self.spec, self.workers, self.batch_size = items, spec, workers, batch_size
        self.view, self.seed = view, seed

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self.items), self.batch_size)
        if self.workers == 0:
            for start in starts:
                indices, batch = self._slots(start)
                for slot, index in enumerate(indices):
                    self._fill(batch, slot, index)
                yield indices, batch
            return
        stop = threading.Event()
        pool = _pool(self.workers)
        under_way: deque[tuple[list[int], Any, list[Future]]] = deque()
        try:
            for start in starts:
                indices, batch = self._slots(start)
                under_way.append((indices, batch, [pool.submit(self._fill, batch, slot, index, stop)
                                                   for slot, index in enumerate(indices)]))
                if len(under_way) > PREFETCH:
                    yield _finished(under_way.popleft())
            while under_way:
                yield _finished(under_way.popleft())
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _slots(self, start: int) -> Batch:
        indices = list(range(start, min(start + self.batch_size, len(self.items))))
        if isinstance(self.spec, TextSpec):
            return indices, [""] * len(indices)
        return indices, torch.empty(len(indices), *self.spec.shape)

    def _fill(self, batch: Any, slot: int, index: int, stop: threading.Event | None = None) -> None:
        """Decodes an item straight into its place of the batch."""
        if stop is not None and stop.is_set():
            return
        item, spec = self.items[index], self.spec
        if isinstance(spec, TextSpec):
            inline = item.text is not None
            batch[slot] = item.text[:spec.max_chars] if inline else decode(item.path, item.modality, spec)
        else:
            decode(item.path, item.modality, spec, view=self.view, seed=self.seed, key=item.key,
                   out=batch[slot])


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads in which torch starts none of its own: items, not operations, are what runs in parallel.

    ``set_num_threads`` is per thread, but also the default of every thread that has not asked yet: so each
    worker asks, and then the caller's number is put back.
    """
    threads, barrier = torch.get_num_threads(), threading.Barrier(workers)
    pool = ThreadPoolExecutor(workers, "mmcl-fast-media", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: (torch.get_num_threads(), barrier.wait()), range(workers)))
    torch.set_num_threads(threads)
    return pool


def _finished(work: tuple[list[int], Any, list[Future]]) -> Batch:
    indices, batch, futures = work
    for future in futures:
        future.result()
    return indices, batch


def loader(items: Sequence[Any], spec: Spec, *, workers: int = 2, batch_size: int = 32, view: int = 0,
           seed: int = 0) -> Loader:
    """``Loader(items, spec, ...)``: batches of decoded items, in order."""
    return Loader(items, spec, workers=workers, batch_size=batch_size, view=view, seed=seed)
