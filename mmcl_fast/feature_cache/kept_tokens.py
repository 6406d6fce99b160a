"""Trunk tokens of samples in a folder of their own: a cache gets them back from there when their files are gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmcl_fast.encoders.base import Encoder
from mmcl_fast.errors import RunError
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.feature_cache.keys import sample_keys
from mmcl_fast.feature_cache.new_file import write_new_file
from mmcl_fast.feature_cache.request import SHARD_BYTES
from mmcl_fast.feature_cache.shard import CachedSample, Damaged, Shard, pack, read_keys
from mmcl_fast.feature_cache.store import Store
from mmcl_fast.media.spec import adjust


def has_tokens(cache: FeatureCache, encoder: Encoder, samples: Sequence[Any]) -> list[bool]:
    """Return for each sample of one modality whether the cache holds the tokens of its plain view.

    Raises:
        MediaError: a file is gone, and its content is not known.
    """
    store, keys = _keys(cache, encoder, samples)
    store.refresh()
    return [found is not None for found in store.find(keys)]


def keep_tokens(cache: FeatureCache, encoder: Encoder, samples: Sequence[Any], folder: Path, budget: float) -> int:
    """Copy the tokens of samples of one modality from the cache into ``folder``, as far as the budget reaches.

    Args:
        cache: it holds the tokens; samples without tokens are passed over.
        encoder: the encoder that made them.
        samples: the samples. Of these, the first ones are kept.
        folder: a folder for kept tokens; what it holds already stays.
        budget: most bytes of all files in ``folder``.

    Returns:
        How many of the samples have their tokens in ``folder`` now.

    Raises:
        MediaError: a file is gone, and its content is not known.
        RunError: the folder cannot be written.
    """
    store, keys = _keys(cache, encoder, samples)
    kept = Store(folder, store.folder.name, store.about, budget)
    there = kept.find(keys)
    count, room = sum(found is not None for found in there), budget - folder_bytes(folder)
    pending: list[CachedSample] = []
    for key, old, found in zip(keys, there, store.find(keys)):
        if old is not None or found is None:
            continue
        sample = _copy(key, *found)
        if sample.nbytes > room:
            break
        room -= sample.nbytes
        pending.append(sample)
        if sum(some.nbytes for some in pending) > SHARD_BYTES:
            _write(kept, pending)
            count, pending = count + len(pending), []
    if pending:
        _write(kept, pending)
    return count + len(pending)


def take_back(cache: FeatureCache, folder: Path) -> None:
    """Give the cache the tokens that ``keep_tokens`` wrote into a folder. A cache that can't be written stays as it is.

    Stores of the cache that are open must be refreshed; ``has_tokens`` does.
    """
    for file in folder.glob("*/*.shard"):
        target = cache.folder / file.parent.name / file.name
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                link(file, target)
            os.utime(target)  # as if it was just used: else it is the first one to be deleted


def delete_tokens(cache: FeatureCache, encoder: Encoder, samples: Sequence[Any], views: int, seed: int) -> int:
    """Delete the tokens of samples of one modality from the cache's folder, in all views.

    A file of the cache is never changed, so one that holds such tokens is replaced by one without them.

    Args:
        cache: the cache.
        encoder: the encoder that made the tokens.
        samples: the samples.
        views: views of each sample.
        seed: of the random views.

    Returns:
        The number of deleted tokens of a sample and view.

    Raises:
        MediaError: a file is gone, and its content is not known.
        RunError: the folder cannot be written.
    """
    spec = adjust(encoder.spec(samples[0].modality), cache.media)
    # The content that was learned counts, and not what the file holds today.
    contents = [
        bytes.fromhex(s.sha256) if getattr(s, "sha256", "") else cache.contents.digests([s])[0] for s in samples
    ]
    gone: set[bytes] = set()
    for view in range(views):
        gone.update(sample_keys(samples, contents, spec, view=view, seed=seed))
    store, count = cache.store(encoder, spec), 0
    for file in sorted(store.folder.glob("*.shard")):
        try:
            keys = [bytes(key) for key in read_keys(file)]
            kept = [row for row, key in enumerate(keys) if key not in gone]
            if len(kept) == len(keys):
                continue
            shard = Shard.open(file, verify=True)
            if kept:
                _write(store, [_copy(keys[row], shard, row) for row in kept])
            file.unlink()
        except Damaged:
            continue  # the store deletes it when it is next read
        except OSError as fault:
            raise RunError(f"{file}: can't be replaced ({fault.strerror}); delete it to be rid of its tokens") from None
        count += len(keys) - len(kept)
    return count


def link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it where the disk can't. For files that are replaced and never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all kept tokens in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*/*.shard"))


def _keys(cache: FeatureCache, encoder: Encoder, samples: Sequence[Any]) -> tuple[Store, list[bytes]]:
    """Return the cache's store of the samples' modality, and the keys of their plain views."""
    spec = adjust(encoder.spec(samples[0].modality), cache.media)
    return cache.store(encoder, spec), sample_keys(samples, cache.contents.digests(samples), spec, view=0, seed=0)


def _copy(key: bytes, shard: Shard, row: int) -> CachedSample:
    start, end = shard.starts[row : row + 2]
    mask = None if shard.mask is None else shard.mask[start:end]
    return CachedSample(key, shard.tokens[start:end], shard.query[row], mask)


def _write(store: Store, samples: Sequence[CachedSample]) -> None:
    try:
        store.describe()
        write_new_file(store.folder, ".shard", pack(samples))
    except OSError as fault:
        raise RunError(f"{store.folder}: can't be written ({fault.strerror}); make room, or keep no tokens") from None
