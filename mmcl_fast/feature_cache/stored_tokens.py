"""Tokens of many samples that stay in the feature cache's shards until a batch asks for its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.encoders.base import RowIndex, Tokens
from mmcl_fast.feature_cache.shard import CachedSample, Shard

NOT_STORED = -1  # in place of a shard's number: neither the disk nor the memory had room for the sample


class StoredTokens(Tokens):
    """``Tokens`` whose rows lie in shards (mapped files, or memory); indexing copies only the indexed rows.

    Samples are padded with zeros, and masked, to the length of the longest one. ``query`` is in memory. ``tokens`` and
    ``mask`` of all rows are built at each access.

    Args:
        shards: the shards in use; they stay open as long as this object.
        shard_of: ``[n]`` int32, the place of each sample's shard in ``shards``, or NOT_STORED.
        row_of: ``[n]`` int32, each sample's row in its shard.
        lengths: ``[n]`` int64, the number of tokens of each sample.
        query: ``[n, Dq]`` float32.
        width: d of the tokens.
        masked: whether there is a mask.
        device: the device that rows are copied to.
        compute: positions -> their samples; called for samples that are not stored.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        shard_of: np.ndarray,
        row_of: np.ndarray,
        lengths: np.ndarray,
        query: Tensor,
        *,
        width: int,
        masked: bool,
        device: torch.device,
        compute: Callable[[list[int]], list[CachedSample]],
    ):
        self._shards, self._shard_of, self._row_of, self._lengths = list(shards), shard_of, row_of, lengths
        self.query, self._width, self._masked, self._compute = query.to(device), width, masked, compute
        self._device, self._longest = device, int(lengths.max())
        self._positions = torch.arange(len(shard_of))

    def __len__(self) -> int:
        return len(self._shard_of)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and queries of all rows, as if they were in memory; the mask does not count."""
        return len(self) * self._longest * self._width * 2 + self.query.numel() * 4

    @property
    def tokens(self) -> Tensor:
        return self[:].tokens

    @property
    def mask(self) -> Tensor | None:
        if not self._masked:
            return None
        mask = torch.zeros(len(self), self._longest, dtype=torch.bool)
        self._fill(self._positions.numpy(), None, mask.numpy())
        return mask.to(self._device)

    def __getitem__(self, rows: RowIndex) -> Tokens:
        if isinstance(rows, Tensor):
            rows = rows.cpu()
        positions = self._positions[rows]  # torch resolves slices, masks and negative numbers
        tokens, mask = self._gather(positions.reshape(-1).numpy())
        shape = positions.shape
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
            self._shard_of,
            self._row_of,
            self._lengths,
            self.query,
            width=self._width,
            masked=self._masked,
            device=torch.device(device),
            compute=self._compute,
        )

    def load(self) -> Tokens:
        """Copy all rows to the device, as plain tensors."""
        out = torch.empty(len(self), self._longest, self._width, dtype=torch.bfloat16, device=self._device)
        for start in range(0, len(self), 256):
            out[start : start + 256] = self[start : start + 256].tokens
        return Tokens(out, self.query, self.mask)

    def _gather(self, positions: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Copy rows to the device: tokens ``[n, N, d]`` bfloat16 and the mask ``[n, N]``."""
        all_full = bool((self._lengths[positions] == self._longest).all()) and not self._masked
        shape, pinned = (len(positions), self._longest), self._device.type == "cuda"
        out = (torch.empty if all_full else torch.zeros)(*shape, self._width, dtype=torch.int16, pin_memory=pinned)
        mask = torch.zeros(shape, dtype=torch.bool) if self._masked else None
        self._fill(positions, out.numpy(), None if mask is None else mask.numpy())
        out = out.view(torch.bfloat16).to(self._device, non_blocking=True)
        return out, None if mask is None else mask.to(self._device)

    def _fill(self, positions: np.ndarray, out: np.ndarray | None, mask: np.ndarray | None) -> None:
        """Write the rows at ``positions`` to ``out`` and ``mask``.

        Neighbours in a shard are one copy where all of the shard's samples have the full length.
        """
        shard, row = self._shard_of[positions], self._row_of[positions]
        breaks = np.flatnonzero((np.diff(shard) != 0) | (np.diff(row) != 1)) + 1
        not_stored: list[int] = []  # slots
        for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(positions)]):
            if first == last:
                continue
            if shard[first] == NOT_STORED:
                not_stored += range(first, last)
                continue
            source, r = self._shards[shard[first]], int(row[first])
            if source.common_length == self._longest and mask is None:
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
        if not_stored:
            for slot, found in zip(not_stored, self._compute(positions[not_stored].tolist())):
                if out is not None:
                    out[slot, : len(found.tokens)] = found.tokens
                if mask is not None:
                    mask[slot, : len(found.tokens)] = found.mask
