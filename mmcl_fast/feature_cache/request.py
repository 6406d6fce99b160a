"""One request to the trunk cache: keys, what the store has, and the decoding and trunk passes for the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.feature_cache.keys import sample_keys
from mmcl_fast.feature_cache.shard import Row, Shard
from mmcl_fast.feature_cache.stored_tokens import ALONE, StoredTokens
from mmcl_fast.media import loader
from mmcl_fast.media.spec import adjust

if TYPE_CHECKING:
    from mmcl_fast.feature_cache.cache import TrunkCache

BLOCK = 4096  # samples looked up at once
SHARD_ROWS = 512  # of a shard at most,
SHARD_BYTES = 64 << 20  # or fewer that hold this much
CPU_BATCH, BATCH = 8, 32  # samples per trunk pass

Advance = Callable[[int], None]


class Request:
    """Where each of ``views`` x n rows is, view after view; see ``TrunkCache.tokens``."""

    def __init__(self, cache: TrunkCache, encoder: Encoder, samples: Sequence[Any], views: int, seed: int):
        self.cache, self.encoder, self.samples, self.views, self.seed = cache, encoder, samples, views, seed
        self.modality = samples[0].modality
        self.spec = adjust(encoder.spec(self.modality), cache.media)
        self.store, self.digest = cache.store(encoder), hashlib.sha256(str(encoder.device).encode())
        count = views * len(samples)
        self.shards: list[Shard] = []
        self._numbers: dict[int, int] = {}  # id of a shard -> its place in shards
        self.shard, self.row = np.full(count, ALONE, np.int32), np.zeros(count, np.int32)
        self._alone: dict[int, tuple[np.ndarray, tuple[int, ...], bool]] = {}  # position -> query, tokens' shape, mask?
        self._pending: dict[bytes, tuple[Row, list[int]]] = {}
        self._pending_bytes = 0

    def run(self, advance: Advance | None) -> None:
        """Find or compute everything. Raises MediaError."""
        advance = advance or (lambda count: None)
        for view in range(self.views):
            for start in range(0, len(self.samples), BLOCK):
                self._block(view * len(self.samples) + start, self.samples[start : start + BLOCK], view, advance)

    def _block(self, start: int, samples: Sequence[Any], view: int, advance: Advance) -> None:
        keys = sample_keys(
            samples,
            self.cache.contents.of(samples),
            self.spec,
            self.cache.backend(self.encoder.device, self.spec),
            view=view,
            seed=self.seed,
        )
        self.digest.update(b"".join(keys))
        missing = self._find(start, keys, range(len(keys)))
        if missing:  # another process may have written them since
            self.store.refresh()
            missing = self._find(start, keys, missing)
        wanted: dict[bytes, list[int]] = {}
        for i in missing:
            where = self._pending[keys[i]][1] if keys[i] in self._pending else wanted.setdefault(keys[i], [])
            where.append(start + i)
        advance(len(keys) - len(wanted))
        if wanted:
            chosen = [samples[where[0] - start] for where in wanted.values()]
            for key, row in zip(wanted, self._compute(chosen, view, advance, list(wanted))):
                self._add(row, wanted[key])

    def _find(self, start: int, keys: list[bytes], of: Sequence[int]) -> list[int]:
        """Takes what the store has; returns which of the block it has not."""
        missing = []
        for i, found in zip(of, self.store.find([keys[i] for i in of])):
            if found is None:
                missing.append(i)
            else:
                self.shard[start + i], self.row[start + i] = self._number(found[0]), found[1]
        return missing

    def _number(self, shard: Shard) -> int:
        if id(shard) not in self._numbers:
            self._numbers[id(shard)] = len(self.shards)
            self.shards.append(shard)
        return self._numbers[id(shard)]

    def _compute(self, samples: Sequence[Any], view: int, advance: Advance, keys: Sequence[bytes]) -> Iterator[Row]:
        """Decodes samples and runs the trunk: full batches of one size, texts one by one."""
        device = self.encoder.device
        batch = self.cache.batch or (CPU_BATCH if device.type == "cpu" else BATCH)
        batches = loader(
            samples, self.spec, device, workers=self.cache.workers, batch_size=batch, view=view, seed=self.seed
        )
        for indices, decoded in batches:
            if isinstance(decoded, Tensor):
                spare = decoded[-1:].expand(batch - len(indices), *decoded.shape[1:])
                parts = [self.encoder.trunk(torch.cat([decoded, spare]) if len(spare) else decoded, self.modality)]
            else:
                parts = [self.encoder.trunk([text], self.modality) for text in decoded]
            outputs = (output for part in parts for output in _rows(part))
            for index, (tokens, query, mask) in zip(indices, outputs):
                yield Row(keys[index], tokens, query, mask)
            advance(len(indices))

    def _add(self, row: Row, where: list[int]) -> None:
        self._pending[row.key] = row, where
        self._pending_bytes += row.nbytes
        if len(self._pending) >= SHARD_ROWS or self._pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Give what was computed to the cache as a shard."""
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes = list(self._pending.values()), {}, 0
        shard = self.cache.save(self.store, [row for row, _ in pending])
        for n, (row, where) in enumerate(pending):
            if shard is None:
                bare = row.query, row.tokens.shape, row.mask is not None
                self._alone.update(dict.fromkeys(where, bare))
            else:
                self.shard[where], self.row[where] = self._number(shard), n

    def result(self) -> StoredTokens:
        """The rows as one object. Samples that are kept nowhere are computed again when it is asked for them."""
        shapes = [(s.tokens.shape[1], s.query.shape[1], s.mask is not None) for s in self.shards]
        shapes += [(shape[1], len(query), masked) for query, shape, masked in self._alone.values()]
        width, dim, masked = max(shapes)
        query, lengths = np.empty((len(self.row), dim), np.float32), np.empty(len(self.row), np.int64)
        order = np.argsort(self.shard, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(self.shard[order])) + 1):
            number, rows = self.shard[mine[0]], self.row[mine]
            if number != ALONE:
                query[mine] = self.shards[number].query[rows]
                lengths[mine] = np.diff(self.shards[number].starts)[rows]
        for i, (row_query, shape, _) in self._alone.items():
            query[i], lengths[i] = row_query, shape[0]
        return StoredTokens(
            self.shards,
            self.shard,
            self.row,
            lengths,
            torch.from_numpy(query),
            width=width,
            masked=masked,
            device=self.encoder.device,
            compute=self._again,
        )

    def _again(self, where: list[int]) -> list[Row]:
        out: dict[int, Row] = {}
        for view in range(self.views):
            mine = [i for i in dict.fromkeys(where) if i // len(self.samples) == view]
            samples = [self.samples[i % len(self.samples)] for i in mine]
            rows = self._compute(samples, view, lambda count: None, [b""] * len(mine)) if mine else ()
            out.update(zip(mine, rows))
        return [out[i] for i in where]


def _rows(out: Tokens) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Tokens (int16, up to the last real one), query and mask of each sample of a batch."""
    tokens = out.tokens.bfloat16().cpu().contiguous().view(torch.int16).numpy()
    query = out.query.float().cpu().numpy()
    masks = None if out.mask is None else out.mask.cpu().numpy()
    for i in range(len(tokens)):
        if masks is None:
            yield tokens[i], query[i], None
        else:
            end = int(np.flatnonzero(masks[i])[-1]) + 1
            yield tokens[i, :end], query[i], masks[i, :end]
