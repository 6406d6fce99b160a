"""Embeddings of many samples without gradient, computed again only where something in them changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
    """An encoder, or what takes other prompts to its head."""

    dim: int

    @property
    def device(self) -> torch.device: ...

    def head(self, tokens: Tokens, prefix: Tensor | None, modality: str, /) -> Tensor: ...


def unit_query(tokens: Tokens) -> Tensor:
    """q / |q|, ``[B, Dq]`` float32: samples of all towers on one scale."""
    return F.normalize(tokens.query.float(), dim=-1)


def mix(prompts: Sequence[Tensor], shares: Tensor) -> Tensor | None:
    """sum_k share_k P_k, term by term, so that equal shares give equal bits whatever they lie beside.

    Args:
        prompts: K prefixes ``[J, 2, L, d]``.
        shares: ``[n, K]``, or ``[K]`` for all samples.

    Returns:
        ``[n, J, 2, L, d]`` or ``[J, 2, L, d]``; None for K = 0.
    """
    out = None
    for prompt, share in zip(prompts, shares.unbind(-1)):
        term = share.view(*share.shape, *[1] * prompt.dim()) * prompt
        out = term if out is None else out + term
    return out


def exporting() -> bool:
    """Whether a graph is being traced, for one batch of any size: no reuse, no branch on values."""
    return torch.compiler.is_exporting()


def alike(shares: Tensor) -> Tensor:
    """``[n, K]`` -> ``[K]`` where all rows are the same, so that one prefix serves all."""
    return shares[0] if len(shares) and bool((shares == shares[:1]).all()) else shares


def embed_all(
    encoder: Head,
    tokens: Tokens,
    modality: str,
    prompts: Sequence[Tensor] = (),
    shares: Tensor | None = None,
    *,
    rows: Tensor | None = None,
) -> Tensor:
    """z of many samples without gradient, ``[n, D]``.

    Batches have one size, the last one filled up, so that z of a sample is the same bits beside any others. Several
    processes compute some of the batches each, and all get all rows.

    Args:
        prompts: K prefixes; none: a bare head.
        shares: ``[n, K]`` or ``[K]``; None: 1 for the one prompt.
        rows: only these samples, in this order; None: all.
    """
    if shares is None:
        shares = torch.ones(len(prompts), device=encoder.device)
    if exporting():
        return encoder.head(tokens, mix(prompts, shares), modality)
    rows = torch.arange(len(tokens), device=tokens.device) if rows is None else rows.to(tokens.device)
    if shares.dim() == 2:
        shares = alike(shares)
    out = [torch.empty(0, encoder.dim, device=encoder.device)]
    parts = rows.split(BATCH) if len(rows) else ()
    shared = distributed.shard_ranges(len(parts))
    own = shared[distributed.rank()]
    with torch.no_grad():
        for part in parts[own.start : own.stop]:
            count = len(part)
            part = torch.cat([part, part[-1:].expand(BATCH - count)])
            prefix = mix(prompts, shares if shares.dim() == 1 else shares[part.to(shares.device)])
            out.append(encoder.head(tokens[part], prefix, modality)[:count])
    return distributed.all_gather_rows(torch.cat(out), [sum(len(parts[i]) for i in share) for share in shared])


@dataclass
class _Seen:
    """z ``[n, D]``, and the prompts and shares ``[n, K]`` that it was computed under."""

    digests: dict[str, bytes]
    shares: dict[str, Tensor]
    z: Tensor

    def same(self, digests: dict[str, bytes], shares: dict[str, Tensor]) -> Tensor:
        """``[n]`` bool: rows whose shares are the same bits, of prompts that are where those are not 0."""
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


class Reuse:
    """What was computed of sets of samples, for as long as their ``Tokens`` object lives."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[Tokens, dict[str, _Seen]] = WeakKeyDictionary()
        self._digests: dict[str, tuple[ref[Tensor], int, bytes]] = {}  # of the prompt last seen under a name

    def _digest(self, name: str, prompt: Tensor) -> bytes:
        """Of a prompt's bits; taken again only where it is another tensor or was written to since."""
        known = self._digests.get(name)
        if known is None or known[0]() is not prompt or known[1] != prompt._version:
            bits = prompt.detach().cpu().contiguous().view(torch.uint8).numpy()
            known = self._digests[name] = ref(prompt), prompt._version, hashlib.sha256(bits.data).digest()
        return known[2]

    def embed(
        self, encoder: Head, tokens: Tokens, modality: str, prompts: Mapping[str, Tensor], shares: Tensor, place: str
    ) -> Tensor:
        """z of all samples without gradient, ``[n, D]`` float32; the same bits whether computed now or before.

        Args:
            prompts: name -> P ``[J, 2, L, d]``; none: a bare head.
            shares: ``[n, K]``, the weight of each prompt for each sample, in the order of ``prompts``.
            place: results are kept once for each set and place, and found from any.
        """
        if exporting():
            return embed_all(encoder, tokens, modality, list(prompts.values()), shares)
        digests = {name: self._digest(name, p) for name, p in prompts.items()}
        columns = {name: shares[:, k] for k, name in enumerate(prompts)}
        known = self._seen.setdefault(tokens, {})
        z = torch.empty(len(tokens), encoder.dim, device=encoder.device)
        missing = torch.ones(len(tokens), dtype=torch.bool, device=encoder.device)
        for seen in known.values():
            found = missing & seen.same(digests, columns)
            z[found] = seen.z[found]
            missing &= ~found
        rows = missing.nonzero().flatten()
        if len(rows):
            z[rows] = embed_all(encoder, tokens, modality, list(prompts.values()), shares, rows=rows)
        known[place] = _Seen(digests, columns, z)
        return z

    def one(self, encoder: Encoder, tokens: Tokens, modality: str, prompt: Tensor | None = None) -> Tensor:
        """z under one prompt for all samples, ``[n, D]``; without one, of the bare head."""
        if exporting():
            return encoder.head(tokens, prompt, modality)
        prompts = {} if prompt is None else {"prompt": prompt}
        shares = torch.ones(len(tokens), len(prompts), device=encoder.device)
        return self.embed(encoder, tokens, modality, prompts, shares, "one")

    def cosine_scores(
        self, encoder: Encoder, tokens: Tokens, modality: str, texts: Tensor, prompt: Tensor | None = None
    ) -> Tensor:
        """s cos(z, T) under one prompt or none, ``[n, C]``; T ``[C, D]`` has unit rows."""
        return encoder.logit_scale * F.normalize(self.one(encoder, tokens, modality, prompt), dim=-1) @ texts.T
