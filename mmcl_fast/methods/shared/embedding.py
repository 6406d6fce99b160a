"""Embeddings z of many samples without gradient, computed again only where something that they depend on changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary, ref

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Encoder, Tokens

BATCH = 32  # samples of a head pass without gradient


class Head(Protocol):
    """The part of an encoder above the cut, or a wrapper of it that takes another form of prompt."""

    dim: int

    @property
    def device(self) -> torch.device: ...

    def head(self, tokens: Tokens, prefix: Tensor | None, modality: str, /) -> Tensor: ...


def unit_query(tokens: Tokens) -> Tensor:
    """Return the queries as unit rows q / |q|, ``[B, Dq]`` float32: samples of all towers on one scale."""
    return F.normalize(tokens.query.float(), dim=-1)


def mix(prompts: Sequence[Tensor], shares: Tensor) -> Tensor | None:
    """Return the blend sum_k share_k P_k.

    The sum runs term by term: then equal shares give equal bits, whatever the other samples' shares are.

    Args:
        prompts: K prompts of one shape, such as prefixes ``[J, 2, L, d]``.
        shares: ``[n, K]``, or ``[K]`` for all samples.

    Returns:
        ``[n, *shape]`` or ``[*shape]``; None for K = 0.
    """
    out = None
    for prompt, share in zip(prompts, shares.unbind(-1)):
        term = share.view(*share.shape, *[1] * prompt.dim()) * prompt
        out = term if out is None else out + term
    return out


def merge_equal_rows(shares: Tensor) -> Tensor:
    """Return ``[K]`` for shares ``[n, K]`` whose rows are all the same, so that one blend serves all samples."""
    return shares[0] if len(shares) and bool((shares == shares[:1]).all()) else shares


def embed_all(
    encoder: Head,
    tokens: Tokens,
    modality: str,
    prompts: Sequence[Tensor] = (),
    shares: Tensor | None = None,
    *,
    rows: Tensor | None = None,
    one_batch: bool = False,
) -> Tensor:
    """Compute z of many samples without gradient, ``[n, D]``.

    Without ``one_batch`` all batches have the same size; the last one is filled up. Then z of a sample is the same bits
    whatever the other samples are. Several processes compute some of the batches each, and all of them get all rows.

    Args:
        encoder: the head.
        tokens: the trunk's output of the samples.
        modality: of the samples.
        prompts: K prompts; none: a bare head.
        shares: ``[n, K]`` or ``[K]``, the weight of each prompt; None: 1 for the one prompt.
        rows: only these samples, in this order; None: all.
        one_batch: all samples in one batch of any size, by this process alone, as an exported graph computes them.
            ``rows`` is ignored, and gradients are not switched off.
    """
    if shares is None:
        shares = torch.ones(len(prompts), device=encoder.device)
    if one_batch:
        return encoder.head(tokens, mix(prompts, shares), modality)
    rows = torch.arange(len(tokens), device=tokens.device) if rows is None else rows.to(tokens.device)
    if shares.dim() == 2:
        shares = merge_equal_rows(shares)
    out = [torch.empty(0, encoder.dim, device=encoder.device)]
    batches = rows.split(BATCH) if len(rows) else ()
    batches_of_rank = distributed.shard_ranges(len(batches))
    numbers = batches_of_rank[distributed.rank()]
    with torch.no_grad():
        for batch in batches[numbers.start : numbers.stop]:
            count = len(batch)
            batch = torch.cat([batch, batch[-1:].expand(BATCH - count)])  # libraries choose kernels by batch size
            prefix = mix(prompts, shares if shares.dim() == 1 else shares[batch.to(shares.device)])
            out.append(encoder.head(tokens[batch], prefix, modality)[:count])
    counts = [sum(len(batches[i]) for i in some) for some in batches_of_rank]
    return distributed.all_gather_rows(torch.cat(out), counts)


@dataclass
class _CachedEmbeddings:
    """z ``[n, D]``, and what it was computed under: digests of prompts, and each prompt's shares ``[n]``."""

    digests: dict[str, bytes]
    shares: dict[str, Tensor]
    z: Tensor

    def valid_rows(self, digests: dict[str, bytes], shares: dict[str, Tensor]) -> Tensor:
        """Return ``[n]`` bool: the rows that come out the same under other prompts and shares.

        A row does where its shares are the same bits, and the prompts whose share is not 0 are unchanged.
        """
        rows = torch.ones(len(self.z), dtype=torch.bool, device=self.z.device)
        for name in digests.keys() | self.digests.keys():
            old, new = self.shares.get(name), shares.get(name)
            if digests.get(name) == self.digests.get(name):
                rows &= old == new
            else:
                for share in (old, new):
                    if share is not None:
                        rows &= share == 0
        return rows


