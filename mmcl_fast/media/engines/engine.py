"""What decodes batches: the seam between the loader and the backends, and the threads of the CPU backend."""

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
        indices: positions in the items, in the order asked for.
        data: float32 ``[B, F, 3, size, size]`` on the engine's device; for text B strings. Rows of failed items are
            undefined.
        faults: slot in the batch -> error that names the file.
        fallback: items that the backend gave to the cpu one.
    """

    indices: list[int]
    data: Tensor | list[str]
    faults: dict[int, MediaError] = field(default_factory=dict)
    fallback: int = 0


class Engine(Protocol):
    """A backend, constructed with ``(spec, *, device, workers, batch_size)``; all items are of the spec's modality.

    ``run`` decodes ``items[i]`` (``modality``, ``key`` and either ``path`` or ``text``) for the index lists of
    ``batches``, drawn from it only as far as it works ahead, and gives the chunks in that order. Closing the
    iterator drops what is under way. A file that cannot be decoded is one of its chunk's faults, never an exception.
    """

    name: str
    device: torch.device

    def run(
        self, items: Sequence[Any], batches: Iterable[Sequence[int]], *, view: int, seed: int
    ) -> Generator[Chunk, None, None]: ...


class ThreadEngine:
    """The CPU backend in worker threads, each item decoded straight into its slot of the batch.

    Args:
        device: where the batches go; to a GPU through pinned memory.
        workers: threads; the decoders release the interpreter lock. 0 decodes in the caller's thread.
        batch_size: the most indices of a batch; nothing is kept at this size.
        prefetch: batches under way beside the one handed out.
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
        if self.workers == 0 or isinstance(self.spec, TextSpec):  # short texts: a thread costs more than the reading
            for indices in batches:
                chunk = self._slots(indices)
                for slot in range(len(indices)):
                    self._fill(chunk, slot, items, view, seed)
                yield self._placed(chunk)
            return
        stop = threading.Event()
        pool = pool_of(self.workers)
        under_way: deque[tuple[Chunk, list[Future]]] = deque()
        try:
            for indices in batches:
                chunk = self._slots(indices)
                some = max(1, len(indices) // (2 * self.workers))  # fewer hands-over, each of which stops a thread
                under_way.append(
                    (
                        chunk,
                        [
                            pool.submit(
                                self._fill_some,
                                chunk,
                                range(slot, min(slot + some, len(indices))),
                                items,
                                view,
                                seed,
                                stop,
                            )
                            for slot in range(0, len(indices), some)
                        ],
                    )
                )
                if len(under_way) > self.prefetch:
                    yield self._finished(*under_way.popleft())
            while under_way:
                yield self._finished(*under_way.popleft())
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _slots(self, indices: Sequence[int]) -> Chunk:
        if isinstance(self.spec, TextSpec):
            return Chunk(list(indices), [""] * len(indices))
        return Chunk(list(indices), torch.empty(len(indices), *self.spec.shape, pin_memory=self.device.type == "cuda"))

    def _fill_some(
        self, chunk: Chunk, slots: range, items: Sequence[Any], view: int, seed: int, stop: threading.Event
    ) -> None:
        for slot in slots:
            if stop.is_set():
                return
            self._fill(chunk, slot, items, view, seed)

    def _fill(self, chunk: Chunk, slot: int, items: Sequence[Any], view: int, seed: int) -> None:
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

    def _finished(self, chunk: Chunk, futures: list[Future]) -> Chunk:
        for future in futures:
            future.result()
        return self._placed(chunk)

    def _placed(self, chunk: Chunk) -> Chunk:
        if isinstance(chunk.data, Tensor):
            # Torch gives the pinned memory out again only after the copy.
            chunk.data = chunk.data.to(self.device, non_blocking=True)
        return chunk


def pool_of(workers: int) -> ThreadPoolExecutor:
    """Threads in which torch starts none of its own: items, not operations, are what runs in parallel.

    ``set_num_threads`` is per thread, but also the default of every thread that has not asked yet: so each
    worker asks, and then the caller's number is put back.
    """
    threads, barrier = torch.get_num_threads(), threading.Barrier(workers)
    pool = ThreadPoolExecutor(workers, "mmcl-fast-media", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: (torch.get_num_threads(), barrier.wait()), range(workers)))
    torch.set_num_threads(threads)
    return pool
