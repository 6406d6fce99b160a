"""Tokens of many samples that stay where the trunk cache keeps them until a batch asks for its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.encoders.base import Rows, Tokens
from mmcl_fast.feature_cache.shard import Row, Shard

ALONE = -1  # in place of a shard's number: the sample is kept nowhere


class StoredTokens(Tokens):
    """``Tokens`` whose rows lie in shards (mapped files, or memory); indexing copies the rows asked for.

    A shorter sample is padded with zeros, and masked, to the longest of all. ``query`` is in memory; ``tokens`` and
    ``mask`` of all rows are made when asked for.

    Args:
        shards: those in use; they stay open as long as this object.
        shard, row: ``[n]`` int32: each sample's shard (its place in ``shards``, or ALONE) and its row in it.
        lengths: ``[n]`` int64, tokens of each sample.
        query: ``[n, Dq]`` float32.
        width: d.
        masked: whether there is a mask.
        device: where rows go.
        compute: positions -> their Rows, for samples that are kept nowhere.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        shard: np.ndarray,
        row: np.ndarray,
        lengths: np.ndarray,
        query: Tensor,
        *,
        width: int,
        masked: bool,
        device: torch.device,
        compute: Callable[[list[int]], list[Row]],
    ):
        self._shards, self._shard, self._row, self._lengths = list(shards), shard, row, lengths
        self.query, self._width, self._masked, self._compute = query.to(device), width, masked, compute
        self._device, self._longest = device, int(lengths.max())
        self._all = torch.arange(len(shard))

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def nbytes(self) -> int:
        """Of all rows, as if they were in memory."""
        return len(self) * self._longest * self._width * 2 + self.query.numel() * 4

    @property
    def tokens(self) -> Tensor:
        return self[:].tokens

    @property
    def mask(self) -> Tensor | None:
        if not self._masked:
            return None
        mask = torch.zeros(len(self), self._longest, dtype=torch.bool)
        self._fill(self._all.numpy(), None, mask.numpy())
        return mask.to(self._device)

    def __getitem__(self, rows: Rows) -> Tokens:
        if isinstance(rows, Tensor):
            rows = rows.cpu()
        where = self._all[rows]
        tokens, mask = self._gather(where.reshape(-1).numpy())
        shape = where.shape
        return Tokens(
            tokens.view(*shape, *tokens.shape[1:]),
            self.query[rows],
            None if mask is None else mask.view(*shape, self._longest),
        )

    def to(self, device: torch.device | str) -> Tokens:
        if torch.device(device) == self._device:
            return self
        return StoredTokens(
            self._shards,
            self._shard,
            self._row,
            self._lengths,
            self.query,
            width=self._width,
            masked=self._masked,
            device=torch.device(device),
            compute=self._compute,
        )

    def whole(self) -> Tokens:
        """All rows on the device, as plain tensors."""
        out = torch.empty(len(self), self._longest, self._width, dtype=torch.bfloat16, device=self._device)
        for start in range(0, len(self), 256):
            out[start : start + 256] = self[start : start + 256].tokens
        return Tokens(out, self.query, self.mask)

    def _gather(self, where: np.ndarray) -> tuple[Tensor, Tensor | None]:
        even = bool((self._lengths[where] == self._longest).all()) and not self._masked
        shape, pinned = (len(where), self._longest), self._device.type == "cuda"
        out = (torch.empty if even else torch.zeros)(*shape, self._width, dtype=torch.int16, pin_memory=pinned)
        mask = torch.zeros(shape, dtype=torch.bool) if self._masked else None
        self._fill(where, out.numpy(), None if mask is None else mask.numpy())
        out = out.view(torch.bfloat16).to(self._device, non_blocking=True)
        return out, None if mask is None else mask.to(self._device)

    def _fill(self, where: np.ndarray, out: np.ndarray | None, mask: np.ndarray | None) -> None:
        """Rows of ``out`` and ``mask``, one copy for neighbours in a shard whose samples all have the full length."""
        shard, row = self._shard[where], self._row[where]
        joins = np.flatnonzero((np.diff(shard) != 0) | (np.diff(row) != 1)) + 1
        alone: list[int] = []
        for first, last in zip([0, *joins.tolist()], [*joins.tolist(), len(where)]):
            if first == last:
                continue
            if shard[first] == ALONE:
                alone += range(first, last)
                continue
            source, r = self._shards[shard[first]], int(row[first])
            if source.even == self._longest and mask is None:
                begin = int(source.starts[r])
                if out is not None:
                    out[first:last] = source.tokens[begin : begin + (last - first) * self._longest].reshape(
                        last - first, self._longest, self._width
                    )
                continue
            for slot in range(first, last):
                begin, end = int(source.starts[r + slot - first]), int(source.starts[r + slot - first + 1])
                if out is not None:
                    out[slot, : end - begin] = source.tokens[begin:end]
                if mask is not None:
                    mask[slot, : end - begin] = source.mask[begin:end]
        if alone:
            for slot, found in zip(alone, self._compute(where[alone].tolist())):
                if out is not None:
                    out[slot, : len(found.tokens)] = found.tokens
                if mask is not None:
                    mask[slot, : len(found.tokens)] = found.mask