class EmbeddingCache:
    """Embeddings of sets of samples, kept for as long as a set's ``Tokens`` object lives. Each method owns one.

    Attributes:
        tracing: a graph is being traced for export: nothing is kept or looked up, and all samples are one batch.
    """

    def __init__(self) -> None:
        self.tracing = False
        self._cached: WeakKeyDictionary[Tokens, dict[str, _CachedEmbeddings]] = WeakKeyDictionary()
        self._digests: dict[str, tuple[ref[Tensor], int, bytes]] = {}  # of the prompt last used under a name

    @contextmanager
    def trace(self) -> Iterator[None]:
        """Inside, ``tracing`` is True."""
        self.tracing = True
        try:
            yield
        finally:
            self.tracing = False

    def _digest(self, name: str, prompt: Tensor) -> bytes:
        """Return the digest of a prompt's bits."""
        known = self._digests.get(name)
        # A tensor's version counts writes to it: the digest is taken again for another tensor or after a write.
        if known is None or known[0]() is not prompt or known[1] != prompt._version:
            bits = prompt.detach().cpu().contiguous().view(torch.uint8).numpy()
            known = self._digests[name] = ref(prompt), prompt._version, hashlib.sha256(bits.data).digest()
        return known[2]

    def embed(
        self, encoder: Head, tokens: Tokens, modality: str, prompts: Mapping[str, Tensor], shares: Tensor, slot: str
    ) -> Tensor:
        """Return z of all samples without gradient, ``[n, D]`` float32: the same bits whether computed or looked up.

        Args:
            encoder: the head.
            tokens: the trunk's output of n samples.
            modality: of the samples.
            prompts: name -> prompt, such as a prefix ``[J, 2, L, d]``; none: a bare head.
            shares: ``[n, K]``, the weight of each prompt for each sample, in the order of ``prompts``.
            slot: the result replaces the one kept under this name for the same tokens; all slots are looked up.
        """
        if self.tracing:
            return embed_all(encoder, tokens, modality, list(prompts.values()), shares, one_batch=True)
        digests = {name: self._digest(name, p) for name, p in prompts.items()}
        columns = {name: shares[:, k] for k, name in enumerate(prompts)}
        slots = self._cached.setdefault(tokens, {})
        z = torch.empty(len(tokens), encoder.dim, device=encoder.device)
        missing = torch.ones(len(tokens), dtype=torch.bool, device=encoder.device)
        for cached in slots.values():  # a sample may be found in any slot
            found = missing & cached.valid_rows(digests, columns)
            z[found] = cached.z[found]
            missing &= ~found
        rows = missing.nonzero().flatten()
        if len(rows):
            z[rows] = embed_all(encoder, tokens, modality, list(prompts.values()), shares, rows=rows)
        slots[slot] = _CachedEmbeddings(digests, columns, z)
        return z

    def embed_with_prompt(self, encoder: Head, tokens: Tokens, modality: str, prompt: Tensor | None = None) -> Tensor:
        """Return z under one prompt for all samples, ``[n, D]``; without a prompt, of the bare head."""
        if self.tracing:
            return encoder.head(tokens, prompt, modality)
        prompts = {} if prompt is None else {"prompt": prompt}
        shares = torch.ones(len(tokens), len(prompts), device=encoder.device)
        return self.embed(encoder, tokens, modality, prompts, shares, "one prompt")

    def cosine_scores(
        self, encoder: Encoder, tokens: Tokens, modality: str, texts: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """Return s cos(z, T) ``[n, C]``, with s the encoder's logit scale and z under one prompt or none.

        Args:
            encoder: the encoder.
            tokens: the trunk's output of n samples.
            modality: of the samples.
            texts: T ``[C, D]``, unit rows.
            prompt: for all samples; None: a bare head.
        """
        z = self.embed_with_prompt(encoder, tokens, modality, prompt)
        return encoder.logit_scale * F.normalize(z, dim=-1) @ texts.T
