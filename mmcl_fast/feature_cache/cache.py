"""The feature cache: the frozen trunk's output is computed once per sample and view, then read from disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import RunError
from mmcl_fast.feature_cache.content_hashes import ContentHashes
from mmcl_fast.feature_cache.request import Request
from mmcl_fast.feature_cache.shard import CachedSample, Shard, pack
from mmcl_fast.feature_cache.store import Store, store_name
from mmcl_fast.feature_cache.versions import feature_versions
from mmcl_fast.media import Spec, loader
from mmcl_fast.media.spec import adjust
from mmcl_fast.user_cache import user_cache_folder

log = logging.getLogger("mmcl_fast")

FORMAT = 2  # of the store's name; 1 hashed the source code instead of naming versions
CACHE_GB = 20.0
CPU_BATCH, GPU_BATCH = 8, 32  # samples per trunk pass


def default_folder() -> Path:
    """Return ``trunk`` in the user's cache folder; see ``mmcl_fast.user_cache``."""
    return user_cache_folder() / "trunk"


class FeatureCache:
    """Trunk outputs (bf16 tokens, float32 queries, masks) in shards on disk that all runs and seeds share.

    A sample's key is its content, its modality's spec and its view. A store holds the samples of one encoder, one
    modality and one kind of device, made with one set of versions (``feature_versions``). A sample that is found is
    not decoded again. Its file is not even opened while its size, times and inode stay the same.

    The trunk always sees full batches of one size: the last one is filled up. Texts pass the trunk one by one. So a
    sample's tokens are the same bits in any company. On one machine, with as many threads, a run gives the same numbers
    with an empty cache and with a full one.

    Over ``budget_gb`` the least recently used shards are deleted. Samples that fit neither the budget nor the memory
    are decoded again at each use. A full disk ends the writing, not the run.

    Args:
        folder: the folder of the shards. ``"auto"``: ``default_folder()``. None: a temporary folder that is deleted
            with this object.
        budget_gb: limit for all shards in the folder, in 10^9 bytes.
        workers: decoding threads.
        batch: samples per trunk pass; None: 8 on a CPU, 32 elsewhere.
        memory: limit in bytes for results that stay in memory between calls, and for samples over the budget.
            None: a quarter of the machine's memory.
        media: the user's settings for media files; see ``media.spec.adjust``.

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
        self.contents = ContentHashes(self.folder / "files", workers)
        self._stores: dict[str, Store] = {}
        self._recent: OrderedDict[bytes, Tokens] = OrderedDict()  # results that stay in memory
        self._unwritten: WeakSet[Shard] = WeakSet()
        self._decoders: dict[tuple[torch.device, str], str] = {}
        self._writable, self._warned = True, False
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
        """Find or compute the trunk's output for samples of one modality, on the encoder's device.

        Args:
            encoder: the encoder whose trunk is run.
            samples: n samples with ``modality``, ``key``, and ``path`` or ``text``.
            views: the plain view and ``views - 1`` random ones, one view after another: ``views`` x n rows.
            seed: of the random views.
            advance: called with the number of samples that were just finished.
            keep: keep the result in memory for the next call with the same samples. Later results push it out when
                ``memory``, or half of the GPU's free memory, is full.

        Raises:
            MediaError: the first broken file; the results of the samples before it stay stored.
        """
        spec = adjust(encoder.spec(samples[0].modality), self.media)
        store = self.store(encoder, spec)
        request = Request(
            encoder,
            samples,
            spec=spec,
            views=views,
            seed=seed,
            store=store,
            contents=self.contents,
            save_shard=partial(self.save_shard, store),
            batch=self.batch or (CPU_BATCH if encoder.device.type == "cpu" else GPU_BATCH),
            workers=self.workers,
        )
        try:
            request.run(advance)
        finally:
            request.flush()
            self._save_contents()
        name = request.digest.digest()
        if name in self._recent:
            self._recent.move_to_end(name)
            return self._recent[name]
        stored = request.result()
        on_gpu = encoder.device.type == "cuda" and self._make_gpu_room(encoder.device, stored.nbytes)
        tokens: Tokens = stored.load() if on_gpu else stored
        if keep and self._make_room(tokens.nbytes):
            self._recent[name] = tokens
        return tokens

    # ---- memory ---------------------------------------------------------------------------------------------

    def _bytes_in_memory(self) -> int:
        return sum(t.nbytes for t in self._recent.values()) + sum(s.nbytes for s in self._unwritten)

    def _make_room(self, size: int = 0) -> bool:
        """Drop the least recently used results until ``size`` more bytes fit the memory; return whether they fit."""
        while self._recent and self._bytes_in_memory() + size > self.memory:
            self._recent.popitem(last=False)
        return self._bytes_in_memory() + size <= self.memory

    def _drop_recent(self) -> bool:
        """Drop all results in memory, which unmaps their shards; return whether there were any."""
        had_any = bool(self._recent)
        self._recent.clear()
        return had_any

    def _make_gpu_room(self, device: torch.device, size: int) -> bool:
        """Drop results until ``size`` bytes fit half of the GPU's free memory; return whether they fit."""
        while size > torch.cuda.mem_get_info(device)[0] // 2:
            if not self._recent:
                return False
            self._recent.popitem(last=False)
            torch.cuda.empty_cache()
        return True

    # ---- disk -----------------------------------------------------------------------------------------------

    def store(self, encoder: Encoder, spec: Spec) -> Store:
        """Return the store for one encoder and modality, opened at the first call."""
        versions = feature_versions(encoder, spec.modality, self._decoder(encoder.device, spec))
        parts = (str(FORMAT), encoder.fingerprint, encoder.device.type, spec.modality, json.dumps(versions))
        name = store_name(*parts)
        if name not in self._stores:
            about = {
                "encoder": encoder.name,
                "fingerprint": encoder.fingerprint,
                "device": encoder.device.type,
                "modality": spec.modality,
                "versions": versions,
            }
            self._stores[name] = Store(self.folder, name, about, self.budget)
        return self._stores[name]

    def _decoder(self, device: torch.device, spec: Spec) -> str:
        """Return the name of the engine that decodes a modality for a device."""
        if (device, spec.modality) not in self._decoders:
            self._decoders[device, spec.modality] = loader([], spec, device).engine.name
        return self._decoders[device, spec.modality]

    def save_shard(self, store: Store, samples: Sequence[CachedSample]) -> Shard | None:
        """Pack samples to a shard on disk, else in memory; return None where neither has room."""
        buffer = pack(samples)
        if self._writable:
            try:
                shard = store.write(buffer, [sample.key for sample in samples], self._drop_recent)
                if shard is not None:
                    return shard
                self._warn_once(
                    f"what is in use is more than train.cache_gb = {self.budget / 1e9:g}, or than the disk has free"
                )
            except OSError as fault:
                self._writable = False
                self._warn_once(f"{self.folder} can't be written ({fault.strerror})")
        if not self._make_room(len(buffer)):
            return None
        shard = Shard(buffer, verify=False)
        self._unwritten.add(shard)
        return shard

    def _warn_once(self, why: str) -> None:
        if not self._warned:
            log.warning(
                "feature cache: %s: the rest is kept in memory while it fits %.1f GB, and samples over that are "
                "decoded again at each use; make room or raise train.cache_gb",
                why,
                self.memory / 1e9,
            )
            self._warned = True

    def _save_contents(self) -> None:
        try:
            if self._writable:
                self.contents.save()
        except OSError as fault:
            self._writable = False
            self._warn_once(f"{self.folder} can't be written ({fault.strerror})")


TrunkCache = FeatureCache  # the name until November 2026


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its control group's limit if lower."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups version 2, then version 1
        try:
            return min(physical, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # "max" where there is no limit
            continue
    return physical
