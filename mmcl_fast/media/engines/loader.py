"""The loader: batches of decoded items in an order, for one of several processes, with a position to save."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmcl_fast.errors import ConfigError, MediaError, StreamError
from mmcl_fast.media.engines.engine import Chunk, Engine, ThreadEngine
from mmcl_fast.media.registry import BUILT_IN
from mmcl_fast.media.spec import Spec

Batch = tuple[list[int], "Tensor | list[str]"]
BACKENDS = ("auto", "cpu", "dali")
ON_ERROR = ("error", "skip")


@dataclass
class LoaderStats:
    """Counts of a loader.

    Attributes:
        items: yielded so far.
        fallbacks: items that the CPU backend decoded because the chosen backend could not.
    """

    items: int = 0
    fallbacks: int = 0


class Loader:
    """Iterate over one epoch as ``(indices, batch)``; ``len`` is the number of batches, empty ones included.

    A batch is float32 ``[B, F, 3, size, size]`` on ``device`` or, for text, B strings; ``indices`` are the B positions
    in ``items``. A complete iteration adds 1 to ``epoch``. An iteration that is left early does not, and the next one
    begins the epoch again.

    After ``load_state_dict`` the next iteration continues behind the last batch that was yielded before the state was
    saved. Batches that were only prefetched do not count.

    Args:
        items: objects with ``modality``, ``key`` and either ``path`` or ``text``, all of the spec's modality.
        spec: the encoder's preparation.
        device: of the batches.
        backend: ``cpu``, ``dali`` or ``auto``, which is DALI if the device is a GPU and the package is usable. The CPU
            backend always reads text and registered modalities.
        workers: number of threads; 0: decode in the caller's thread.
        batch_size: B; the last batch may be smaller, and each batch with ``on_error="skip"``.
        view: see ``decode``.
        seed: of the random views and of the order.
        shuffle: draw the order of each epoch from (seed, epoch); otherwise it is the order of ``items``.
        epoch: number of the first epoch.
        rank: number of this process, 0 to ``world_size`` - 1. It takes every ``world_size``-th item of the epoch's
            order, beginning with item ``rank``.
        world_size: number of processes. Each item is on exactly one rank. So the first ranks may have one item, and one
            batch, more than the last.
        prefetch: number of batches that are decoded while the caller works on one; DALI may run further ahead.
        on_error: ``error``: the first broken item in order raises its MediaError, and its batch is not yielded.
            ``skip``: broken items are left out of their batches and listed in ``faults``; an empty batch is left out.
        world: former name of ``world_size``.

    Raises:
        ConfigError: a value is out of range, or the backend is not available.
    """

    def __init__(
        self,
        items: Sequence[Any],
        spec: Spec,
        device: torch.device | str = "cpu",
        *,
        backend: str = "auto",
        workers: int = 2,
        batch_size: int = 32,
        view: int = 0,
        seed: int = 0,
        shuffle: bool = False,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
        on_error: str = "error",
        world: int | None = None,
    ):
        if world is not None:
            world_size = world
        if workers < 0 or batch_size < 1 or prefetch < 0 or epoch < 0:
            raise ConfigError(
                f"workers = {workers}, batch_size = {batch_size}, prefetch = {prefetch}, "
                f"epoch = {epoch}: batch_size is at least 1, the others at least 0"
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank = {rank}, world_size = {world_size}: rank is at least 0 and below world_size")
        if on_error not in ON_ERROR:
            raise ConfigError(f"on_error = {on_error!r}: use one of {', '.join(ON_ERROR)}")
        self.items, self.spec, self.batch_size, self.view, self.seed = items, spec, batch_size, view, seed
        self.shuffle, self.epoch, self.rank, self.world_size, self.on_error = shuffle, epoch, rank, world_size, on_error
        self.engine = make_engine(spec, device, backend, workers=workers, batch_size=batch_size, prefetch=prefetch)
        self.stats = LoaderStats()
        self._faults: dict[int, MediaError] = {}
        self._done = 0  # batches of this epoch that were handed out
        self._loaded = False

    @property
    def faults(self) -> list[tuple[int, MediaError]]:
        """The position and the error of each skipped item, in the order of their first occurrence."""
        return list(self._faults.items())

    def __len__(self) -> int:
        return -(-len(range(self.rank, len(self.items), self.world_size)) // self.batch_size)

    def __iter__(self) -> Generator[Batch, None, None]:
        start = self._done if self._loaded else 0
        self._done, self._loaded = start, False
        order = self._order()
        batches = (_to_list(order[i * self.batch_size : (i + 1) * self.batch_size]) for i in range(start, len(self)))
        chunks = self.engine.run(self.items, batches, view=self.view, seed=self.seed)
        try:
            for chunk in chunks:
                indices, batch = self._without_broken_items(chunk)
                self._done += 1
                self.stats.items += len(indices)
                self.stats.fallbacks += chunk.fallback
                if indices:
                    yield indices, batch
        finally:
            chunks.close()
        self.epoch, self._done = self.epoch + 1, 0

    def _order(self) -> range | Tensor:
        count = len(self.items)
        if not self.shuffle:
            return range(count)[self.rank :: self.world_size]
        digest = hashlib.sha256(f"{self.seed}/{self.epoch}".encode()).digest()
        seed = int.from_bytes(digest[:7], "big")  # fits the signed 64 bits of a seed
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(count, generator=generator)[self.rank :: self.world_size]

    def _without_broken_items(self, chunk: Chunk) -> Batch:
        """Return the batch without its broken items. Raises the first error if ``on_error`` is ``error``."""
        if not chunk.faults:
            return chunk.indices, chunk.data
        if self.on_error == "error":
            raise chunk.faults[min(chunk.faults)]
        for slot in sorted(chunk.faults):
            # A copy: the traceback of the error itself would keep the whole batch in memory.
            self._faults.setdefault(chunk.indices[slot], MediaError(chunk.faults[slot]))
        good = [slot for slot in range(len(chunk.indices)) if slot not in chunk.faults]
        data = chunk.data[good] if isinstance(chunk.data, Tensor) else [chunk.data[slot] for slot in good]
        return [chunk.indices[slot] for slot in good], data

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last yielded batch, as plain values for JSON."""
        return {
            "epoch": self.epoch,
            "batches": self._done,
            "loader": self._identity,
            "faults": [[index, str(error)] for index, error in self.faults],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``. Raises StreamError if it belongs to other items, options or another order."""
        try:
            saved, epoch, done = dict(state["loader"]), int(state["epoch"]), int(state["batches"])
            faults = {int(index): MediaError(line) for index, line in state["faults"]}
        except (TypeError, KeyError, ValueError) as error:
            raise StreamError(f"loader state: not one of a loader ({error!r}): start the epoch anew") from None
        for name, value in self._identity.items():
            if saved.get(name) != value:
                raise StreamError(
                    f"loader state: {name} was {saved.get(name)!r}, is {value!r}: build the loader as it "
                    "was when its state was saved, or start the epoch anew"
                )
        if epoch < 0 or not 0 <= done <= len(self):
            raise StreamError(
                f"loader state: batch {done} of epoch {epoch}, where an epoch has {len(self)}: start the epoch anew"
            )
        self.epoch, self._done, self._loaded, self._faults = epoch, done, True, faults

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """The values that determine which items are in which batch, and the content of a batch."""
        digest = hashlib.sha256(json.dumps(self.spec.to_dict()).encode())
        for item in self.items:
            digest.update(f"\0{item.key}".encode("utf-8", "surrogateescape"))
        return {
            "items": len(self.items),
            "sha256 of spec and keys": digest.hexdigest(),
            "batch_size": self.batch_size,
            "view": self.view,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "rank": self.rank,
            "world": self.world_size,  # the key of states that were saved before
        }


def _to_list(indices: range | Tensor) -> list[int]:
    return indices.tolist() if isinstance(indices, Tensor) else list(indices)


def make_engine(
    spec: Spec,
    device: torch.device | str,
    backend: str = "auto",
    *,
    workers: int = 2,
    batch_size: int = 32,
    prefetch: int = 2,
) -> Engine:
    """Return the engine of a backend; see ``Loader``. Raises ConfigError if the backend is not available."""
    if backend not in BACKENDS:
        raise ConfigError(f"media backend {backend!r}: use one of {', '.join(BACKENDS)}")
    device = torch.device(device)
    dali_reads = spec.modality in BUILT_IN and spec.modality != "text"
    if dali_reads and (backend == "dali" or (backend == "auto" and device.type == "cuda")):
        from mmcl_fast.media.engines.dali import engine as dali

        why_not = dali.available(device)
        if why_not is None:
            return dali.DaliEngine(spec, device=device, workers=workers, batch_size=batch_size)
        if backend == "dali":
            raise ConfigError(f"media backend 'dali': {why_not}")
    return ThreadEngine(spec, device=device, workers=workers, batch_size=batch_size, prefetch=prefetch)


def loader(items: Sequence[Any], spec: Spec, device: torch.device | str = "cpu", **options: Any) -> Loader:
    """Return ``Loader(items, spec, device, **options)``."""
    return Loader(items, spec, device, **options)
