"""One request to the feature cache: look samples up in the store, then decode and encode the missing ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.errors import MediaError
from mmcl_fast.feature_cache.content_hashes import ContentHashes
from mmcl_fast.feature_cache.keys import sample_keys
from mmcl_fast.feature_cache.shard import CachedSample, Shard
from mmcl_fast.feature_cache.store import Store
from mmcl_fast.feature_cache.stored_tokens import NOT_STORED, StoredTokens
from mmcl_fast.media import Spec, loader

LOOKUP_BLOCK = 4096  # samples that are looked up at once
SHARD_SAMPLES = 512  # a shard holds at most so many samples,
SHARD_BYTES = 64 << 20  # or fewer that hold this much

Advance = Callable[[int], None]


class Request:
    """A request for the features of n samples in ``views`` views, view after view; see ``FeatureCache.tokens``.

    ``run`` finds or computes them, ``flush`` stores the last shard, ``result`` returns them.

    Args:
        encoder: the encoder whose trunk is run.
        samples: n samples of one modality.
        spec: their preparation.
        views: the plain view and ``views - 1`` random ones.
        seed: of the random views.
        store: the store that is searched.
        contents: hashes of the samples' contents.
        save_shard: stores computed samples and returns their shard; None where there is no room.
        batch: samples per trunk pass.
        workers: decoding threads.
    """

    def __init__(
        self,
        encoder: Encoder,
        samples: Sequence[Any],
        *,
        spec: Spec,
        views: int,
        seed: int,
        store: Store,
        contents: ContentHashes,
        save_shard: Callable[[Sequence[CachedSample]], Shard | None],
        batch: int,
        workers: int,
    ):
        self.encoder, self.samples, self.spec, self.views, self.seed = encoder, samples, spec, views, seed
        self.store, self.contents, self.save_shard = store, contents, save_shard
        self.batch, self.workers = batch, workers
        # All keys in order, and the device: two requests with one digest have the same result.
        self.digest = hashlib.sha256(f"{encoder.device} {store.folder.name}".encode())
        count = views * len(samples)
        self.shards: list[Shard] = []
        self._shard_numbers: dict[int, int] = {}  # id of a shard -> its place in self.shards
        self.shard_of, self.row_of = np.full(count, NOT_STORED, np.int32), np.zeros(count, np.int32)
        self._not_stored: dict[int, tuple[np.ndarray, tuple[int, ...], bool]] = {}  # position -> query, shape, mask?
        self._pending: dict[bytes, tuple[CachedSample, list[int]]] = {}  # key -> sample, its positions
        self._pending_bytes = 0

    def run(self, advance: Advance | None) -> None:
        """Find or compute everything; ``advance`` gets the number of finished samples. Raises MediaError."""
        advance = advance or (lambda count: None)
        for view in range(self.views):
            for start in range(0, len(self.samples), LOOKUP_BLOCK):
                block = self.samples[start : start + LOOKUP_BLOCK]
                self._run_block(view * len(self.samples) + start, block, view, advance)

    def _run_block(self, start: int, samples: Sequence[Any], view: int, advance: Advance) -> None:
        contents = self.contents.digests(samples)
        keys = sample_keys(samples, contents, self.spec, view=view, seed=self.seed)
        self.digest.update(b"".join(keys))
        missing = self._find(start, keys, range(len(keys)))
        if missing:  # another process may have written them since
            self.store.refresh()
            missing = self._find(start, keys, missing)
        wanted: dict[bytes, list[int]] = {}
        for i in missing:
            positions = self._pending[keys[i]][1] if keys[i] in self._pending else wanted.setdefault(keys[i], [])
            positions.append(start + i)
        advance(len(keys) - len(wanted))
        if wanted:
            chosen = [samples[positions[0] - start] for positions in wanted.values()]
            for key, computed in zip(wanted, self._compute(chosen, view, advance, list(wanted))):
                self._add(computed, wanted[key])

    def _find(self, start: int, keys: list[bytes], indices: Sequence[int]) -> list[int]:
        """Look up some samples of a block; return the indices that the store does not have."""
        missing = []
        for i, found in zip(indices, self.store.find([keys[i] for i in indices])):
            if found is None:
                missing.append(i)
            else:
                self.shard_of[start + i], self.row_of[start + i] = self._number(found[0]), found[1]
        return missing

    def _number(self, shard: Shard) -> int:
        if id(shard) not in self._shard_numbers:
            self._shard_numbers[id(shard)] = len(self.shards)
            self.shards.append(shard)
        return self._shard_numbers[id(shard)]

    def _compute(
        self, samples: Sequence[Any], view: int, advance: Advance, keys: Sequence[bytes]
    ) -> Iterator[CachedSample]:
        """Decode samples and run the trunk over full batches of one size; texts go one by one."""
        for item in samples:
            known = str(getattr(item, "sha256", ""))
            if known and item.path is None and not item.text:
                raise MediaError(f"{item.key}: its text is not kept, and its trunk tokens are gone: give it again")
        batches = loader(
            samples,
            self.spec,
            self.encoder.device,
            workers=self.workers,
            batch_size=self.batch,
            view=view,
            seed=self.seed,
        )
        for indices, decoded in batches:
            if isinstance(decoded, Tensor):
                # A product's bits depend on its shape, so the last batch is filled up with its last item.
                spare = decoded[-1:].expand(self.batch - len(indices), *decoded.shape[1:])
                batch = torch.cat([decoded, spare]) if len(spare) else decoded
                outputs = [self.encoder.trunk(batch, self.spec.modality)]
            else:
                outputs = [self.encoder.trunk([text], self.spec.modality) for text in decoded]
            unpacked = (sample for output in outputs for sample in _split(output))
            for index, (tokens, query, mask) in zip(indices, unpacked):
                yield CachedSample(keys[index], tokens, query, mask)
            advance(len(indices))

    def _add(self, sample: CachedSample, positions: list[int]) -> None:
        self._pending[sample.key] = sample, positions
        self._pending_bytes += sample.nbytes
        if len(self._pending) >= SHARD_SAMPLES or self._pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store the computed samples that are not stored yet as one shard."""
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes = list(self._pending.values()), {}, 0
        shard = self.save_shard([sample for sample, _ in pending])
        for row, (sample, positions) in enumerate(pending):
            if shard is None:
                outline = sample.query, sample.tokens.shape, sample.mask is not None
                self._not_stored.update(dict.fromkeys(positions, outline))
            else:
                self.shard_of[positions], self.row_of[positions] = self._number(shard), row

    def result(self) -> StoredTokens:
        """Return all rows as one object. Samples that had no room are computed again when they are asked for."""
        shapes = [(s.tokens.shape[1], s.query.shape[1], s.mask is not None) for s in self.shards]
        shapes += [(shape[1], len(query), masked) for query, shape, masked in self._not_stored.values()]
        width, dim, masked = max(shapes)
        query, lengths = np.empty((len(self.row_of), dim), np.float32), np.empty(len(self.row_of), np.int64)
        order = np.argsort(self.shard_of, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(self.shard_of[order])) + 1):
            number, rows = self.shard_of[group[0]], self.row_of[group]
            if number != NOT_STORED:
                query[group] = self.shards[number].query[rows]
                lengths[group] = np.diff(self.shards[number].starts)[rows]
        for i, (sample_query, shape, _) in self._not_stored.items():
            query[i], lengths[i] = sample_query, shape[0]
        return StoredTokens(
            self.shards,
            self.shard_of,
            self.row_of,
            lengths,
            torch.from_numpy(query),
            width=width,
            masked=masked,
            device=self.encoder.device,
            compute=self._compute_again,
        )

    def _compute_again(self, positions: list[int]) -> list[CachedSample]:
        """Compute the samples at some positions of the result, in that order."""
        out: dict[int, CachedSample] = {}
        for view in range(self.views):
            chosen = [i for i in dict.fromkeys(positions) if i // len(self.samples) == view]
            samples = [self.samples[i % len(self.samples)] for i in chosen]
            computed = self._compute(samples, view, lambda count: None, [b""] * len(chosen)) if chosen else ()
            out.update(zip(chosen, computed))
        return [out[i] for i in positions]


def _split(out: Tokens) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Split a batch into (tokens up to the last real one, query, mask) for each sample.

    Tokens are the bits of bfloat16 as int16. The mask is None for a batch without masks.
    """
    tokens = out.tokens.bfloat16().cpu().contiguous().view(torch.int16).numpy()  # numpy has no bfloat16
    query = out.query.float().cpu().numpy()
    masks = None if out.mask is None else out.mask.cpu().numpy()
    for i in range(len(tokens)):
        if masks is None:
            yield tokens[i], query[i], None
        else:
            end = int(np.flatnonzero(masks[i])[-1]) + 1
            yield tokens[i, :end], query[i], masks[i, :end]
