"""The trunk cache: what is frozen is computed once per sample and view, and never again."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import RunError
from mmcl_fast.feature_cache.keys import Contents, code_digest
from mmcl_fast.feature_cache.request import Request
from mmcl_fast.feature_cache.shard import Row, Shard, pack
from mmcl_fast.feature_cache.store import Store, store_name
from mmcl_fast.media import Spec, loader
from mmcl_fast.media.registry import REGISTRY, source_hash
from mmcl_fast.user_cache import user_cache

log = logging.getLogger("mmcl_fast")

FORMAT = 1
CACHE_GB = 20.0


def default_folder() -> Path:
    """``trunk`` in the user's cache folder; see ``mmcl_fast.user_cache``."""
    return user_cache() / "trunk"


class TrunkCache:
    """bf16 tokens, float32 queries and masks of samples, in shards on disk that all runs and seeds share.

    A sample is known by its content, its modality's spec and its view; a store holds the samples of one encoder
    (its fingerprint, the code that decodes and runs it, the kind of device). What is found there is not decoded
    again: its file is not even opened while it looks as it did (size, times, inode).

    The trunk always sees full batches of one size (the last one filled up) and texts one by one, so that a sample's
    tokens are the same bits whatever it is computed with: on one machine, with as many threads, a run gives the same
    numbers whatever was cached.

    Over ``budget_gb`` the least recently used shards go. Samples that fit neither the budget nor the memory allowed
    are decoded again whenever they are asked for; a disk that is full ends the writing, not the run.

    Args:
        folder: where shards are kept; ``"auto"``: ``default_folder()``; None: a temporary folder that goes with this
            object.
        budget_gb: for all shards in the folder, 10^9 bytes.
        workers: decoding threads.
        batch: samples per trunk pass; None: 8 on a CPU, 32 elsewhere.
        memory: bytes for what is kept in memory between calls, and for what the budget does not take; None: a
            quarter of the machine's.
        media: what the user says of their files; see ``media.spec.adjust``.

    Raises:
        RunError: the folder can't be made or written.
    """

    def __init__(
        self,
        folder: Path | str | None,
        *,
        budget_gb: float = CACHE_GB,
        workers: int = 2,
        batch: int | None = None,
        memory: int | None = None,
        media: Mapping[str, Any] | None = None,
    ):
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="mmcl_fast-cache-")
            folder = self._temporary.name
        self.folder = default_folder() if folder == "auto" else Path(folder)
        self.budget, self.workers, self.batch = budget_gb * 1e9, workers, batch
        self.media = media or {}
        self.memory = machine_memory() // 4 if memory is None else memory
        self.contents = Contents(self.folder / "files", workers)
        self._stores: dict[str, Store] = {}
        self._kept: OrderedDict[bytes, Tokens] = OrderedDict()
        self._unwritten: WeakSet[Shard] = WeakSet()
        self._backends: dict[tuple[torch.device, str], str] = {}
        self._writes, self._said = True, False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as fault:
            raise RunError(
                f"{self.folder}: the cache folder can't be made or written ({fault.strerror}); "
                'set train.cache to another folder or to "none"'
            ) from None

    def tokens(
        self,
        encoder: Encoder,
        samples: Sequence[Any],
        *,
        views: int = 1,
        seed: int = 0,
        advance: Callable[[int], None] | None = None,
        keep: bool = False,
    ) -> Tokens:
        """The trunk's output for samples of one modality on the encoder's device, found or computed.

        Args:
            views: the plain view and ``views - 1`` random ones, one after another: ``views`` x n rows.
            seed: of the random views.
            advance: called with the number of samples done.
            keep: for samples that will be asked for again: what fits ``memory``, or half of the GPU's free memory,
                stays ready until others push it out.

        Raises:
            MediaError: the first broken file; what was computed before it is kept.
        """
        request = Request(self, encoder, samples, views, seed)
        try:
            request.run(advance)
        finally:
            request.flush()
            self._remember()
        name = request.digest.digest()
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        stored = request.result()
        gpu = encoder.device.type == "cuda" and self._room_on(encoder.device, stored.nbytes)
        tokens: Tokens = stored.whole() if gpu else stored
        if keep and self._let_go(tokens.nbytes):
            self._kept[name] = tokens
        return tokens

    # ---- memory ---------------------------------------------------------------------------------------------

    def _held(self) -> int:
        return sum(t.nbytes for t in self._kept.values()) + sum(s.nbytes for s in self._unwritten)

    def _let_go(self, size: int = 0) -> bool:
        """Whether ``size`` bytes more fit the memory; the least recently used of what is kept goes to that end."""
        while self._kept and self._held() + size > self.memory:
            self._kept.popitem(last=False)
        return self._held() + size <= self.memory

    def _drop_kept(self) -> bool:
        """Lets go of all that is kept; whether there was anything."""
        had = bool(self._kept)
        self._kept.clear()
        return had

    def _room_on(self, device: torch.device, size: int) -> bool:
        while size > torch.cuda.mem_get_info(device)[0] // 2:
            if not self._kept:
                return False
            self._kept.popitem(last=False)
            torch.cuda.empty_cache()
        return True

    # ---- disk -----------------------------------------------------------------------------------------------

    def store(self, encoder: Encoder) -> Store:
        parts = (str(FORMAT), encoder.fingerprint, encoder.device.type, code_digest())
        name = store_name(*parts)
        if name not in self._stores:
            about = {"encoder": encoder.name, "fingerprint": encoder.fingerprint, "device": encoder.device.type}
            self._stores[name] = Store(self.folder, name, about, self.budget)
        return self._stores[name]

    def backend(self, device: torch.device, spec: Spec) -> str:
        """Name of what decodes for a device."""
        if (device, spec.modality) not in self._backends:
            name = loader([], spec, device).engine.name
            own = REGISTRY.reader(spec.modality)
            self._backends[device, spec.modality] = name if own is None else f"{name} {source_hash(own)}"
        return self._backends[device, spec.modality]

    def save(self, store: Store, rows: Sequence[Row]) -> Shard | None:
        """A shard of rows: on disk, else in memory; None where neither takes it."""
        buffer = pack(rows)
        if self._writes:
            try:
                shard = store.write(buffer, [row.key for row in rows], self._drop_kept)
                if shard is not None:
                    return shard
                self._say(
                    f"what is in use is more than train.cache_gb = {self.budget / 1e9:g}, or than the disk has free"
                )
            except OSError as fault:
                self._writes = False
                self._say(f"{self.folder} can't be written ({fault.strerror})")
        if not self._let_go(len(buffer)):
            return None
        shard = Shard(buffer, verify=False)
        self._unwritten.add(shard)
        return shard

    def _say(self, why: str) -> None:
        if not self._said:
            log.warning(
                "trunk cache: %s: the rest is kept in memory while it fits %.1f GB, and what does not fit is "
                "decoded again whenever it is used; make room or raise train.cache_gb",
                why,
                self.memory / 1e9,
            )
            self._said = True

    def _remember(self) -> None:
        try:
            if self._writes:
                self.contents.save()
        except OSError as fault:
            self._writes = False
            self._say(f"{self.folder} can't be written ({fault.strerror})")


def machine_memory() -> int:
    """Bytes of memory that this process may hope for: the machine's, or its control group's where that is less."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(whole, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):
            continue
    return whole
